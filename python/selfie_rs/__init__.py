"""Read, in words, what a LLaMA holds at each layer and token, and change it (SelfIE, arXiv 2403.10949).

    import selfie_rs

    model = selfie_rs.Model.open("path/to/model")          # a folder, a GGUF file, or org/name in the local cache
    rows = model.interpret("The Colosseum is in the city of", layers=range(4, 12), tokens=[-1])
    for row in rows:                                        # each row as soon as it is done
        print(row.layer, row.interpretation)
    rows.to_pandas()
    selfie_rs.show(rows)                                    # the explorer, in a notebook

`interpret`, `interpret_vectors` and `InterpretationPrompt` match the Python package of SelfIE.
"""

from selfie_rs import control
from selfie_rs._selfie import (
    Edit,
    Model,
    Outcome,
    Row,
    Rows,
    Text,
    Token,
    Trace,
    __version__,
)
from selfie_rs._show import show, to_html
from selfie_rs.interpret import InterpretationPrompt, interpret, interpret_vectors

__all__ = [
    "Edit",
    "InterpretationPrompt",
    "Model",
    "Outcome",
    "Row",
    "Rows",
    "Text",
    "Token",
    "Trace",
    "__version__",
    "control",
    "interpret",
    "interpret_vectors",
    "show",
    "to_html",
]
