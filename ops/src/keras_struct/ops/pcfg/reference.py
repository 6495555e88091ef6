"""Parse trees one by one: every binary tree, every symbol for each of its spans."""

import itertools

import numpy as np

from keras_struct.ops.chart.cky.reference import trees
from keras_struct.ops.listing_oracle import EnumerationReference, Part


class PCFGReference(EnumerationReference):
    def objects(self, spec, shapes, context):
        (length,) = context
        (k, symbols, _), (n, _), _ = shapes
        for spans, cuts in trees(0, length - 1) if length > 1 else []:
            choices = [range(k) if i < j else range(k, symbols) for i, j in spans]
            for choice in itertools.product(*choices):
                symbol = dict(zip(spans, choice, strict=True))
                event = np.full((n, n), -1, "int32")
                parts: list[Part] = [(2, (symbol[0, length - 1],))]
                for (i, j), a in symbol.items():
                    event[i, j] = a
                    if i == j:
                        parts.append((1, (i, a - k)))
                for i, m, j in cuts:
                    parts.append((0, (symbol[i, j], symbol[i, m], symbol[m + 1, j])))
                yield event, parts

    def blank(self, spec, shapes, context):
        return np.full((shapes[1][0],) * 2, -1, "int32")
