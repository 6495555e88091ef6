"""The Python of every page runs: on PyTorch, or on the backend that the page names."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from keras_struct.ops import dispatch
from keras_struct.ops.testing import BACKEND

FOLDER = Path(__file__).parent


def load(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


blocks = load("blocks")
PAGES = sorted(page for page in FOLDER.rglob("*.md") if blocks.BLOCK.search(page.read_text()))


def test_includes_and_their_links_exist():
    """As the site takes them in, which fails for a section or a file that is not there."""
    pages = load("site_pages")
    found = 0
    for page in FOLDER.rglob("*.md"):
        source = [page.read_text(encoding="utf-8")]
        found += len(pages.INCLUDE.findall(source[0]))
        pages.expand(None, page.relative_to(FOLDER).with_suffix("").as_posix(), source)
        assert not pages.INCLUDE.search(source[0])
    assert found > 30
    assert all((pages.ROOT / file).exists() for file in pages.PAGES)
    assert all((FOLDER / f"{page}.md").exists() for page in pages.PAGES.values())


def test_notebooks_hold_the_text_and_the_code_of_a_page():
    page = FOLDER / "tutorials" / "kernel.md"
    text = page.read_text(encoding="utf-8")
    found = json.loads(load("notebook").notebook(text))
    code = [cell["source"] for cell in found["cells"] if cell["cell_type"] == "code"]
    assert code == [block.strip() for _, block in blocks.blocks(text)]
    assert found["cells"][0]["source"].startswith("# Write your own kernel")
    typed = load("notebook").notebook(
        "# A\n\n```python\n>>> def f():\n...     return 1\n>>> f()\n1\n```\n"
    )
    assert json.loads(typed)["cells"][1]["source"] == "def f():\n    return 1\nf()"


def backend_of(page):
    return blocks.wanted(page.read_text(encoding="utf-8"), "backend") or "torch"


def test_there_are_pages():
    assert len(PAGES) > 10
    assert {backend_of(page) for page in PAGES} <= {"jax", "tensorflow", "torch", "numpy"}


@pytest.mark.everywhere
@pytest.mark.filterwarnings("ignore")
def test_every_block_of_the_pages_of_this_backend(monkeypatch):
    pages = [page for page in PAGES if backend_of(page) == BACKEND]
    if not pages:
        pytest.skip(f"no page is for {BACKEND}")
    for page in pages:
        # Pages may register implementations.
        registry = {family: dispatch.candidates(family) for family in dispatch.FAMILIES}
        monkeypatch.setattr(dispatch, "_registry", registry)
        if blocks.wanted(page.read_text(encoding="utf-8"), "process") == "own":  # takes memory
            command = [sys.executable, "-W", "ignore", str(FOLDER / "blocks.py"), str(page)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            continue
        assert blocks.run_page(page) > 0


def test_the_pictures_are_those_that_the_script_draws():
    if BACKEND == "numpy":
        for file, text in load("lattice").pictures().items():
            assert (FOLDER / file).read_text(encoding="utf-8") == text
