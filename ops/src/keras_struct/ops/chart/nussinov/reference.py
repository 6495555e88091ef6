"""Nested pairings one by one: the first position stands alone or is paired with a later one."""

import numpy as np

from keras_struct.ops.listing_oracle import EnumerationReference


class NussinovReference(EnumerationReference):
    def objects(self, spec, shapes, context):
        (length,) = context
        for pairs in pairings(0, length, spec.min_loop):
            event = self.blank(spec, shapes, context)
            for i, j in pairs:
                event[i], event[j] = j, i
            yield event, [(0, pair) for pair in pairs]

    def blank(self, spec, shapes, context):
        return np.full(shapes[0][0], -1, "int32")


def pairings(i, end, min_loop):
    """Every nested pairing of the positions from i to before the end; (i, i) stands alone."""
    if i >= end:
        return [()]
    found = [((i, i), *rest) for rest in pairings(i + 1, end, min_loop)]
    for j in range(i + 1 + min_loop, end):
        for inner in pairings(i + 1, j, min_loop):
            found += [((i, j), *inner, *rest) for rest in pairings(j + 1, end, min_loop)]
    return found
