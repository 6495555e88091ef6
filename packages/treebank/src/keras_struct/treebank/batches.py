"""Sentences in batches of like length."""


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
