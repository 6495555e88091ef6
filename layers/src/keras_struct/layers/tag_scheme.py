"""Tags that mark spans: `B-PER`, `I-PER`, `O` and their relatives."""

import re
from typing import NamedTuple

import numpy as np

# What each letter of the other schemes is called in BIOES.
_LETTERS = {"B": "B", "I": "I", "M": "I", "E": "E", "L": "E", "S": "S", "U": "S", "O": "O"}
_SCHEMES = {"BIO": "BIO", "IOB2": "BIO", "BIOES": "BIOES", "BILOU": "BIOES", "BMES": "BIOES"}


class TagConstraints(NamedTuple):
    """Which sequences of K tags are allowed.

    Attributes:
        transitions: `(K, K)` booleans, from the first tag to the second.
        start: `(K,)` booleans, whether a sequence may start with the tag.
        end: `(K,)` booleans, whether a sequence may end with the tag.
    """

    transitions: np.ndarray
    start: np.ndarray
    end: np.ndarray


def tag_constraints(labels, scheme="BIO"):
    """Constraints of a tagging scheme, for `CRF(constraints=...)`.

    Args:
        labels: Names of the tags, such as `["O", "B-PER", "I-PER"]`; without types, as in word
            segmentation, `["B", "I"]`.
        scheme: `"BIO"` (the same as `"IOB2"`): a span is `B I I ...`. `"BIOES"` (the same as
            `"BILOU"` and `"BMES"` with their own letters): a span is `B I ... E`, or `S` alone.

    Returns:
        `TagConstraints`.

    Example:

    >>> from keras_struct.layers import tag_constraints
    >>> tag_constraints(["O", "B-PER", "I-PER"]).transitions.astype(int).tolist()
    [[1, 1, 0], [1, 1, 1], [1, 1, 1]]
    """
    if scheme not in _SCHEMES:
        raise ValueError(f"Expected a scheme among {list(_SCHEMES)}. Received: scheme={scheme!r}")
    tags = [parse_tag(label) for label in labels]
    letters = _SCHEMES[scheme]
    for label, (letter, _) in zip(labels, tags, strict=True):
        if letter not in letters:
            raise ValueError(f"Expected tags of the scheme {scheme}. Received: label={label!r}")
    single = letters == "BIO"
    # Inside a span: after B and I, where BIOES demands that the span goes on.
    opens = np.array([letter in "BI" for letter, _ in tags])
    continues = np.array([letter in "IE" for letter, _ in tags])
    kinds = np.array([kind for _, kind in tags])
    same = kinds[:, None] == kinds[None, :]
    go_on = opens[:, None] & continues[None, :] & same
    outside = np.ones_like(opens) if single else ~opens
    return TagConstraints(go_on | (outside[:, None] & ~continues[None, :]), ~continues, outside)


def parse_tag(label):
    """Letter of BIOES and type of the span: `("B", "PER")` for `"B-PER"`, `("O", "")` for `"O"`."""
    match = re.fullmatch(r"([BIMELSUO])(?:-(.+))?", label)
    if match is None or (match[1] == "O" and match[2]):
        raise ValueError(
            f"Expected tags such as 'O', 'B-PER', 'I-PER' or 'B', 'I'. Received: label={label!r}"
        )
    return _LETTERS[match[1]], match[2] or ""


class SpanTables(NamedTuple):
    """When a span starts and ends, by pairs of neighbouring tags.

    The tag K stands for what lies outside the sequence. The rules are those of the CoNLL-2000
    evaluation script: a span may also start with `I` or `E`, so every tag sequence has spans,
    and every scheme (IOB1, IOB2, IOE, BIOES, BILOU, BMES, B/I word boundaries) has the same rules.

    Attributes:
        starts: `(K + 1, K + 1)` booleans: a span starts at the second tag.
        ends: `(K + 1, K + 1)` booleans: a span ends at the first tag.
        types: `(K + 1,)` integers: number of the type, -1 outside of spans.
        names: The types.
    """

    starts: np.ndarray
    ends: np.ndarray
    types: np.ndarray
    names: list[str]


def span_tables(labels):
    """The `SpanTables` of a list of tag names."""
    tags = [*(parse_tag(label) for label in labels), ("O", "")]
    names = list(dict.fromkeys(kind for letter, kind in tags if letter != "O"))
    types = np.array([-1 if letter == "O" else names.index(kind) for letter, kind in tags])
    inside = types >= 0
    cut = types[:, None] != types[None, :]
    last = np.array([letter in "ES" for letter, _ in tags])
    first = np.array([letter in "BS" for letter, _ in tags])
    boundary = cut | last[:, None] | first[None, :]
    return SpanTables(boundary & inside[None, :], boundary & inside[:, None], types, names)


def tag_spans(tags, labels):
    """Labelled spans in one sequence of tags.

    Args:
        tags: Integers `(N,)`; negative ones are padding.
        labels: Names of the tags.

    Returns:
        List of `(start, end, type)`, the end exclusive.

    Example:

    >>> from keras_struct.layers import tag_spans
    >>> tag_spans([1, 2, 0, 1, -1], ["O", "B-PER", "I-PER"])
    [(0, 2, 'PER'), (3, 4, 'PER')]
    """
    tables = span_tables(labels)
    outside = len(labels)
    tags = [int(tag) if tag >= 0 else outside for tag in tags]
    spans = []
    start = 0
    pairs = zip([outside, *tags], [*tags, outside], strict=True)
    for position, (before, tag) in enumerate(pairs):
        if tables.ends[before, tag]:
            spans.append((start, position, tables.names[tables.types[before]]))
        if tables.starts[before, tag]:
            start = position
    return spans
