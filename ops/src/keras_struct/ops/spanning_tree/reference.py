"""Spanning trees one by one: every choice of heads that has no cycle."""

import itertools

import numpy as np

from keras_struct.ops.listing_oracle import EnumerationReference


class SpanningTreeReference(EnumerationReference):
    def objects(self, spec, shapes, context):
        (length,) = context
        for heads in itertools.product(range(length), repeat=int(length)):
            roots = sum(h == m for m, h in enumerate(heads))
            if is_acyclic(heads) and (roots <= 1 or not spec.single_root):
                yield from labelled(heads, shapes[0])

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


def labelled(heads, shape):
    """Every labelling of one tree, as `(event, parts)`.

    Args:
        heads: Heads of the words of one example, without padding.
        shape: Shape of its canonical potential, (N, N) or (N, N, L).
    """
    n, _, *size = shape
    pad = [-1] * (n - len(heads))
    if not size:
        yield np.array([*heads, *pad], "int32"), [(0, arc) for arc in enumerate(heads)]
        return
    for labels in itertools.product(range(size[0]), repeat=len(heads)):
        event = np.stack([[*heads, *pad], [*labels, *pad]], axis=-1).astype("int32")
        yield event, [(0, (m, h, l)) for m, (h, l) in enumerate(zip(heads, labels, strict=True))]
