"""From lattice arrays (B, L1, L2) to time-major ones (time, B, position), and back.

Time is the anti-diagonal i + j of a node (position i), or with `by_rows` its row i (position j).
Skewing is one pad, one reshape and one transpose: in a matrix of width w + 1 that is read with
width w, row i moves i steps to the right.
"""

import dataclasses
from typing import Any

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.numerics import FORBIDDEN


@dataclasses.dataclass(frozen=True)
class Layout:
    """Nodes (i, j) with 0 <= i <= rows, 0 <= j <= columns."""

    rows: Any
    columns: Any
    by_rows: bool

    @property
    def steps(self):
        """Number of times after time 0."""
        return self.rows if self.by_rows else self.rows + self.columns

    @property
    def positions(self):
        return 1 + (self.columns if self.by_rows else self.rows)

    def place(self, i, j):
        """(time, position) of a node."""
        return (i, j) if self.by_rows else (i + j, i)

    def node(self, time, position):
        """(i, j) of a place."""
        return (time, position) if self.by_rows else (position, time - position)

    # A potential of kind "cell": node (i, j) reads cell (i-1, j-1).

    def cells_in_time(self, x, past=0, fill=FORBIDDEN):
        """(B, L1, L2) to (steps + past, B, positions), for times 1, 2, ..."""
        if self.by_rows:
            padded = ops.pad(x, [(0, 0), (0, past), (1, 0)], constant_values=fill)
            return ops.swapaxes(padded, 0, 1)
        padded = ops.pad(x, [(0, 0), (1, 0), (0, self.rows + 1 + past)], constant_values=fill)
        return _skew(padded)

    def cells_of_time(self, y):
        """The transpose of `cells_in_time`."""
        if self.by_rows:
            return ops.swapaxes(y, 0, 1)[:, :, 1:]
        return _unskew(y)[:, 1:, : self.columns]

    # A potential of kind "gap": node (i, j) reads cell (max(i-1, 0), max(j-1, 0)).

    def gaps_in_time(self, x, past=0):
        """(B, L1, 1 | L2) to (steps + past, B, positions), for times 1, 2, ..."""
        x = edge(edge(x, 1), 2)
        x = ops.broadcast_to(x, (ops.shape(x)[0], self.rows + 1, self.columns + 1))
        pad = [(0, 0), (0, 0), (0, self.rows + 1 + past)]
        return _skew(ops.pad(x, pad, constant_values=FORBIDDEN))[1:]

    def gaps_of_time(self, y):
        """The transpose of `gaps_in_time`, to (B, L1, L2)."""
        x = _unskew(ops.pad(y, [(1, 0), (0, 0), (0, 0)]))[:, :, : self.columns + 1]
        return unedge(unedge(x, 1), 2)


@dataclasses.dataclass(frozen=True)
class Block:
    """The times `first`, ..., `first + size - 1`; past the last time there is nothing."""

    layout: Layout
    first: Any
    size: int

    def places(self, kind, shape):
        """For nodes (size * P,): whether they read a potential, and where in it, flat."""
        times = self.first + ops.arange(self.size, dtype="int32")[:, None]
        positions = ops.arange(self.layout.positions, dtype="int32")[None]
        least = 1 if kind == "cell" else 0
        legal, index = True, 0
        sizes = (self.layout.rows, self.layout.columns)
        for node, most, size in zip(self.layout.node(times, positions), sizes, shape, strict=True):
            node = node + 0 * (times + positions)
            legal = ops.logical_and(ops.logical_and(node >= least, node <= most), legal)
            index = index * size + ops.clip(node - 1, 0, size - 1)
        return ops.reshape(legal, (-1,)), ops.reshape(index, (-1,))

    def read(self, x, kind):
        """(B, 1 | L1, 1 | L2) to (size, B, P)."""
        batch, *shape = ops.shape(x)
        legal, index = self.places(kind, shape)
        flat = ops.reshape(x, (batch, shape[0] * shape[1]))
        y = array.where(legal, ops.take(flat, index, axis=1), FORBIDDEN)
        y = ops.reshape(y, (batch, self.size, self.layout.positions))
        return ops.swapaxes(y, 0, 1)

    def add(self, total, y, kind, shape):
        """`total` (B, 1 + cells) with the transpose of `read` added; entry 0 takes what is none."""
        legal, index = self.places(kind, shape)
        y = ops.reshape(ops.swapaxes(y, 0, 1), (ops.shape(y)[1], self.size * self.layout.positions))
        index = ops.broadcast_to(array.where(legal, index + 1, 0)[None], ops.shape(y))
        return array.add_at(total, index, array.where(legal, y, ops.zeros_like(y)))


def _skew(x):
    """(B, R, W + 1) to (W, B, R): row i moved i steps to the right."""
    batch, rows, width = ops.shape(x)
    width = width - 1
    flat = ops.reshape(x, (batch, rows * (width + 1)))[:, : rows * width]
    skewed = ops.transpose(ops.reshape(flat, (batch, rows, width)), (0, 2, 1))
    return ops.swapaxes(array.contiguous(skewed), 0, 1)


def _unskew(y):
    """(W, B, R) to (B, R, W + 1): the transpose of `_skew`."""
    y = ops.transpose(y, (1, 2, 0))
    batch, rows, width = ops.shape(y)
    flat = ops.pad(ops.reshape(y, (batch, rows * width)), [(0, 0), (0, rows)])
    return ops.reshape(flat, (batch, rows, width + 1))


def edge(x, axis):
    """The first entry along an axis repeated once (not along an axis of size 1)."""
    if x.shape[axis] == 1:
        return x
    first = x[:, :1] if axis == 1 else x[:, :, :1]
    return ops.concatenate([first, x], axis=axis)


def unedge(x, axis):
    if axis == 1:
        return ops.concatenate([x[:, :1] + x[:, 1:2], x[:, 2:]], axis=1)
    return ops.concatenate([x[:, :, :1] + x[:, :, 1:2], x[:, :, 2:]], axis=2)
