"""One of N items as a lattice: one edge per item."""

import dataclasses

import numpy as np

from keras_struct.ops.paths import END, START, Edge, PathReference, rejects

__all__ = ["rejects", "sweeps"]


def sweeps(call):
    return CategoricalReference()


@dataclasses.dataclass(frozen=True)
class CategoricalReference(PathReference):
    def lattice(self, shapes, context):
        (length,) = context
        edges = [Edge(START, ("item", i), ((0, (i,)),), i) for i in range(length)]
        return edges + [Edge(("item", i), END) for i in range(length)]

    def event(self, labels, shapes, context):
        return np.array(next(iter(labels), -1), "int32")
