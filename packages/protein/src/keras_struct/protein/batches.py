"""Batches of chains, or of pairs of chains, of like length."""

import math

import keras
import numpy as np

QUANTUM = 32  # lengths are padded to multiples of it: few shapes, so compiled backends compile few


def batches_by_shape(lengths, budget, most=None, quantum=QUANTUM, order=None):
    """Batches of what has one shape once it is padded to multiples of a quantum.

    Args:
        lengths: Of each item, a tuple of the lengths of its axes.
        budget: Most cells of a batch, padding included; one item is always allowed.
        most: Most items of a batch; None for no limit.
        quantum: What padded lengths are multiples of.
        order: Called with the items of one shape, returns them in the order to take them.

    Returns:
        List of (padded lengths, indices of the items), by increasing shape.

    Example:

    >>> from keras_struct.protein.batches import batches_by_shape
    >>> batches_by_shape([(30, 40), (70, 5), (9, 64)], budget=4096)
    [((32, 64), [0, 2]), ((96, 32), [1])]
    """
    groups: dict[tuple, list] = {}
    for k, item in enumerate(lengths):
        groups.setdefault(tuple(-(-n // quantum) * quantum for n in item), []).append(k)
    batches = []
    for shape in sorted(groups):
        members = groups[shape] if order is None else order(groups[shape])
        step = max(1, budget // math.prod(shape))
        step = step if most is None else min(step, most)
        batches += [(shape, members[k : k + step]) for k in range(0, len(members), step)]
    return batches


def padded(arrays, length, value=0):
    """Arrays `(L, ...)` as one `(B, length, ...)`."""
    out = np.full((len(arrays), length, *arrays[0].shape[1:]), value, arrays[0].dtype)
    for row, array in enumerate(arrays):
        out[row, : len(array)] = array
    return out


def batch_rows(batch):
    """The items of a batch, the last one again up to a power of two where a shape is compiled."""
    if keras.backend.backend() not in ("jax", "tensorflow"):
        return batch
    return batch + [batch[-1]] * ((1 << (len(batch) - 1).bit_length()) - len(batch))
