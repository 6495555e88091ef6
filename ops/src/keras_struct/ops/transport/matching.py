"""Whether any doubly stochastic matrix has its weight on a given set of pairs."""

import numpy as np


def has_plan(exists):
    """Whether a plan with unit masses exists: a perfect matching does (Birkhoff, Hall).

    Rows and columns without any pair are left out.

    Args:
        exists: Boolean NumPy array (L1, L2).
    """
    exists = exists[exists.any(1)][:, exists.any(0)]
    if exists.shape[0] != exists.shape[1]:
        return False
    row_of = np.full(exists.shape[1], -1)
    return all(_augmented(exists, row_of, row) for row in range(exists.shape[0]))


def _augmented(exists, row_of, start):
    """Match one row more, along a shortest alternating path; False where there is none."""
    came_from = np.full(len(row_of), -1)  # the row from which a column was reached
    reached, rows = np.zeros(len(row_of), bool), [start]
    while rows:
        row = rows.pop(0)
        new = np.flatnonzero(exists[row] & ~reached)
        reached[new], came_from[new] = True, row
        free = new[row_of[new] < 0]
        if free.size:
            column = free[0]
            while column >= 0:
                row = came_from[column]
                before = np.flatnonzero(row_of == row)
                row_of[column] = row
                column = before[0] if before.size else -1
            return True
        rows.extend(row_of[new])
    return False
