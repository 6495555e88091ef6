"""Bracket notation: what is read is written, and errors say where."""

import copy

import numpy as np
import pytest

from keras_struct.parsers import (
    Tree,
    escape_word,
    read_trees,
    strip_functions,
    strip_traces,
    unescape_word,
)
from keras_struct.parsers.random_tree import random_tree

SENTENCES = [
    "(S (NP (DT The) (NN dog)) (VP (VBD ran)) (. .))",
    "( (S (NP-SBJ (-NONE- *)) (VP (VB Go)) (. !)))",
    "(ROOT (FRAG (-LRB- -LRB-) (CD 1\\/2) (-RRB- -RRB-)))",
    "(NN word)",
    "(S1 (NP=2 (NN caf\u00e9\u00a0noir)))",
]


@pytest.mark.parametrize("text", SENTENCES)
def test_one_line(text):
    (tree,) = read_trees([text])
    assert str(tree) == text
    assert copy.copy(tree) == tree
    assert hash(tree) == hash(copy.deepcopy(tree))


def test_trees_over_several_lines_and_on_one_line():
    text = "\n\n".join([*SENTENCES, " ".join(SENTENCES)])
    ragged = text.replace("(VP", "\n\t (VP").replace("))", ")\r\n)")
    assert [str(tree) for tree in read_trees(ragged.split("\n"))] == SENTENCES * 2


def test_random_trees_are_read_as_written():
    rng = np.random.default_rng(0)
    trees = [random_tree(rng, n) for n in rng.integers(1, 30, 100)]
    assert list(read_trees(map(str, trees))) == trees


def test_no_text_no_trees():
    assert list(read_trees(["", "  \n"])) == []


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["(S (NP (NN dog))", "(VP (VBD ran))"],
            r"^a\.mrg:2: Expected '\)'.*'\(S' opened in line 1",
        ),
        (["(NN dog)", "", "(NN cat))"], r"^a\.mrg:3: .*Received: '\)' outside of brackets"),
        (["(NP (DT the) dog)"], r"^a\.mrg:1: .*Received: 'dog' in the bracket '\(NP'"),
        (["(NP the big dog)"], r"^a\.mrg:1: .*Received: 'big' in the bracket '\(NP the'"),
        (["(NP", "the (NN dog))"], r"^a\.mrg:2: .*Received: '\(' in the .*opened in line 1"),
        (["(NP )"], r"^a\.mrg:1: .*Received: '\)' in the bracket '\(NP'"),
        (["(())"], r"^a\.mrg:1: .*Received: '\)' in the bracket '\('"),
        (["dog"], r"^a\.mrg:1: .*Received: 'dog' outside of brackets"),
    ],
)
def test_errors_say_where(lines, message):
    with pytest.raises(ValueError, match=message):
        list(read_trees(lines, "a.mrg"))


@pytest.mark.parametrize(
    ("label", "children"),
    [
        ("NN", "("),
        ("NN", "two words"),
        ("NN", ""),
        ("", "word"),
        ("N P", [Tree("NN", "dog")]),
        ("NP", ["dog"]),
        ("NP", []),
    ],
)
def test_trees_that_could_not_be_read_again_are_errors(label, children):
    with pytest.raises(ValueError, match=r"Expected a label.*Received: label="):
        Tree(label, children)


def test_traces_and_functions():
    (tree,) = read_trees(
        ["( (S (NP-SBJ-1 (-NONE- *)) (VP=2 (VB Go) (-LRB- -LRB-) (NP (NN a-b)))))"]
    )
    expected = "( (S (VP (VB Go) (-LRB- -LRB-) (NP (NN a-b)))))"
    kept = strip_traces(tree)
    assert kept is not None and str(strip_functions(kept)) == expected
    (nothing,) = read_trees(["(NP (-NONE- *T*-1))"])
    assert strip_traces(nothing) is None


def test_a_bad_tree_is_named_and_left_out():
    text = [
        "\ufeff(S (X a))",
        "(S (X",
        "  b)",
        "(S (X c))",
        "d",
        "(S (X e\udce9))",
        "(S (X f))",
        "(S",
    ]
    errors: list[Exception] = []
    found = list(read_trees(text, "a.mrg", errors.append))
    assert [tree.words() for tree in found] == [["a"], ["c"], ["f"]]
    assert [str(error).split(":")[1] for error in errors] == ["5", "5", "6", "8"]
    # A bracket that is never closed costs its tree, not those after it.
    text = ["(S (X a)", "(S (X b))", "(S", "  (X c))", "(S (X d)"]
    errors.clear()
    found = list(read_trees([*text, *text, ""], "a.mrg", errors.append))
    assert [tree.words() for tree in found] == [["b"], ["c"]] * 2
    assert [str(error).split(":")[1] for error in errors] == ["11", "6", "7", "11"]


@pytest.mark.parametrize("word", ["(", "f(x)[1]", ":-)", "{}", "a-b", "caf\u00e9"])
def test_escaped_words_are_words_of_trees_and_come_back(word):
    (tree,) = read_trees([str(Tree("X", escape_word(word)))])
    assert unescape_word(tree.word or "") == word
    assert escape_word("a b\tc\x00") == "a\u00a0b\u00a0c\u00a0"
