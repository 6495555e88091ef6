"""A runnable example (addons #337, #2237, #2433): every example in a docstring runs as printed."""

import pytest

from keras_struct import layers
from keras_struct.ops.testing import modules_of, run_examples


@pytest.mark.parametrize("name", modules_of(layers))
def test_runnable_example(name):
    run_examples(name)


def test_every_public_name_has_a_docstring_and_an_example():
    plain = {
        "AlignmentMap",
        "AttentionMap",
        "TagConstraints",
        "TreeMap",
        "Header",
        "mask_from_lengths",
        "segments_to_spans",
    }
    for name in layers.__all__:
        text = getattr(layers, name).__doc__
        assert text, name
        assert name in plain or ">>>" in text, name
