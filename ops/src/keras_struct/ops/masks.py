"""Any boolean mask as a right-padded sequence, and back.

A position that is masked out is not part of the sequence, wherever it stands. The positions that
are left are moved to the front, in order; all sweeps then see lengths. Results are moved back:
marginals to the positions as given, events by what their numbers mean (see `Structure.restore`).
"""

from typing import Any, NamedTuple

import keras
from keras import ops

from keras_struct.ops import array


class Places(NamedTuple):
    """A permutation of the positions of every example.

    Attributes:
        order: (B, N) int32: position as given, by position in the sequence; then what is masked.
        rank: (B, N) int32, its inverse: position in the sequence, by position as given.
        lengths: (B,) int32: how many positions are left.
    """

    order: Any
    rank: Any
    lengths: Any

    def gather(self, x, axis):
        """`x` (B or 1, ..., N, ...) with the positions along an axis moved to the front."""
        return _take(x, self.order, axis)

    def scatter(self, x, axis):
        """The inverse of `gather`."""
        return _take(x, self.rank, axis)

    def positions(self, x):
        """Positions in the sequence, (B, ...) or (n, B, ...), as given; negative ones stay."""
        return _look_up(self.order, x)

    def ranks(self, x):
        """Positions as given, as those in the sequence; what is masked out becomes N (nowhere)."""
        n = ops.shape(self.rank)[1]
        hidden = self.rank >= self.lengths[:, None]
        return _look_up(array.where(hidden, n, self.rank), x)


def places_of(mask):
    """`Places` of a boolean mask (B, N)."""
    n = ops.shape(mask)[1]
    kept = ops.cast(mask, "int32")
    before = ops.cast(ops.cumsum(kept, axis=1), "int32") - kept
    lengths = ops.cast(ops.sum(kept, axis=1), "int32")
    at = array.arange(n)[None]
    rank = array.where(mask, before, lengths[:, None] + at - before)
    order = ops.cast(ops.argsort(rank, axis=1), "int32")
    return Places(order, ops.cast(rank, "int32"), lengths)


def as_mask(name, mask, shape, checks=None):
    """Boolean tensor (B, N) of a mask that broadcasts to `shape` (batch axes, N)."""
    tensor = ops.convert_to_tensor(mask)
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    if dtype != "bool":
        raise ValueError(
            f"Expected a boolean {name} (lengths are integers). Received: dtype of {name}={dtype}"
        )
    wide = len(shape) - len(tensor.shape)
    sizes = zip(shape[max(wide, 0) :], tensor.shape, strict=False)
    fits = wide >= 0 and all(
        not isinstance(have, int) or not isinstance(want, int) or have in (1, want)
        for want, have in sizes
    )
    if not fits:
        raise ValueError(
            f"Expected {name} of shape {tuple(shape)}. "
            f"Received: shape of {name}={tuple(tensor.shape)}"
        )
    batch = 1
    for size in shape[:-1]:
        batch = batch * size
    return ops.reshape(ops.broadcast_to(tensor, shape), (batch, shape[-1]))


def _take(x, index, axis):
    """`x` along an axis by an index (B, N) for each example."""
    if x.shape[0] == 1:
        x = ops.broadcast_to(x, (ops.shape(index)[0], *ops.shape(x)[1:]))
    return array.take_rows(x, index, axis)


def _look_up(table, x):
    """`table[b, x[b, ...]]` for x (B, ...); negative x stay, and those past the end are N."""
    batch, n = ops.shape(table)
    flat = ops.reshape(x, (batch, -1))
    safe = array.where(flat < 0, 0, array.where(flat < n, flat, n - 1))
    found = array.take_along_axis(table, safe, 1)
    found = array.where(flat < 0, flat, array.where(flat < n, found, n))
    return ops.reshape(found, ops.shape(x))
