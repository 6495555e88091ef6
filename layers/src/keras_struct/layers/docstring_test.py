"""A runnable example (addons #337, #2237, #2433): every example in a docstring runs as printed."""

import doctest
import importlib
import pkgutil

import pytest

from keras_struct import layers

MODULES = [
    f"{layers.__name__}.{module.name}"
    for module in pkgutil.iter_modules(layers.__path__)
    if not module.name.endswith("_test")
]


@pytest.mark.parametrize("name", MODULES)
def test_runnable_example(name):
    module = importlib.import_module(name)
    results = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert results.failed == 0


def test_every_public_name_has_a_docstring_and_an_example():
    plain = {
        "AlignmentMap",
        "AlignmentPotentials",
        "AttentionMap",
        "TagConstraints",
        "TreeMap",
        "ChainPotentials",
        "mask_from_lengths",
        "segments_to_spans",
    }
    for name in layers.__all__:
        text = getattr(layers, name).__doc__
        assert text, name
        assert name in plain or ">>>" in text or name.startswith("unpack"), name
