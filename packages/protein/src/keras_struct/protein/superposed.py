"""The best alignment of superposed chains, compiled by Numba.

A local alignment with affine gaps of scores that are never stored: what a pair of residues adds to
a TM-score. It runs on the host for every backend, as the superposition does, so that no program is
compiled for each size of chains.
"""

import numpy as np

from keras_struct.ops.compiled import compiled

START, MATCH, ROW, COLUMN = 0, 1, 2, 3  # what an alignment ends with: a pair, a skipped residue
IMPOSSIBLE = -1e30


@compiled
def best_pairs(first, second, scale, gap):
    """Pairs `(N, 2)` with the highest sum of 1 / (1 + (distance / scale)²), `gap` for each gap.

    Args:
        first, second: `(L1, 3)` and `(L2, 3)`, float64.
        scale: Distance of a pair that adds one half.
        gap: Not positive; a gap costs the same whatever its length.
    """
    n, m = len(first), len(second)
    # Where a match, a skipped row and a skipped column at a node came from, two bits each.
    origins = np.zeros((n + 1, m + 1), np.uint8)
    match, row, column = np.full((3, m + 1), IMPOSSIBLE)
    best, end_i, end_j = 0.0, 0, 0
    inverse = 1.0 / (scale * scale)
    for i in range(1, n + 1):
        before_match = before_row = before_column = IMPOSSIBLE  # at (i - 1, j - 1)
        left_match = left_row = left_column = IMPOSSIBLE  # at (i, j - 1)
        for j in range(1, m + 1):
            squared = 0.0
            for k in range(3):
                squared += (first[i - 1, k] - second[j - 1, k]) ** 2
            top, origin = 0.0, START
            if before_match > top:
                top, origin = before_match, MATCH
            if before_row > top:
                top, origin = before_row, ROW
            if before_column > top:
                top, origin = before_column, COLUMN
            new_match = top + 1.0 / (1.0 + squared * inverse)
            # A skipped row: on from one above, or the first.
            new_row, row_origin = row[j], ROW
            if match[j] + gap > new_row:
                new_row, row_origin = match[j] + gap, MATCH
            if column[j] + gap > new_row:
                new_row, row_origin = column[j] + gap, COLUMN
            new_column, column_origin = left_column, COLUMN
            if left_match + gap > new_column:
                new_column, column_origin = left_match + gap, MATCH
            if left_row + gap > new_column:
                new_column, column_origin = left_row + gap, ROW
            origins[i, j] = origin + 4 * row_origin + 16 * column_origin
            before_match, before_row, before_column = match[j], row[j], column[j]
            match[j], row[j], column[j] = new_match, new_row, new_column
            left_match, left_row, left_column = new_match, new_row, new_column
            if new_match > best:
                best, end_i, end_j = new_match, i, j
    pairs = np.empty((min(n, m), 2), np.int64)
    count, i, j, state = 0, end_i, end_j, MATCH if best > 0 else START
    while state != START:
        origin = origins[i, j]
        if state == MATCH:
            i, j = i - 1, j - 1
            pairs[count, 0], pairs[count, 1] = i, j
            count, state = count + 1, origin & 3
        elif state == ROW:
            i, state = i - 1, (origin >> 2) & 3
        else:
            j, state = j - 1, (origin >> 4) & 3
    return pairs[:count][::-1]
