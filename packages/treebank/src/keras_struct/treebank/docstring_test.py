"""Every example in a docstring and in the README runs as printed."""

import doctest
import importlib
import pkgutil

import pytest

from keras_struct import treebank

MODULES = [
    f"{treebank.__name__}.{module.name}"
    for module in pkgutil.iter_modules(treebank.__path__)
    if not module.name.endswith("_test")
]


@pytest.mark.parametrize("name", MODULES)
def test_runnable_example(name):
    module = importlib.import_module(name)
    assert doctest.testmod(module, optionflags=doctest.ELLIPSIS).failed == 0


def test_every_public_name_has_a_docstring():
    for name in treebank.__all__:
        assert getattr(treebank, name).__doc__, name
