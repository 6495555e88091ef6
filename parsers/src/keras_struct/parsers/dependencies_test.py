"""CoNLL-U is written as it was read, and arcs that are no tree are errors."""

import itertools
import re

import numpy as np
import pytest

from keras_struct.parsers import (
    arcs,
    check_arcs,
    is_projective,
    new_sentence,
    read_conllu,
    with_arcs,
    words_of,
)

CONLLU = """\
# newdoc
# sent_id = 1
# text = vámonos al mar
# text = the same key once more
# text_en =
1-2\tvámonos\t_\t_\t_\t_\t_\t_\t_\tSpaceAfter=No|Cxn=a=b
1\tvamos\tir\tVERB\t_\tMood=Imp|Number=Plur\t0\troot\t0:root\t_
2\tnos\tnosotros\tPRON\t_\t_\t1\texpl:pv\t1:expl:pv\tgap=|x
2.1\tsí\t_\t_\t_\t_\t_\t_\t1:advmod|2:dep\t_
3-4\tal\t_\t_\t_\t_\t_\t_\t_\t_
3\ta\ta\tADP\t_\t_\t5\tcase\t_\t_
4\tel\tel\tDET\t_\t_\t5\tdet\t_\t_
5\tmar\t_\t_\t_\t_\t1\tobl\t1:obl:a\t_

# sent_id = 2
1\t_\t_\tSYM\t_\t_\t0\troot\t_\t_

"""


def lines(text):
    return text.splitlines(keepends=True)


def test_written_as_read():
    sentences = list(read_conllu(lines(CONLLU)))
    assert "".join(sentence.serialize() for sentence in sentences) == CONLLU
    assert [word["form"] for word in words_of(sentences[0])] == ["vamos", "nos", "a", "el", "mar"]
    assert arcs(sentences[0]) == ([0, 1, 5, 5, 1], ["root", "expl:pv", "case", "det", "obl"])
    assert sentences[0][1]["feats"] == {"Mood": "Imp", "Number": "Plur"}
    assert sentences[0].metadata["text"] == "vámonos al mar"
    for sentence in sentences:
        check_arcs(sentence)


def test_blank_lines_and_line_ends():
    text = CONLLU.replace("\n\n", "\n\n\n").replace("\n", "\r\n").rstrip()
    sentences = read_conllu(["\n", *lines(text)])
    assert "".join(sentence.serialize() for sentence in sentences) == CONLLU


def test_other_arcs():
    sentence = next(read_conllu(lines(CONLLU)))
    other = with_arcs(sentence, np.array([2, 0, 2, 3, 2]), ["dep", "root", "dep", "dep", "dep"])
    assert arcs(other) == ([2, 0, 2, 3, 2], ["dep", "root", "dep", "dep", "dep"])
    assert arcs(sentence)[0] == [0, 1, 5, 5, 1]
    (again,) = read_conllu(lines(other.serialize()))
    assert arcs(again) == arcs(other)
    assert again[1]["deps"] is None
    assert again.metadata == sentence.metadata
    assert [token["id"] for token in again] == [token["id"] for token in sentence]


def test_new_sentence():
    sentence = with_arcs(new_sentence(["a", "_"], upos=["X", "Y"]), [0, 1], ["root", "dep"])
    (again,) = read_conllu(lines(sentence.serialize()))
    assert arcs(again) == ([0, 1], ["root", "dep"])
    assert [(word["form"], word["upos"]) for word in again] == [("a", "X"), ("_", "Y")]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("1\tvamos", "x\tvamos", r"^a\.conllu:7: 'x' is not a valid ID"),
        ("2\tnos", "3\tnos", r"^a\.conllu:8: Expected the word number 2\. Received: id=3"),
        ("\t5\tcase\t", "\tfive\tcase\t", r"^a\.conllu:11: 'five' is not a valid value"),
        ("det\t_\t_", "det\t_", r"^a\.conllu:12: Expected 10 columns between tabs"),
    ],
)
def test_errors_say_where(old, new, message):
    with pytest.raises(ValueError, match=message):
        list(read_conllu(lines(CONLLU.replace(old, new, 1)), "a.conllu"))


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ([2, 3, 1], r"Expected one root in the sentence 'a b c'. Received: roots=\[\]"),
        ([0, 1, 0], r"Expected one root .* Received: roots=\[1, 3\]"),
        ([0, 3, 2], r"Expected no cycle .* Received: cycle=\[2, 3\]"),
        ([0, 1, 3], r"Expected no cycle .* Received: cycle=\[3\]"),
        ([0, 1, 4], r"Expected heads from 0 to 3 .* Received: head=4 of 3"),
        ([0, -1, 1], r"Expected heads from 0 to 3 .* Received: head=-1 of 2"),
    ],
)
def test_arcs_that_are_no_tree(heads, message):
    sentence = with_arcs(new_sentence(["a", "b", "c"]), heads, ["dep"] * 3)
    with pytest.raises(ValueError, match=message):
        check_arcs(sentence)
    with pytest.raises(ValueError, match="Received: head=None of 1"):
        check_arcs(new_sentence(["a", "b", "c"]))


def descends(heads, word, ancestor):
    while word not in (0, ancestor):
        word = heads[word - 1]
    return word == ancestor


def test_counts_of_trees():
    """Rooted trees n^(n-1); the projective ones 1, 2, 7, 30, 143 (A006013), by their definition."""
    for n, projective in zip(range(1, 6), (1, 2, 7, 30, 143), strict=True):
        found = []
        for heads in itertools.product(range(n + 1), repeat=n):
            sentence = with_arcs(new_sentence(["a"] * n), heads, ["dep"] * n)
            try:
                check_arcs(sentence)
            except ValueError:
                continue
            inside = [
                descends(heads, between, head)
                for word, head in enumerate(heads, 1)
                for between in range(min(word, head) + 1, max(word, head))
            ]
            assert is_projective(heads) == all(inside)
            found.append(is_projective(heads))
        assert (len(found), sum(found)) == (n ** (n - 1), projective)


LINE = "1\ta\t_\tX\t_\t_\t{}\t{}\t_\t_\n"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (LINE.format("x", "root"), "'x' is not"),
        (LINE.format("1", "root"), "Expected one root"),
        (LINE.format("_", "root"), "head=None of 1"),
        (LINE.format("01", "root"), "'01' is not"),
        (LINE.format("0", "_"), "Expected relations"),
        (LINE.format("0", "root").replace("a", ""), "Expected a form"),
        (LINE.format("0", "root").replace("a", " "), "Expected a form"),
        (LINE.format("_", "_").replace("1", "1-2"), "Expected words"),
        (LINE.format("0", "caf\udce9"), "Expected text in the encoding"),
    ],
)
def test_a_bad_sentence_is_named_and_left_out(bad, message):
    good = LINE.format("0", "root") + "\n"
    text = "\ufeff" + good + "# a comment\n" + bad + "\n" + good
    errors: list[Exception] = []
    found = list(read_conllu(lines(text), "a.conllu", errors.append, trees=True))
    assert len(found) == 2
    assert len(errors) == 1 and re.match(rf"a.conllu:[34]: .*{message}", str(errors[0]))
    with pytest.raises(ValueError, match=message):
        list(read_conllu(lines(text), trees=True))
