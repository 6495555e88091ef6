"""Sentences in batches of like length, and of few shapes where every shape is compiled."""

import keras


def padded_size(n, least=1):
    """The size to which a batch of size `n` is padded.

    Where every new shape is compiled, on JAX and TensorFlow, the next of 1, 2, 3, 4, 6, 8, 12, ...
    that is not below `least`; else `n`.
    """
    if keras.backend.backend() not in ("jax", "tensorflow"):
        return n
    n = max(n, least)
    power = 1 << (n - 1).bit_length()
    return 3 * power // 4 if 4 * n <= 3 * power and power > 2 else power


def batches_by_length(sizes, budget):
    """Batches of items of like size, whose padded size stays within a budget.

    An item beyond the budget is a batch of its own.

    Args:
        sizes: Size of each item, at least 1.
        budget: Most of `number of items · largest size` in a batch.

    Returns:
        List of lists of the numbers of items, from the smallest size to the largest.

    Example:

    >>> from keras_struct.treebank.batches import batches_by_length
    >>> batches_by_length([3, 9, 2, 4], budget=8)
    [[2, 0], [3], [1]]
    """
    batches: list[list[int]] = []
    for item in sorted(range(len(sizes)), key=lambda i: sizes[i]):
        if not batches or (len(batches[-1]) + 1) * sizes[item] > budget:
            batches.append([])
        batches[-1].append(item)
    return batches
