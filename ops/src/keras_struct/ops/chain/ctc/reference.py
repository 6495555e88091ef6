"""CTC as a lattice: cells (frame, position in the extended labels); Graves et al., figure 3."""

import numpy as np

from keras_struct.ops.path_oracle import END, START, Edge, PathReference


class CTCReference(PathReference):
    def lattice(self, spec, shapes, context):
        final, frames, reach = context
        ends = [s for s in range(len(final)) if final[s] == 0]
        edges = [Edge(START, (-1, 0))]
        for t in range(frames):
            for s in range(len(final)):
                for move in range(min(s, 2) + 1):
                    if reach[s, move] == 0:
                        parts = ((0, (t, s, move)),)
                        edges.append(Edge((t - 1, s - move), (t, s), parts, s))
        return edges + [Edge((frames - 1, s), END) for s in ends]

    def event(self, spec, labels, shapes, context):
        states = [s for s in labels if s is not None]
        return np.array(states + [-1] * (shapes[0][0] - len(states)), "int32")
