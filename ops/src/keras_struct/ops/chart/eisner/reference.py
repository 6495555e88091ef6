"""Projective trees one by one: the spanning trees in which no arc crosses another."""

import itertools

from keras_struct.ops.spanning_tree.reference import SpanningTreeReference


class EisnerReference(SpanningTreeReference):
    def objects(self, spec, shapes, context):
        for event, parts in super().objects(spec, shapes, context):
            if is_projective([(m, h) for _, (m, h, *_) in parts]):
                yield event, parts


def is_projective(arcs):
    """Whether no arc (dependent, head) crosses another; the root stands left of all words."""
    spans = [sorted((m, -1 if h == m else h)) for m, h in arcs]
    return not any(a < c < b < d for (a, b), (c, d) in itertools.permutations(spans, 2))
