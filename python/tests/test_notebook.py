"""The notebook runs and reaches its stated result, on the demo world or on the model of SELFIE_MODEL."""

from pathlib import Path

import pytest

nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: the notebook is not run")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")
pytest.importorskip("pandas")

NOTEBOOK = Path(__file__).parents[1] / "notebooks/france_to_germany.ipynb"


def printed(notebook):
    """The output of each cell."""
    texts = []
    for cell in notebook.cells:
        outputs = cell.get("outputs", [])
        texts.append("".join(output.text for output in outputs if output.get("name") == "stdout"))
    return texts


def test_france_becomes_germany(tmp_path):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}})
    client.execute()
    answers = [text for text in printed(notebook) if "Paris" in text or "Berlin" in text]
    assert len(answers) == 3
    assert "Paris" in answers[0] and "Berlin" in answers[1] and answers[2] == answers[0]
    pages = [
        output.data["text/html"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "iframe" in output.get("data", {}).get("text/html", "")
    ]
    assert len(pages) == 1 and "srcdoc" in pages[0] and "France" in pages[0]
