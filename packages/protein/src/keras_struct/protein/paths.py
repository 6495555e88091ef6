"""Aligned pairs of residues as paths of nodes, and back."""

import numpy as np


def matched_pairs(path):
    """Pairs `(N, 2)` of indices that a path of nodes matches."""
    path = np.asarray(path)
    nodes = path[path[:, 0] >= 0]
    steps = (np.diff(nodes, axis=0) == 1).all(axis=1) if len(nodes) else np.zeros(0, bool)
    return (nodes[1:][steps] - 1).astype("int64").reshape(-1, 2)


def path_of_pairs(pairs):
    """Nodes `(N, 2)` of the local alignment of matched pairs, as `ops.smith_waterman` has them.

    Between two pairs the residues of the first chain are skipped first.
    """
    nodes = [tuple(pairs[0])]
    for i, j in np.asarray(pairs).tolist():
        x, y = nodes[-1]
        nodes += [(k, y) for k in range(x + 1, i + 1)]
        nodes += [(i, k) for k in range(y + 1, j + 1)]
        nodes.append((i + 1, j + 1))
    return np.array(nodes, "int32")
