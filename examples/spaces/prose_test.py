"""What the cleaning keeps and drops, and that held-out sentences are held out."""

import pytest
from spaces.prose import HELD_OUT, MAX_CHARACTERS, MIN_WORDS, read_prose, sentences

CASES = {
    "markup": (
        "The *left* operand’s type, an “Integral” number,\nis built-in.  "
        'See "__add__()" for (more) notes.',
        [
            "the left operand's type an integral number is built in",
            "see add for more notes",
        ],
    ),
    "code_in_a_sentence": (
        'Call "str.format()" to do it.\nIn 3.1 it was not there. Now it is there.',
        ["now it is there"],
    ),
    "list": (
        "* the first item of a list\n  goes on here;\n\n"
        "* the second item is short.\n* the third item is too.",
        [
            "the first item of a list goes on here",
            "the second item is short",
            "the third item is too",
        ],
    ),
    "code_block": ("   for x in a range:\n       do this with it.", []),
    "no_punctuation": ("this is not a sentence", []),
    "grammar": ('   a_stmt ::= "if" the "and" of it.', []),
    "doctest": ("   >>> if this then that.", []),
    "heading": ("The heading of a page.\n**********************", []),
    "too_few_words": ("Only three words.", []),
    "too_long": ("These words are " + 50 * "long " + "words.", []),
}


@pytest.mark.parametrize("case", CASES)
def test_sentences(case):
    topic, expected = CASES[case]
    assert list(sentences(topic)) == expected


def test_held_out_topics_share_no_sentence_with_the_training_part():
    prose = read_prose()
    assert len(prose.train) > 1000 and len(prose.held_out) > 100
    everything = prose.train + prose.held_out
    assert len(set(everything)) == len(everything)
    for sentence in everything:
        assert len(sentence.split()) >= MIN_WORDS
        assert len(sentence.replace(" ", "")) <= MAX_CHARACTERS
        assert set(sentence) <= set("abcdefghijklmnopqrstuvwxyz' ")


def test_held_out_topics_exist():
    from pydoc_data.topics import topics

    assert set(HELD_OUT) <= set(topics)
