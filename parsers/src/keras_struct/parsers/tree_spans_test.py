"""Binarization, unary chains and spans give every tree back."""

import numpy as np
import pytest

from keras_struct.parsers import (
    NULL,
    LabelVocabulary,
    Tree,
    binarize,
    chart_spans,
    collapse_unary,
    expand_unary,
    read_trees,
    tree_from_spans,
    tree_spans,
    unbinarize,
)
from keras_struct.parsers.random_tree import random_tree
from keras_struct.parsers.tree import preorder

DIRECTIONS = ["left", "right"]
NASTY = [
    "(NN word)",
    "(NP (NN word))",
    "( (NN word))",
    "(ROOT (S (S (VP (VB Go)))))",
    "( (S (NP (PRP We)) (VP (VBD left))))",
    "( (NP (PRP We)) (VP (VBD left)))",
    "(NP (NP (NN a)) (NP (NP (NN b)) (NN c) (NN d) (NN e)))",
    "(NP-SBJ=2 (-LRB- -LRB-) (-NONE- *) (-RRB- -RRB-))",
]


def trees():
    rng = np.random.default_rng(0)
    return [*read_trees(NASTY), *(random_tree(rng, n) for n in rng.integers(1, 30, 100))]


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_binarize(direction):
    for tree in trees():
        binary = binarize(tree, direction)
        assert all(node.word is not None or len(node.children) <= 2 for node in preorder(binary))
        assert unbinarize(binary) == tree


def test_collapse_unary():
    for tree in trees():
        merged = collapse_unary(tree)
        for node in preorder(merged):
            assert node.word or len(node.children) > 1 or node.children[0].word
        assert expand_unary(merged) == tree


def test_spans_in_any_order():
    rng = np.random.default_rng(1)
    for tree in trees():
        spans = tree_spans(tree)
        assert len(spans) == sum(node.word is None for node in preorder(tree))
        spans.sort(key=lambda span: span[:2])  # stable: parents stay before their only child
        assert tree_from_spans(tree.words(), tree.tags(), spans) == tree
        chart = chart_spans(tree)
        shuffled = [chart[i] for i in rng.permutation(len(chart))]
        assert tree_from_spans(tree.words(), tree.tags(), shuffled) == tree


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_chart_is_a_binary_bracketing(direction):
    for tree in trees():
        n = len(tree.words())
        chart = chart_spans(tree, direction)
        labels = {(start, end): label for start, end, label in chart}
        assert len(labels) == len(chart) == 2 * n - 1
        assert (0, n) in labels
        for start, end in labels:
            splits = [k for k in range(start + 1, end) if {(start, k), (k, end)} <= set(labels)]
            assert len(splits) == (end - start > 1)
        assert tree_from_spans(tree.words(), tree.tags(), chart) == tree


def test_deep_trees():
    """As deep as a sentence is long: nothing recurses."""
    n = 3000
    tree = Tree("NP", [Tree("NN", "a")] * n)
    for direction in DIRECTIONS:
        binary = binarize(tree, direction)
        assert unbinarize(binary) == tree
        assert tree_from_spans(tree.words(), tree.tags(), chart_spans(tree, direction)) == tree
    assert next(read_trees([str(binary)])) == binary


def test_root_without_label():
    chart = [(0, 2, NULL), (0, 1, "NP"), (1, 2, NULL)]
    assert (
        str(tree_from_spans(["We", "left"], ["PRP", "VBD"], chart)) == "( (NP (PRP We)) (VBD left))"
    )


@pytest.mark.parametrize(
    "spans", [[(0, 2, "A"), (1, 3, "B")], [(1, 3, "A"), (0, 2, "B")], [(0, 4, "A")]]
)
def test_crossing_spans_are_errors(spans):
    with pytest.raises(
        ValueError, match=r"Expected nested spans within 0 and 3\. Received: spans="
    ):
        tree_from_spans(["a", "b", "c"], ["A", "B", "C"], spans)


def test_errors():
    (tree,) = read_trees(["(@S (NP+NP (NN a)) (NN b))"])
    for function, label in ((binarize, "@S"), (collapse_unary, "NP+NP"), (chart_spans, "NP+NP")):
        with pytest.raises(
            ValueError, match=rf"Expected labels .*label='{label}'".replace("+", r"\+")
        ):
            function(tree)
    with pytest.raises(ValueError, match=r"Expected 'left' or 'right'. Received: direction='up'"):
        binarize(tree, "up")
    with pytest.raises(ValueError, match=r"Expected a root that is no intermediate node"):
        unbinarize(tree)


def test_vocabulary():
    forest = trees()
    charts = [chart_spans(tree) for tree in forest]
    labels = (label for chart in charts for _, _, label in chart)
    vocabulary = LabelVocabulary.of(labels, first=[NULL])
    copy = LabelVocabulary.from_config(vocabulary.get_config())
    assert copy.labels[0] == NULL
    for tree, chart in zip(forest, charts, strict=True):
        array = vocabulary.encode_spans(chart, 70)
        assert array.shape == (70, 3)
        assert copy.decode_spans(array) == chart
        assert tree_from_spans(tree.words(), tree.tags(), copy.decode_spans(array)) == tree


def test_vocabulary_errors():
    vocabulary = LabelVocabulary(["NP", "VP"])
    with pytest.raises(ValueError, match=r"Expected one of .* Received: label='S'"):
        vocabulary.number("S")
    with pytest.raises(ValueError, match=r"Expected at most 0 spans. Received: 1 spans"):
        vocabulary.encode_spans([(0, 1, "NP")], 0)
    with pytest.raises(ValueError, match=r"Expected every label once"):
        LabelVocabulary(["NP", "NP"])
    with pytest.raises(ValueError, match=r"Expected one of .* Received: unknown='S'"):
        LabelVocabulary(["NP"], unknown="S")
