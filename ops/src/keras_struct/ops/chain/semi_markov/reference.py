"""Semi-Markov as a lattice: cells (end, label), an edge for every segment."""

import numpy as np

from keras_struct.ops.path_oracle import END, START, Edge, PathReference


class SemiMarkovReference(PathReference):
    def lattice(self, spec, shapes, context):
        (length,) = context
        _, longest, labels = shapes[0]
        if length == 0:
            return [Edge(START, END)]
        edges = []
        for end in range(length):
            for d in range(min(longest, end + 1)):
                begin = end - d
                for k in range(labels):
                    part, label = (0, (end, d, k)), (begin, k, d + 1)
                    if begin == 0:
                        edges.append(Edge(START, (end, k), (part,), label))
                        continue
                    for before in range(labels):
                        parts = (part, (1, (before, k)))
                        edges.append(Edge((begin - 1, before), (end, k), parts, label))
        return edges + [Edge((length - 1, k), END) for k in range(labels)]

    def event(self, spec, labels, shapes, context):
        event = np.full((shapes[0][0], 2), -1, "int32")
        for label in labels:
            if label is not None:
                begin, k, length = label
                event[begin] = k, length
        return event
