"""Linear chain as a lattice: cells (t, tag), an edge from every tag to every next tag."""

import numpy as np

from keras_struct.ops.path_oracle import END, START, Edge, PathReference


class LinearChainReference(PathReference):
    def lattice(self, spec, shapes, context):
        (length,) = context
        _, tags = shapes[0]
        if length == 0:
            return [Edge(START, END)]
        edges = [Edge(START, (0, y), ((0, (0, y)),), y) for y in range(tags)]
        for t in range(1, length):
            for before in range(tags):
                for y in range(tags):
                    transition = (1, (t - 1 if spec.over_time else 0, before, y))
                    edges.append(Edge((t - 1, before), (t, y), ((0, (t, y)), transition), y))
        return edges + [Edge((length - 1, y), END) for y in range(tags)]

    def event(self, spec, labels, shapes, context):
        tags = [y for y in labels if y is not None]
        return np.array(tags + [-1] * (shapes[0][0] - len(tags)), "int32")
