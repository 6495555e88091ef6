"""Generated blocks of documents, between two marks."""

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main(doc: str, files: Iterable[Path], name: str, block: Callable[[], str]) -> int:
    """The command line of a script that writes the block `name` into documents.

    With `--check` nothing is written; the exit status says whether every block is up to date.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, compare only")
    check = parser.parse_args().check
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    new, stale = block(), []
    for file in files:
        text = file.read_text(encoding="utf-8")
        before, rest = text.split(begin)
        _, after = rest.split(end)
        if (updated := f"{before}{begin}\n{new}\n{end}{after}") != text:
            stale.append(str(file.relative_to(ROOT)))
            if not check:
                file.write_text(updated, encoding="utf-8")
    if stale:
        print(("stale: " if check else "written: ") + ", ".join(stale))
    return 1 if stale and check else 0
