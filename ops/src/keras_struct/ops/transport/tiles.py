"""Passes over the support of a plan, a block of rows at a time.

The score of a pair is the inner product of the features of its row and of its column, so it is
computed where it is needed and never stored. A pass over columns is a pass over rows with the two
sides exchanged.

Letters: B batch, L1 rows, L2 columns, D features; C rows of a block, J columns that they can reach.
"""

import dataclasses

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.numerics import FORBIDDEN


@dataclasses.dataclass(frozen=True)
class Support:
    """Which pairs exist: |i - j| <= band_width (None: all), both within their lengths.

    Attributes:
        band_width: Half of the width of the band, or None.
        block: Rows of a block, C.
        spokes: Whether the first row and the first column reach everything besides.
    """

    band_width: int | None
    block: int
    spokes: bool = False


def log_sums(support, rows, columns, offsets, lengths):
    """`log sum_j exp(rows_i . columns_j + offsets_j)` (B, L1), 0 for a row without any pair."""

    def body(exists, x, y):
        (x,), (y, offset) = x, y
        logits = _masked(exists, _products(x, y) + offset[:, None])
        some = ops.any(exists, axis=2)
        return array.where(some, array.logsumexp(logits, 2), ops.zeros_like(logits[:, :, 0]))

    return _pass(support, body, (rows,), (columns, offsets), lengths, rows[:, :1, 0])


def apply_plan(support, rows, columns, potentials, values, lengths):
    """`sum_j P_ij values_j` (B, L1, V), with `P_ij = exp(rows_i . columns_j + f_i + g_j)`."""

    def body(exists, x, y):
        return array.matmul(_plan(exists, *x, *y[:2]), y[2])

    f, g = potentials
    like = rows[:, :1, :1] * values[:, :1] * 0.0
    return _pass(support, body, (rows, f), (columns, g, values), lengths, like)


def modulated_plan(support, rows, columns, potentials, left, right, values, lengths):
    """`sum_j P_ij (left_i . right_j) values_j` (B, L1, V)."""

    def body(exists, x, y):
        plan = _plan(exists, *x[:2], *y[:2])
        return array.matmul(plan * _products(x[2], y[2]), y[3])

    f, g = potentials
    like = rows[:, :1, :1] * values[:, :1] * 0.0
    ours, theirs = (rows, f, left), (columns, g, right, values)
    return _pass(support, body, ours, theirs, lengths, like)


def _plan(exists, x, f, y, g):
    return array.exp(_masked(exists, _products(x, y) + f[:, :, None] + g[:, None]))


def _products(x, y):
    return array.matmul(x, array.transpose(y, (0, 2, 1)))


def _masked(exists, logits):
    return array.where(exists, logits, ops.full_like(logits, FORBIDDEN))


def _pass(support, body, rows, columns, lengths, like):
    """`body(exists, row arrays, column arrays)` for all blocks of rows, put together.

    Args:
        support: `Support`.
        body: Function of `exists` (B, C, J), tiles (B, C, ...) and (B, J, ...), which returns an
            array (B, C, ...).
        rows: Arrays (B, L1, ...).
        columns: Arrays (B, L2, ...).
        lengths: Integers (B,) of both sides.
        like: Array (B, 1, ...), as the result is.
    """
    c, w = support.block, support.band_width
    spokes = support.spokes and w is not None
    n1, n2 = ops.shape(rows[0])[1], ops.shape(columns[0])[1]
    blocks = (n1 + c - 1) // c
    starts, inside = ops.arange(blocks, dtype="int32") * c, ops.arange(c, dtype="int32")

    def pairs(i, j):
        """Whether pairs exist, of rows i (C,) and columns j (J,)."""
        row = i < ops.minimum(lengths[0], n1)[:, None]
        column = ops.logical_and(j >= 0, j < lengths[1][:, None])
        exists = ops.logical_and(row[:, :, None], column[:, None])
        if w is None:
            return exists
        near = ops.abs(i[:, None] - j) <= w
        if spokes:  # column 0 stands before the window, and in it no more
            near = ops.logical_and(near, j > 0)
            near = ops.concatenate([ops.ones_like(near[:, :1]), near[:, 1:]], axis=1)
        return ops.logical_and(exists, near)

    def tiled(x):
        widths = [(0, 0), (0, blocks * c - n1)] + [(0, 0)] * (len(x.shape) - 2)
        return _blocked(array.pad(x, widths, 0), blocks)

    xs = [starts, *map(tiled, rows)]
    if w is None:
        reach = ops.arange(n2, dtype="int32")
    else:
        reach = ops.arange(-w, c + w, dtype="int32")
        places = ops.clip(starts[:, None] + reach, 0, n2 - 1)
        if spokes:
            places = ops.concatenate([ops.zeros_like(places[:, :1]), places], axis=1)
        flat = ops.reshape(places, (-1,))
        xs += [_blocked(ops.take(y, flat, axis=1), blocks) for y in columns]

    def step(carry, x):
        start, *x = x
        i, j = start + inside, reach if w is None else start + reach
        if spokes:
            j = ops.concatenate([ops.zeros_like(j[:1]), j], axis=0)
        theirs = columns if w is None else tuple(x[len(rows) :])
        return carry, (body(pairs(i, j), tuple(x[: len(rows)]), theirs),)

    zero = ops.zeros((1, c, *[1] * (len(like.shape) - 2)), dtype=like.dtype)
    _, (output,) = array.scan(step, (), tuple(xs), (like + zero,))
    output = _joined(output, n1)
    if not spokes:
        return output
    exists = ops.logical_and(lengths[0] > 0, ops.arange(n2, dtype="int32")[:, None] < lengths[1])
    first = body(ops.transpose(exists)[:, None], tuple(x[:, :1] for x in rows), columns)
    return ops.concatenate([first, output[:, 1:]], axis=1)


def _blocked(x, blocks):
    """(B, blocks · C, ...) as (blocks, B, C, ...)."""
    batch, n, *rest = ops.shape(x)
    x = ops.reshape(x, (batch, blocks, n // blocks, *rest))
    return array.transpose(x, (1, 0, 2, *range(3, len(x.shape))))


def _joined(x, n):
    """(blocks, B, C, ...) as (B, n, ...)."""
    x = array.transpose(x, (1, 0, 2, *range(3, len(x.shape))))
    batch, blocks, c, *rest = ops.shape(x)
    return ops.reshape(x, (batch, blocks * c, *rest))[:, :n]
