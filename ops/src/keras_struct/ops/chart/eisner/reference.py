"""Projective trees one by one: every choice of heads without a cycle in which no arcs cross."""

import itertools

import numpy as np

from keras_struct.ops.listing_oracle import EnumerationReference


class EisnerReference(EnumerationReference):
    def objects(self, spec, shapes, context):
        (length,) = context
        _, _, *labels = shapes[0]
        for heads in itertools.product(range(length), repeat=int(length)):
            roots = sum(h == m for m, h in enumerate(heads))
            if (spec.single_root and roots > 1) or not (is_acyclic(heads) and is_projective(heads)):
                continue
            for choice in itertools.product(range(*labels or [1]), repeat=len(heads)):
                event = self.blank(spec, shapes, context)
                event[: len(heads)] = np.stack([heads, choice], -1) if labels else heads
                arcs = zip(enumerate(heads), choice, strict=True)
                yield event, [(0, (*arc, label) if labels else arc) for arc, label in arcs]

    def blank(self, spec, shapes, context):
        n, _, *labels = shapes[0]
        return np.full((n, 2) if labels else n, -1, "int32")


def is_acyclic(heads):
    """Whether every word comes to a root by going from head to head."""
    for word in range(len(heads)):
        for _ in heads:
            word = heads[word]
        if heads[word] != word:
            return False
    return True


def is_projective(heads):
    """Whether no arc crosses another; the root stands left of all words."""
    spans = [sorted((m, -1 if h == m else h)) for m, h in enumerate(heads)]
    return not any(a < c < b < d for (a, b), (c, d) in itertools.permutations(spans, 2))
