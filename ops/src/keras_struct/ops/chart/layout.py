"""Spans by their two ends (B, N, N, ...) and by width and start (B, N, N, ...).

A span by width is at [w - 1, i]: it starts at i and has width w, from 1 to N. Those with i + w > N
do not exist. Skewing is one pad and one reshape: in a matrix of width N that is read with width
N + 1, row i moves i steps to the left.
"""

import numpy as np
from keras import ops

from keras_struct.ops import array


def by_width(x, fill):
    """`y[w - 1, i] = x[i, i + w - 1]`; where no such span exists, `fill`."""
    y = ops.swapaxes(_skew(x), 1, 2)
    return array.where(exists(x), y, ops.full_like(y, fill))


def by_ends(y, fill=0):
    """`x[i, j] = y[j - i, i]` for i <= j, else `fill`; the transpose of `by_width`."""
    x = _unskew(ops.swapaxes(y, 1, 2))
    places = ops.arange(ops.shape(y)[1], dtype="int32")
    upper = _wide(places[:, None] <= places, y)
    return array.where(upper, x, ops.full_like(x, fill))


def exists(x):
    """Which spans by width there are, broadcast to the rank of x (1, N, N, 1, ...)."""
    places = ops.arange(ops.shape(x)[1], dtype="int32")
    return _wide(places[:, None] + places < ops.shape(x)[1], x)


def cuts_by_width(x, fill):
    """`y[w - 1, r, i] = x[i, i + r, i + w - 1]`: spans cut after their first r + 1 positions."""
    y = ops.swapaxes(_skew(ops.swapaxes(x, 2, 3)), 1, 2)  # (B, w, i, k)
    n = ops.shape(x)[1]
    flat = _skew(ops.reshape(y, (-1, n, n)))
    y = ops.swapaxes(ops.reshape(flat, (-1, n, n, n)), 2, 3)
    return array.where(_cut_exists(n), y, ops.full_like(y, fill))


def cuts_by_ends(y):
    """The transpose of `cuts_by_width`; 0 where there is no cut."""
    n = ops.shape(y)[1]
    y = array.where(_cut_exists(n), y, ops.zeros_like(y))
    flat = _unskew(ops.reshape(ops.swapaxes(y, 2, 3), (-1, n, n)))
    y = array.where(_upper(n), flat, ops.zeros_like(flat))
    x = _unskew(ops.swapaxes(ops.reshape(y, (-1, n, n, n)), 1, 2))
    x = array.where(_upper(n)[:, :, None], x, ops.zeros_like(x))
    return ops.swapaxes(x, 2, 3)


def _cut_exists(n):
    places = ops.arange(n, dtype="int32")
    width, cut, start = places[:, None, None], places[:, None], places
    return ops.logical_and(cut < width, start + width < n)


def _upper(n):
    places = ops.arange(n, dtype="int32")
    return places[:, None] <= places


def _wide(mask, x):
    return ops.reshape(mask, (1, *ops.shape(mask), *([1] * (len(x.shape) - 3))))


def _skew(x):
    """`y[i, w] = x[i, i + w]`; beyond the end, anything."""
    batch, n, _, *rest = ops.shape(x)
    end = ops.zeros_like(x[:, 0])
    flat = ops.concatenate([ops.reshape(x, (batch, n * n, *rest)), end], axis=1)
    return ops.reshape(flat, (batch, n, n + 1, *rest))[:, :, :n]


def _unskew(y):
    """`x[i, j] = y[i, j - i]`; for j < i, anything."""
    batch, n, _, *rest = ops.shape(y)
    wide = ops.concatenate([y, ops.zeros_like(y[:, :, :1])], axis=2)
    flat = ops.reshape(wide, (batch, n * (n + 1), *rest))
    return ops.reshape(flat[:, : n * n], (batch, n, n, *rest))


def places_of_spans(n):
    """Where span (i, j) of a flat array (N, N) is, at [w - 1, i]; -1 where there is none."""
    start, end, exists = ends_by_width(n)
    return np.where(exists, start * n + end, -1)


def ends_by_width(n):
    """First and last position of the spans at [w - 1, i], and which there are (NumPy arrays)."""
    last, start = np.indices((n, n))
    last += start
    return start, last, last < n
