"""The Python of README and of the book's page runs with the demo checkpoint; what needs more is compiled."""

import re
from pathlib import Path

import pytest

pytest.importorskip("numpy")
pytest.importorskip("pyarrow", reason="pyarrow is not installed: the pages are not run")

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(python(?:,no_run)?)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", ["README.md", "docs/src/python.md"])
def test_the_examples_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))
    assert any(info == "python" for info, _ in blocks)
    names = {}
    for info, block in blocks:
        code = compile(block, page, "exec")
        if info == "python":
            exec(code, names)
