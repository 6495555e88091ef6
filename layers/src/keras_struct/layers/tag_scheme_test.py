"""Tag schemes and spans: what is allowed is what marks spans, and conversions lose nothing."""

import itertools

import numpy as np
import pytest

from keras_struct.layers import convert_tags, spans_to_tags, tag_constraints, tag_spans
from keras_struct.ops.testing import BACKEND

if BACKEND != "numpy":
    pytest.skip("nothing here depends on the backend", allow_module_level=True)

SCHEMES = {
    "BIO": "BI",
    "IOB2": "BI",
    "IOB1": "BI",
    "BIOES": "BIES",
    "BILOU": "BILU",
    "BMES": "BMES",
}


def labels_of(scheme, kinds=("X", "Y")):
    return ["O", *(f"{letter}-{kind}" for letter in SCHEMES[scheme] for kind in kinds)]


def segmentations(n, kinds=("X", "Y")):
    """All lists of labelled spans in a sequence."""
    if n == 0:
        return [[]]
    found = segmentations(n - 1, kinds)
    return found + [
        [*before, (start, n, kind)]
        for start in range(n)
        for before in segmentations(start, kinds)
        for kind in kinds
    ]


def allowed(labels, constraints, n):
    """All tag sequences that constraints allow."""
    return {
        tuple(labels[tag] for tag in tags)
        for tags in itertools.product(range(len(labels)), repeat=n)
        if constraints.start[tags[0]]
        and constraints.end[tags[-1]]
        and all(constraints.transitions[pair] for pair in itertools.pairwise(tags))
    }


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_is_allowed_is_what_marks_spans(scheme):
    """Each list of spans has exactly one sequence of tags that the constraints allow."""
    labels, n = labels_of(scheme), 3
    marked = {tuple(spans_to_tags(spans, n, scheme)): spans for spans in segmentations(n)}
    assert len(marked) == len(segmentations(n))
    assert allowed(labels, tag_constraints(labels, scheme), n) == set(marked)
    for tags, spans in marked.items():
        assert tag_spans(tags) == spans
        numbers = spans_to_tags(spans, n, scheme, labels)
        assert [labels[number] for number in numbers] == list(tags)
        assert tag_spans(numbers, labels) == spans


@pytest.mark.parametrize("scheme, other", list(itertools.permutations(SCHEMES, 2)))
def test_conversion_there_and_back(scheme, other):
    for spans in segmentations(3):
        tags = spans_to_tags(spans, 3, scheme)
        converted = convert_tags(tags, other)
        assert converted == spans_to_tags(spans, 3, other)
        assert convert_tags(converted, scheme) == tags


def test_tags_without_types_and_ill_formed_ones():
    assert spans_to_tags([(0, 1, ""), (1, 3, "")], 3, "BMES") == ["S", "B", "E"]
    assert convert_tags(["O", "I-X", "I-Y", "E-Y"], "BIO") == ["O", "B-X", "B-Y", "I-Y"]
    assert spans_to_tags([], 0) == []
    assert spans_to_tags([], 2, labels=["O"]).dtype == np.int32


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: spans_to_tags([(0, 2, "X"), (1, 3, "X")], 3), "that do not overlap"),
        (lambda: spans_to_tags([(2, 4, "X")], 3), "within 0 and 3"),
        (lambda: spans_to_tags([], 3, "IO"), "scheme='IO'"),
        (lambda: spans_to_tags([(0, 1, "X")], 3, "BIO", ["O"]), r"the tags \['B-X'\]"),
        (lambda: convert_tags(["X-Y"], "BIO"), "label='X-Y'"),
        (lambda: tag_constraints(["O", "E-X"], "IOB1"), "label='E-X'"),
    ],
)
def test_user_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
