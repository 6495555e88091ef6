"""What all structures over binary bracketings share: lengths, events, which brackets are a tree.

Spans are indexed [first word, last word], both included; what stands below the diagonal is never
read. Shapes: `B` examples, `N` words.
"""

from typing import Any

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.numerics import all_over
from keras_struct.ops.structure import Structure, time_mask


class Bracketing(Structure):
    """Binary trees over N words.

    Events are (N, N): the label of every span of the tree (0 without labels), -1 elsewhere.
    """

    event_rank = 2
    n: Any
    compute: str

    def inside(self, lengths):
        """(B, N, N): the span exists and ends before the length."""
        places = ops.arange(self.n, dtype="int32")
        return ops.logical_and(places[:, None] <= places, time_mask(lengths, self.n)[:, None])

    def restore(self, event, places):
        return places[0].scatter(places[0].scatter(event, 1), 2)

    def compacted(self, event, places):
        return places[0].gather(places[0].gather(event, 1), 2)

    def used(self, event, context):
        """(B, N, N): which spans are in the tree."""
        return ops.logical_and(event >= 0, self.inside(context[0]))

    def possible(self, event, context):
        """The whole sentence is a span, every span of two words or more is cut at one place into
        two spans, and there are no others."""
        (lengths, *_) = context
        used = self.used(event, context)
        number = ops.cast(used, self.compute)
        cuts = array.matmul(number, ops.cast(starting_after(used), self.compute))
        places = ops.arange(self.n, dtype="int32")
        longer = ops.logical_and(used, places[:, None] < places)
        binary = ops.logical_or(ops.logical_not(longer), ops.abs(cuts - 1) < 0.5)
        count = ops.cast(ops.sum(number, axis=(1, 2)), "int32")
        last = ops.equal(places, lengths[:, None] - 1)
        whole = ops.any(ops.logical_and(used[:, 0], last), axis=1)
        tree = ops.logical_and(all_over(binary, (1, 2)), ops.equal(count, 2 * lengths - 1))
        tree = ops.logical_and(tree, whole)
        return ops.logical_or(tree, ops.logical_and(ops.equal(lengths, 0), ops.equal(count, 0)))


def split(used):
    """(B, N, N, N) [i, k, j]: which spans i..j are cut after word k, from which are used."""
    both = ops.logical_and(used[:, :, :, None], starting_after(used)[:, None])
    return ops.logical_and(both, used[:, :, None])


def starting_after(used):
    """`out[k, j] = used[k + 1, j]`."""
    return ops.concatenate([used[:, 1:], ops.zeros_like(used[:, :1])], axis=1)


def check_square(name, x, axes, letters):
    """The `axes` of x are N words each, N >= 1."""
    sizes = [x.shape[axis] for axis in axes]
    known = {size for size in sizes if isinstance(size, int)}
    if len(known) > 1 or 0 in known:
        raise ValueError(
            f"Expected {name} of shape (..., {letters}) with N >= 1. "
            f"Received: shape of {name}={tuple(x.shape)}"
        )
