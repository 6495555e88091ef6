"""Batches of chains of like length."""

import numpy as np

QUANTUM = 32  # lengths are padded to multiples of it: few shapes, so compiled backends compile few


def padded_length(length):
    """The least multiple of 32 that is not below a length."""
    return -(-length // QUANTUM) * QUANTUM


def batches_by_size(sizes, budget):
    """Lists of indices, by increasing size; of each the count times the largest is in budget."""
    batches: list[list[int]] = []
    batch: list[int] = []
    for k in sorted(range(len(sizes)), key=lambda k: sizes[k]):
        if batch and sizes[k] * (len(batch) + 1) > budget:
            batches.append(batch)
            batch = []
        batch.append(k)
    return [*batches, batch] if batch else batches


def padded(arrays, length, value=0):
    """Arrays `(L, ...)` as one `(B, length, ...)`."""
    out = np.full((len(arrays), length, *arrays[0].shape[1:]), value, arrays[0].dtype)
    for row, array in enumerate(arrays):
        out[row, : len(array)] = array
    return out
