"""Every example in a docstring and in the README runs as printed."""

import doctest
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

from keras_struct import parsers
from keras_struct.ops.testing import HAS_GRADIENTS

MODULES = [
    f"{parsers.__name__}.{module.name}"
    for module in pkgutil.iter_modules(parsers.__path__)
    if not module.name.endswith("_test")
]


def skip_without_fit(text):
    if ".fit(" in text and not HAS_GRADIENTS:
        pytest.skip("the NumPy backend has no fit")


@pytest.mark.parametrize("name", MODULES)
def test_runnable_example(name):
    module = importlib.import_module(name)
    skip_without_fit(inspect.getsource(module))
    assert doctest.testmod(module, optionflags=doctest.ELLIPSIS).failed == 0


def test_readme():
    readme = Path(__file__).parents[3] / "README.md"
    skip_without_fit(readme.read_text(encoding="utf-8"))
    results = doctest.testfile(str(readme), module_relative=False, encoding="utf-8")
    assert results.attempted > 0
    assert results.failed == 0


def test_every_public_name_has_a_docstring_and_an_example():
    plain = {"AttachmentScores", "BracketScores", "arcs", "words_of", "with_arcs"}
    plain |= {"unbinarize", "expand_unary", "NULL", "DependencyParser", "TreePotentials"}
    plain |= {"unpack_tree"}
    for name in parsers.__all__:
        text = getattr(parsers, name).__doc__
        assert text, name
        assert name in plain or ">>>" in text, name
