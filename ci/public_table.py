"""Writes the lists of public names and registered classes into docs/reference/public.md.

    python ci/public_table.py [--check]

With `--check` nothing is written; the exit status says whether the lists are up to date.
"""

import importlib
import inspect
import os
import sys
from collections.abc import Iterator

os.environ.setdefault("KERAS_BACKEND", "numpy")

import keras
from generated import ROOT, main

PAGE = ROOT / "docs" / "reference" / "public.md"
PACKAGES = ("ops", "layers", "parsers", "treebank", "protein")


def lists() -> str:
    modules = {name: importlib.import_module(f"keras_struct.{name}") for name in PACKAGES}
    lines = ["## Public names"]
    for name, module in modules.items():
        lines += ["", f"### keras_struct.{name}", "", "| name | what |", "|---|---|"]
        lines += [f"| `{x}` | {summary(getattr(module, x))} |" for x in module.__all__]
    lines += ["", "## Registered names", "", ", ".join(f"`{x}`" for x in registered())]
    return "\n".join(lines)


def summary(public: object) -> str:
    """The first sentence of its documentation; of a constant, its value."""
    if not (inspect.isclass(public) or callable(public)):
        return f"`{public!r}`".replace("|", "\\|")
    paragraph = (inspect.getdoc(public) or "").split("\n\n")[0]
    return " ".join(paragraph.split()).replace("|", "\\|")


def registered() -> Iterator[str]:
    """The names by which `.keras` files know our classes and functions."""
    for name in sorted(keras.saving.get_custom_objects()):
        if name.startswith("keras_struct>"):
            yield name


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", [PAGE], "public", lists))
