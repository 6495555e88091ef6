"""The places of one side of a plan: those that are masked out go, those that stay move together."""

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.masks import as_mask
from keras_struct.ops.structure import as_lengths, time_mask


class Places:
    """Which places of a side there are, and where they stand once the others are gone.

    Attributes:
        size: Places of the user's array.
        lengths: (B,), how many there are.
    """

    def __init__(self, name, size, lengths, mask, batch_shape, checks):
        self.size = size
        self._order = self._rank = None
        if mask is None:
            self.lengths = as_lengths(f"lengths of {name}", lengths, batch_shape, size, checks)
        else:
            there = there_are(name, size, lengths, mask, batch_shape, checks)
            self.lengths = ops.sum(ops.cast(there, "int32"), axis=1)
            places = ops.arange(size, dtype="int32")[None]
            self._order = ops.argsort(ops.where(there, places, places + size), axis=1)
            rank = ops.cumsum(ops.cast(there, "int32"), axis=1)
            self._rank = ops.where(there, rank, ops.zeros_like(rank))  # 0: it is gone

    def features(self, x, padding=0.0):
        """(B, L, ...) of the places that there are, and padding behind; at least one place."""
        if self._order is not None:
            x = _taken(x, self._order)
        if isinstance(self.size, int) and not self.size:
            x = array.pad(x, [(0, 0), (0, 1)] + [(0, 0)] * (len(x.shape) - 2), 0)
        there = time_mask(self.lengths, ops.shape(x)[1])
        there = ops.reshape(there, (*ops.shape(there), *[1] * (len(x.shape) - 2)))
        # What the padding holds, NaN included, must not reach a product.
        return array.where(there, x, ops.full_like(x, padding))

    def restore(self, x, first=0):
        """(B, first + L, ...) where the user has these places, 0 for those that are gone."""
        if isinstance(self.size, int) and not self.size:
            return x[:, :first]
        if self._rank is None:
            return x
        head, x = x[:, :first], x[:, first:]
        x = array.concatenate([ops.zeros_like(x[:, :1]), x], 1)
        return array.concatenate([head, _taken(x, self._rank)], 1)


def there_are(name, size, lengths, mask, batch_shape, checks):
    """Boolean (B, L): within its length, and not masked out."""
    lengths = as_lengths(f"lengths of {name}", lengths, batch_shape, size, checks)
    there = time_mask(lengths, size)
    if mask is None:
        return there
    return ops.logical_and(there, as_mask(f"mask of {name}", mask, (*batch_shape, size)))


def _taken(x, places):
    """`x[b, places[b]]`."""
    rest = ops.shape(x)[2:]
    places = ops.reshape(places, (*ops.shape(places), *[1] * len(rest)))
    places = ops.broadcast_to(places, (*ops.shape(places)[:2], *rest))
    return array.take_along_axis(x, places, 1)
