"""Fails if README, ARCHITECTURE or a page of the book names a file, a page or a heading that does not exist.

Links are checked with their anchors. Paths in code font are checked if they begin with a top-level folder."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "docs/src"
PATH = re.compile(r"`((?:crates|kernels|docs|benches|python|xtask|fuzz|\.ci)/[^`\s]*)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")


def main():
    pages = sorted(BOOK.rglob("*.md"))
    others = [ROOT / name for name in ["README.md", "ARCHITECTURE.md", "kernels/README.md", "python/README.md"]]
    problems = [problem for page in pages + others for problem in problems_of(page)]
    listed = {(BOOK / link).resolve() for link in LINK.findall((BOOK / "SUMMARY.md").read_text())}
    problems += [f"{page}: not in SUMMARY.md" for page in pages if page.name != "SUMMARY.md" and page not in listed]
    for problem in problems:
        print(problem, file=sys.stderr)
    sys.exit(bool(problems))


def problems_of(page):
    text = without_code(page.read_text())
    for link in LINK.findall(text):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists():
            yield f"{page}: no file {link}"
        elif anchor and anchor not in anchors(target):
            yield f"{page}: no heading {link}"
        elif BOOK in page.parents and BOOK not in target.parents:
            yield f"{page}: {link} is not in the book, so its link is dead there"
    for path in PATH.findall(text):
        if not (ROOT / path).exists():
            yield f"{page}: no file {path}"


def without_code(text):
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(page):
    """The anchors that mdBook and GitHub give headings."""
    headings = re.findall(r"^#+ (.*)", without_code(page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


if __name__ == "__main__":
    main()
