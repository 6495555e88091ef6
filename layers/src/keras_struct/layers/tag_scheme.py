"""Tags that mark spans: `B-PER`, `I-PER`, `O` and their relatives."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from keras_struct.layers.annotations import Span
from keras_struct.ops.annotations import ArrayLike

# What each letter of the other schemes is called in BIOES.
_LETTERS = {"B": "B", "I": "I", "M": "I", "E": "E", "L": "E", "S": "S", "U": "S", "O": "O"}
# The letters, in BIOES, that a scheme has.
_SCHEMES = {
    "BIO": "BIO",
    "IOB2": "BIO",
    "IOB1": "BIO",
    "BIOES": "BIOES",
    "BILOU": "BIOES",
    "BMES": "BIOES",
}
# What a scheme calls them itself.
_OWN = {"BILOU": {"E": "L", "S": "U"}, "BMES": {"I": "M"}}


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


def tag_constraints(labels: Sequence[str], scheme: str = "BIO") -> TagConstraints:
    """Constraints of a tagging scheme, for `CRF(constraints=...)`.

    Args:
        labels: Names of the tags, such as `["O", "B-PER", "I-PER"]`; without types, as in word
            segmentation, `["B", "I"]`.
        scheme: `"BIO"` (the same as `"IOB2"`): a span is `B I I ...`. `"BIOES"` (the same as
            `"BILOU"` and `"BMES"` with their own letters): a span is `B I ... E`, or `S` alone.
            `"IOB1"`: a span is `I I ...`, and begins with `B` where one of its type ends just
            before it, only there.

    Returns:
        `TagConstraints`.

    Example:

    >>> from keras_struct.layers import tag_constraints
    >>> tag_constraints(["O", "B-PER", "I-PER"]).transitions.astype(int).tolist()
    [[1, 1, 0], [1, 1, 1], [1, 1, 1]]
    """
    letters = _letters(scheme)
    tags = [parse_tag(label) for label in labels]
    for label, (letter, _) in zip(labels, tags, strict=True):
        if letter not in letters:
            raise ValueError(f"Expected tags of the scheme {scheme}. Received: label={label!r}")
    single = letters == "BIO"
    # Inside a span: after B and I, where BIOES demands that the span goes on.
    opens = np.array([letter in "BI" for letter, _ in tags])
    continues = np.array([letter in "IE" for letter, _ in tags])
    kinds = np.array([kind for _, kind in tags])
    same = kinds[:, None] == kinds[None, :]
    if scheme == "IOB1":
        begins = np.array([letter == "B" for letter, _ in tags])
        allowed = ~begins[None, :] | (opens[:, None] & same)
        return TagConstraints(allowed, ~begins, np.ones_like(begins))
    go_on = opens[:, None] & continues[None, :] & same
    outside = np.ones_like(opens) if single else ~opens
    return TagConstraints(go_on | (outside[:, None] & ~continues[None, :]), ~continues, outside)


def _letters(scheme):
    if scheme not in _SCHEMES:
        raise ValueError(f"Expected a scheme among {list(_SCHEMES)}. Received: scheme={scheme!r}")
    return _SCHEMES[scheme]


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


def tag_spans(tags: ArrayLike, labels: Sequence[str] | None = None) -> list[Span]:
    """Labelled spans in one sequence of tags, of whatever scheme.

    Args:
        tags: Integers `(N,)`, where negative ones are padding; or names.
        labels: Names of the tags, for integers.

    Returns:
        List of `(start, end, type)`, the end exclusive.

    Example:

    >>> from keras_struct.layers import tag_spans
    >>> tag_spans([1, 2, 0, 1, -1], ["O", "B-PER", "I-PER"])
    [(0, 2, 'PER'), (3, 4, 'PER')]
    >>> tag_spans(["U-PER", "O", "B-LOC", "L-LOC"])
    [(0, 1, 'PER'), (2, 4, 'LOC')]
    """
    if labels is None:
        labels = list(dict.fromkeys(tags))
        tags = [labels.index(tag) for tag in tags]
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


def spans_to_tags(
    spans: Iterable[Span], n: int, scheme: str = "BIO", labels: Sequence[str] | None = None
) -> Any:
    """The tags of one sequence that mark labelled spans; the reverse of `tag_spans`.

    Args:
        spans: List of `(start, end, type)`, the end exclusive, which do not overlap.
        n: Length of the sequence.
        scheme: See `tag_constraints`, with the letters of the scheme itself.
        labels: Names of the tags, to get integers.

    Returns:
        List of n names, or with `labels` NumPy array `(n,)`, int32.

    Raises:
        ValueError: If spans overlap or lie outside, or a tag is none of `labels`.

    Example:

    >>> from keras_struct.layers import spans_to_tags
    >>> spans_to_tags([(0, 2, "PER"), (2, 3, "PER")], 4, "IOB1")
    ['I-PER', 'I-PER', 'B-PER', 'O']
    >>> spans_to_tags([(0, 2, "PER"), (2, 3, "PER")], 4, "BILOU")
    ['B-PER', 'L-PER', 'U-PER', 'O']
    >>> spans_to_tags([(1, 3, "")], 3, "BIO", ["O", "B", "I"]).tolist()
    [0, 1, 2]
    """
    whole = "E" in _letters(scheme)
    tags = ["O"] * n
    covered = np.zeros(n + 1, bool)
    before = None
    for start, end, kind in sorted(spans):
        if not 0 <= start < end <= n or covered[start:end].any():
            raise ValueError(
                f"Expected spans within 0 and {n} that do not overlap. Received: spans={spans}"
            )
        covered[start:end] = True
        letters = ["I"] * (end - start)
        if scheme != "IOB1" or before == (start, kind):
            letters[0] = "B"
        if whole:
            letters[-1] = "E" if end - start > 1 else "S"
        own = [_OWN.get(scheme, {}).get(letter, letter) for letter in letters]
        tags[start:end] = [f"{letter}-{kind}" if kind else letter for letter in own]
        before = end, kind
    if labels is None:
        return tags
    unknown = sorted({*tags} - {*labels})
    if unknown:
        raise ValueError(f"Expected labels with the tags {unknown}. Received: labels={labels}")
    return np.array([labels.index(tag) for tag in tags], "int32")


def convert_tags(tags: Sequence[str], scheme: str) -> list[str]:
    """The tags of one sequence in another scheme.

    Args:
        tags: Names of the tags, in any scheme. Tags that break their scheme mark spans all the
            same, by the rules of `tag_spans`.
        scheme: The scheme to convert to, see `tag_constraints`.

    Returns:
        List of as many names.

    Example:

    >>> from keras_struct.layers import convert_tags
    >>> convert_tags(["I-PER", "I-PER", "B-PER", "O", "I-LOC"], "BIOES")
    ['B-PER', 'E-PER', 'S-PER', 'O', 'S-LOC']
    """
    return spans_to_tags(tag_spans(tags), len(tags), scheme)
