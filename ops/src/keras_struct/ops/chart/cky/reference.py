"""Binary trees one by one: every way to cut a span, cut by cut."""

import itertools

import numpy as np

from keras_struct.ops.listing_oracle import EnumerationReference


class CKYReference(EnumerationReference):
    def objects(self, spec, shapes, context):
        (length,) = context
        n, _, *labels = shapes[0]
        for tree in trees(0, length - 1) if length else [((), ())]:
            spans, cuts = tree
            for choice in itertools.product(range(*labels or [1]), repeat=len(spans)):
                event = np.full((n, n), -1, "int32")
                parts = [(1, cut) for cut in cuts] if spec.splits else []
                for span, label in zip(spans, choice, strict=True):
                    event[span] = label
                    parts.append((0, (*span, label) if labels else span))
                yield event, parts

    def blank(self, spec, shapes, context):
        n, _, *_ = shapes[0]
        return np.full((n, n), -1, "int32")


def trees(i, j):
    """Every binary tree over the words i to j: its spans, and its cuts (i, k, j)."""
    if i == j:
        return [(((i, j),), ())]
    return [
        (((i, j), *left, *right), ((i, k, j), *left_cuts, *right_cuts))
        for k in range(i, j)
        for left, left_cuts in trees(i, k)
        for right, right_cuts in trees(k + 1, j)
    ]
