"""Every example in a docstring and in the README runs as printed."""

import pytest

from keras_struct import protein
from keras_struct.ops.testing import modules_of, run_examples


@pytest.mark.parametrize("name", modules_of(protein))
def test_runnable_example(name):
    run_examples(name)


def test_every_public_name_has_a_docstring():
    for name in protein.__all__:
        assert getattr(protein, name).__doc__, name
