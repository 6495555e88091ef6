"""Subsets of size k as a lattice: cells (item, chosen so far), edges in and out."""

import numpy as np

from keras_struct.ops.path_oracle import END, START, Edge, PathReference


class SubsetReference(PathReference):
    def lattice(self, spec, shapes, context):
        _, length, k = context
        edges = [Edge(START, (0, 0))]
        for i in range(length):
            for chosen in range(min(i, k) + 1):
                edges.append(Edge((i, chosen), (i + 1, chosen), ((0, (i, 0, 0)),), 0))
                if chosen < k:
                    edges.append(Edge((i, chosen), (i + 1, chosen + 1), ((0, (i, 0, 1)),), 1))
        return [*edges, Edge((int(length), int(k)), END)] if length >= k else []

    def event(self, spec, labels, shapes, context):
        chosen = [x for x in labels if x is not None]
        return np.array(chosen + [-1] * (shapes[0][0] - len(chosen)), "int32")
