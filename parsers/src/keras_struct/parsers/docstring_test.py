"""Every example in a docstring and in the README runs as printed."""

import doctest
from pathlib import Path

import pytest

from keras_struct import parsers
from keras_struct.ops.testing import modules_of, run_examples, skip_without_fit


@pytest.mark.parametrize("name", modules_of(parsers))
def test_runnable_example(name):
    run_examples(name)


def test_readme():
    readme = Path(__file__).parents[3] / "README.md"
    skip_without_fit(readme.read_text(encoding="utf-8"))
    results = doctest.testfile(str(readme), module_relative=False, encoding="utf-8")
    assert results.attempted > 0
    assert results.failed == 0


def test_every_public_name_has_a_docstring_and_an_example():
    plain = {"AttachmentScores", "BracketScores", "arcs", "words_of", "with_arcs"}
    plain |= {
        "unbinarize",
        "expand_unary",
        "NULL",
        "DependencyParser",
        "BRACKET_ESCAPES",
        "unescape_word",
    }
    for name in parsers.__all__:
        text = getattr(parsers, name).__doc__
        assert text, name
        assert name in plain or ">>>" in text, name
