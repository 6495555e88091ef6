import itertools
from xml.etree import ElementTree

import pytest

from keras_struct import treebank

PHRASES = treebank.ConstituencyParse(
    ["They", "left", "early"],
    ["PRP", "VBD", "RB"],
    [(0, 1, "NP"), (0, 3, "TOP+S"), (2, 3, "ADVP"), (1, 3, "VP")],  # in any order
    [0.75, 0.5, 0.125, 0.25],
)
ARCS = treebank.DependencyParse(
    ["我", "不知道知道", "no"],
    ["PRON", "VERB", "INTJ"],
    [3, 3, 0],
    ["nsubj:passive:of:someone", "x", "root:of:the:sentence"],
    [0.75, 0.5, 0.25],
)


def texts_of(parse):
    root = ElementTree.fromstring(treebank.draw(parse))
    return root, [node for node in root.iter() if node.tag.endswith("}text")]


def test_each_phrase_shows_its_probability():
    _, nodes = texts_of(PHRASES)
    texts = [node.text for node in nodes]
    phrases = [(label, p) for label, p in itertools.pairwise(texts) if p[0] == "0"]
    expected = {"TOP": 0.5, "S": 0.5, "NP": 0.75, "VP": 0.25, "ADVP": 0.125}
    assert dict(phrases) == {label: f"{p:.2f}" for label, p in expected.items()}


def test_each_arc_shows_its_probability_below_the_dependent():
    _, nodes = texts_of(ARCS)
    at = {node.text: float(node.get("x")) for node in nodes}
    for word, p in zip(ARCS.words, ARCS.probabilities or (), strict=True):
        assert at[word] == at[f"{p:.2f}"]


@pytest.mark.parametrize("parse", [PHRASES, ARCS], ids=["phrases", "arcs"])
def test_without_probabilities_there_are_no_numbers(parse):
    _, nodes = texts_of(parse._replace(probabilities=None))
    assert not any("0." in node.text for node in nodes)


def test_every_text_lies_within_the_picture():
    root, nodes = texts_of(ARCS)
    left, _, width, _ = map(float, root.get("viewBox").split())
    for node in nodes:
        at, letters = float(node.get("x")), len(node.text)
        space = letters * float(node.get("font-size")) * (1.0 if node.text[0] >= "我" else 0.5)
        start = at if node.get("text-anchor") == "start" else at - space / 2
        assert left <= start and start + space <= left + width


def test_a_nested_picture_cuts_no_text_off():
    root, _ = texts_of(PHRASES)
    style = [node.text for node in root if node.tag.endswith("}style")]
    assert style == ["svg { overflow: visible }"]
