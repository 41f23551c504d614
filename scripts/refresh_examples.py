"""Writes below the pages' examples what they print now: ``python scripts/refresh_examples.py``.

For releases whose numbers differ from those before; what has not changed stays as it is. Read the difference
before it is committed: an example may have stopped to show what the text around it says.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "server"))

from running_server import MODEL, SETTINGS, start_server
from snippets import PAGES, Snippet, comparable, run, snippets


def refresh(snippet: Snippet, url: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        printed = run(snippet, url, Path(folder)).strip() + "\n"
    if comparable(printed) == comparable(snippet.output):
        return
    page = snippet.page.read_text(encoding="utf-8")
    start = page.index(snippet.code)
    at = page.index(f"\n{snippet.output}```", start) + 1
    snippet.page.write_text(
        page[:at] + printed + page[at + len(snippet.output) :], encoding="utf-8"
    )
    print(f"{snippet}: another output")


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    server = start_server(MODEL, *SETTINGS)
    try:
        for page in PAGES:
            for snippet in snippets(page):
                refresh(snippet, server.url)
    finally:
        server.process.terminate()
        server.process.wait(20)


if __name__ == "__main__":
    main()
