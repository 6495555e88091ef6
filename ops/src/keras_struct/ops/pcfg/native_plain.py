"""Sums over cuts and rules in plain numbers, compiled by Numba (see `native_inside.py`)."""

from typing import Any

import numpy as np

from keras_struct.ops.compiled import compiled, reordered

U: Any = np.uint64
ZERO, ONE = U(0), U(1)


@compiled
def symbols_of(width, k, s):
    """First symbol of a span, and the one after its last: preterminals are over words only."""
    return (k, s) if width == ONE else (ZERO, k)


@reordered
def add_cuts(x, y, factor, sizes, i, j, out):
    """out[B, C] += sum over cuts m of factor[m] x[i, m, B] y[m + 1, j, C]."""
    size, k, s = sizes
    for m in range(i, j):
        left, right = (i * size + m) * s, ((m + ONE) * size + j) * s
        first, last = symbols_of(m - i + ONE, k, s)
        start, end = symbols_of(j - m, k, s)
        for b in range(first, last):
            z = factor[m] * x[left + b]
            for c in range(start, end):
                out[b * s + c] += z * y[right + c]


@reordered
def share_cuts(part, x, y, factor, sizes, i, j, column, out):
    """Hands part[B, C] x[i, m, B] y[m + 1, j, C] to the spans of both, for every cut."""
    size, k, s = sizes
    for m in range(i, j):
        left, right = (i * size + m) * s, ((m + ONE) * size + j) * s
        first, last = symbols_of(m - i + ONE, k, s)
        start, end = symbols_of(j - m, k, s)
        for c in range(start, end):
            column[c] = 0.0
        for b in range(first, last):
            z, total = factor[m] * x[left + b], 0.0
            for c in range(start, end):
                total += part[b * s + c] * y[right + c]
                column[c] += z * part[b * s + c]
            out[left + b] += z * total
        for c in range(start, end):
            out[right + c] += y[right + c] * column[c]


@reordered
def add_rules(rules, pairs, k, cells, out):
    """out[A] += sum over pairs of rules[A, B, C] pairs[B, C]."""
    for a in range(k):
        total = 0.0
        for at in range(cells):
            total += rules[a * cells + at] * pairs[at]
        out[a] += total


@reordered
def share_rules(rules, x, k, cells, out):
    """out[B, C] += sum over parents of rules[A, B, C] x[A]."""
    for a in range(k):
        for at in range(cells):
            out[at] += rules[a * cells + at] * x[a]


@reordered
def count_pairs(x, pairs, k, cells, out):
    """out[A, B, C] += x[A] pairs[B, C]."""
    for a in range(k):
        for at in range(cells):
            out[a * cells + at] += x[a] * pairs[at]
