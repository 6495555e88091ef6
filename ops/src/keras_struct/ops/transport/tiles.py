"""Passes over the support of a plan, a block of rows at a time.

The score of a pair is the inner product of the features of its row and of its column, so it is
computed where it is needed and not stored. A pass over columns is a pass over rows with the two
sides exchanged.

Letters: B batch, L1 rows, L2 columns, D features; C rows of a block, J columns that they can reach.
"""

import dataclasses

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE
from keras_struct.ops.structure import time_mask

BLOCK = 128
# Scores of up to that many pairs, 1 MiB, are one tile: compilers then keep them over all steps.
WHOLE = 2**18


@dataclasses.dataclass(frozen=True)
class Support:
    """Which pairs exist: |i + origin - j| <= band_width (None: all), both within their lengths.

    Attributes:
        band_width: Half of the width of the band, or None.
        spokes: Whether the first row and the first column reach everything besides.
        origin: Column that is in the middle of the band of the first row.
    """

    band_width: int | None
    spokes: bool = False
    origin: int = 0


def log_sums(support, rows, columns, offsets, lengths):
    """`log sum_j exp(rows_i . columns_j + offsets_j)` (B, L1), 0 for a row without any pair."""

    def body(logits, x, y):
        peak = ops.stop_gradient(array.max(logits, 2, keepdims=True))
        return array.log(array.sum(array.exp_or_zero(logits - peak), 2)) + peak[..., 0]

    zeros = ops.zeros_like(rows[..., 0])
    sums = _pass(support, body, (rows, columns), (zeros, offsets), (), (), lengths, rows[:, :1, 0])
    return array.where(sums < INFEASIBLE, zeros, sums)


def apply_plan(support, rows, columns, potentials, values, lengths):
    """`sum_j P_ij values_j` (B, L1, V), with `P_ij = exp(rows_i . columns_j + f_i + g_j)`."""

    def body(logits, x, y):
        return array.matmul(array.exp_or_zero(logits), y[0])

    like = rows[:, :1, :1] * values[:, :1] * 0.0
    return _pass(support, body, (rows, columns), potentials, (), (values,), lengths, like)


def modulated_plan(support, rows, columns, potentials, left, right, values, lengths):
    """`sum_j P_ij (left_i . right_j) values_j` (B, L1, V)."""

    def body(logits, x, y):
        return array.matmul(array.exp_or_zero(logits) * products(x[0], y[0]), y[1])

    like = rows[:, :1, :1] * values[:, :1] * 0.0
    theirs = right, values
    return _pass(support, body, (rows, columns), potentials, (left,), theirs, lengths, like)


def stored_band(support, rows, columns, potentials, lengths):
    """The tiles (blocks, B, C, J) of a plan on a band."""

    def body(logits, x, y):
        return array.exp_or_zero(logits)

    like = rows[:, :1, :1] * ops.zeros((1, 1, BLOCK + 2 * support.band_width), dtype=rows.dtype)
    return _pass(support, body, (rows, columns), potentials, (), (), lengths, like, join=False)


def apply_band(support, plan, values, n):
    """`sum_j P_ij values_j` (B, n, V) of the tiles that `stored_band` gave."""
    (blocks, _, c, _), w = ops.shape(plan), support.band_width
    places = ops.arange(blocks, dtype="int32")[:, None] * c + ops.arange(-w, c + w, dtype="int32")
    flat = ops.reshape(ops.clip(places, 0, ops.shape(values)[1] - 1), (-1,))
    windows = _blocked(ops.take(values, flat, axis=1), blocks)
    # PyTorch multiplies the transposed tiles in a tenth of the time, where values are few.
    across = (0, 1, 3, 2)
    product = array.matmul(array.transpose(windows, across), array.transpose(plan, across))
    return _joined(array.transpose(product, across), n)


def transposed(x):
    return array.transpose(x, (0, 2, 1))


def products(x, y):
    return array.matmul(x, transposed(y))


def within(potentials, lengths):
    """Potentials, with what is beyond a length forbidden."""
    return tuple(
        _forbidden(time_mask(n, ops.shape(x)[1]), x)
        for x, n in zip(potentials, lengths, strict=True)
    )


def _forbidden(allowed, x):
    return array.where(allowed, x, ops.full_like(x, FORBIDDEN))


