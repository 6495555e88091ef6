"""Runs the Python of Markdown pages, block after block, as a reader would.

    KERAS_BACKEND=torch python docs/blocks.py PAGE...

The blocks of a page share their names and a new folder. A block with `>>>` must print what it
says. A page that needs a backend says so by a comment, `<!-- backend: jax -->`; one that the tests
are to run in a process of its own by `<!-- process: own -->`.
"""

import contextlib
import doctest
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def blocks(text: str) -> Iterator[tuple[int, str]]:
    """Number of the first line, and the lines of a block."""
    for found in BLOCK.finditer(text):
        yield text.count("\n", 0, found.start(1)) + 1, found.group(1)


def wanted(text: str, word: str) -> str | None:
    """What the comment `<!-- word: ... -->` of a page says."""
    found = re.search(rf"<!-- {word}: (\S+) -->", text)
    return found.group(1) if found else None


def run_page(page: Path) -> int:
    """Runs the blocks of a page and returns their number."""
    text, names = page.read_text(encoding="utf-8"), {"__name__": "__main__"}
    found = list(blocks(text))
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for line, code in found:
            if ">>> " in code:
                test = doctest.DocTestParser().get_doctest(code, names, page.name, str(page), line)
                failed = (
                    doctest.DocTestRunner(optionflags=FLAGS).run(test, clear_globs=False).failed
                )
                assert not failed, f"{page}, line {line}"
                names |= test.globs
            else:
                exec(compile("\n" * (line - 1) + code, str(page), "exec"), names)
    return len(found)


if __name__ == "__main__":
    os.environ.setdefault("KERAS_BACKEND", "jax")
    for name in sys.argv[1:]:
        print(f"{name}: {run_page(Path(name).resolve())} blocks")
