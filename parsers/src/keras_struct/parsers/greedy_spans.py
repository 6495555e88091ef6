"""Brackets of independent spans, taken greedily: the baseline of a chart parser."""

from __future__ import annotations

import numpy as np

from keras_struct.ops.annotations import ArrayLike


def greedy_spans(scores: ArrayLike, null: int = 0) -> list[tuple[int, int, int]]:
    """The spans that are likelier a constituent than not, the surest first, without crossings.

    Args:
        scores: Array `(N, N, K)` of one sentence, [first word, last word, label], such as
            `layers.unpack(packed).scores[b, :n, :n]`.
        null: The label that stands for no constituent.

    Returns:
        List of `(start, end, label)`, end exclusive, in the order taken. The whole sentence is
        always there, with its best label that is not `null`.

    Example:

    >>> import numpy as np
    >>> from keras_struct.parsers import greedy_spans
    >>> scores = np.zeros((3, 3, 2))
    >>> scores[[0, 0, 1], [2, 1, 2], 1] = [3, 1, 2]  # the last two cross
    >>> greedy_spans(scores)
    [(0, 3, 1), (1, 3, 1)]
    """
    n = len(scores)
    others = np.delete(scores, null, axis=-1)
    labels = np.delete(np.arange(scores.shape[-1]), null)[np.argmax(others, axis=-1)]
    gain = np.max(others, axis=-1) - scores[..., null]
    gain[0, n - 1] = np.inf
    starts, ends = np.nonzero(np.triu(gain > 0))
    order = np.argsort(-gain[starts, ends], kind="stable")
    taken: list[tuple[int, int, int]] = []
    for i, j in zip(starts[order].tolist(), ends[order].tolist(), strict=True):
        if not any(s < i < e <= j or i < s <= j < e - 1 for s, e, _ in taken):
            taken.append((i, j + 1, int(labels[i, j])))
    return taken