def with_spokes(function, join, found, side, raw, theirs, ours, lengths):
    """`found` of a band, with what the first row and the first column reach besides.

    Args:
        function: Of features of some of our places and some of theirs, arrays of ours and of theirs
            and lengths.
        join: Of two results for the same places.
        found: (B, L, ...), without the first place of either side.
        side: Which is ours.
        raw: Features of both sides.
        theirs: Arrays of the other side.
        ours: Arrays of our side.
        lengths: Of both sides.
    """
    one = ops.ones_like(lengths[0])
    x, y = raw[side], raw[1 - side]
    first = function(x[:, :1], y, *(a[:, :1] for a in ours), *theirs, (one, lengths[1 - side]))
    column = function(x, y[:, :1], *ours, *(a[:, :1] for a in theirs), (lengths[side], one))
    return array.concatenate([first, join(found, column)[:, 1:]], 1)


def _pass(support, body, features, potentials, rows, columns, lengths, like, join=True):
    """`body(logits, row arrays, column arrays)` for all blocks of rows, put together.

    Args:
        support: `Support`.
        body: Function of logits (B, C, J), far below zero where no pair exists, and of tiles
            (B, C, ...) and (B, J, ...), which returns an array (B, C, ...).
        features: Those of the rows (B, L1, D) and of the columns (B, L2, D).
        potentials: f (B, L1) and g (B, L2), which the logits contain.
        rows: Arrays (B, L1, ...) that the body needs, too.
        columns: Arrays (B, L2, ...).
        lengths: Integers (B,) of both sides.
        like: Array (B, 1, ...), as the result is.
        join: Whether the blocks are put together; else they are an axis (blocks, B, C, ...).
    """
    w = support.band_width
    spokes = support.spokes and w is not None
    n1, n2 = (ops.shape(x)[1] for x in features)
    c = _block(features[0].shape[1], features[1].shape[1], w)
    f, g = within(potentials, lengths)
    ours, theirs = (features[0], f, *rows), (features[1], g, *columns)
    blocks = (n1 + c - 1) // c
    starts, inside = ops.arange(blocks, dtype="int32") * c, ops.arange(c, dtype="int32")

    def tiled(x):
        widths = [(0, 0), (0, blocks * c - n1)] + [(0, 0)] * (len(x.shape) - 2)
        return _blocked(array.pad(x, widths, 0), blocks)

    xs, near = [*map(tiled, ours)], None
    if w is not None:
        reach = ops.arange(-w, c + w, dtype="int32")
        near = ops.abs(inside[:, None] - reach) <= w
        places = starts[:, None] + support.origin + reach
        exists = ops.logical_and(places >= int(spokes), places < n2)
        places = ops.clip(places, 0, n2 - 1)
        if spokes:  # column 0 stands before the window, and in it no more
            near = ops.concatenate([ops.ones_like(near[:, :1]), near], axis=1)
            places = ops.concatenate([ops.zeros_like(places[:, :1]), places], axis=1)
            exists = ops.concatenate([ops.ones_like(exists[:, :1]), exists], axis=1)
        flat = ops.reshape(places, (-1,))
        windows = [_blocked(ops.take(y, flat, axis=1), blocks) for y in theirs]
        windows[1] = _forbidden(exists[:, None], windows[1])
        xs += windows

    def tile(near, ours, theirs):
        logits = products(ours[0], theirs[0]) + ours[1][:, :, None] + theirs[1][:, None]
        logits = logits if near is None else _forbidden(near, logits)
        return body(logits, ours[2:], theirs[2:])

    def step(carry, x):
        return carry, (tile(near, x[: len(ours)], theirs if w is None else x[len(ours) :]),)

    zero = ops.zeros((1, c, *[1] * (len(like.shape) - 2)), dtype=like.dtype)
    _, (output,) = array.scan(step, (), tuple(xs), (like + zero,))
    if not join:
        return output
    output = _joined(output, n1)
    if not spokes:
        return output
    first = tile(None, tuple(x[:, :1] for x in ours), theirs)
    return ops.concatenate([first, output[:, 1:]], axis=1)


def _block(rows, columns, band_width):
    """Rows of a block, C."""
    if not isinstance(rows, int) or not isinstance(columns, int):
        return BLOCK
    if band_width is not None:
        return min(BLOCK, rows)
    return rows if rows * columns <= WHOLE else min(BLOCK, rows, max(8, WHOLE // columns))


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
