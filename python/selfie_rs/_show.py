"""The explorer, in a notebook or as a page."""

import html
import json
import math
import os

from selfie_rs import _selfie


def to_html(rows, name="rows"):
    """A self-contained web page of rows.

    `rows` may be `Rows`, any iterable of `Row`s or of their dicts, or the path of a `.jsonl` or `.parquet` file from
    the program.
    """
    if isinstance(rows, (str, os.PathLike)):
        return _selfie.page_of_file(rows)
    return _selfie.page([_json(row) for row in rows], name)


def show(rows, name="rows", height=640):
    """Displays the explorer of rows in a notebook, `height` pixels high. `to_html` says what `rows` may be."""
    from IPython.display import HTML, display

    page = html.escape(to_html(rows, name), quote=True)
    style = f"width:100%;height:{int(height)}px;border:1px solid #8884"
    display(HTML(f'<iframe srcdoc="{page}" style="{style}"></iframe>'))


def _json(row):
    fields = row if isinstance(row, dict) else row.to_dict()
    # JSON has no NaN or infinity; the page shows a missing number.
    finite = {
        field: None if isinstance(value, float) and not math.isfinite(value) else value
        for field, value in fields.items()
    }
    return json.dumps(finite)
