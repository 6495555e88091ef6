"""Labelled segmentations: `(B, N, 2)` integers with label and length at the start of a segment.

Elsewhere, and in the padding, they are -1. This is the event of `ops.semi_markov`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from keras import ops as K

from keras_struct.layers.annotations import Span
from keras_struct.ops import array
from keras_struct.ops.annotations import ArrayLike


def spans_to_segments(
    spans: Iterable[Span], n: int, labels: Sequence[str], outside: str = "O"
) -> np.ndarray:
    """Target of a `SemiMarkovCRF`: the segments of one sequence from its labelled spans.

    Args:
        spans: List of `(start, end, type)`, the end exclusive, as `tag_spans` returns it. They do
            not overlap.
        n: Length of the sequence.
        labels: Names of the labels of the `SemiMarkovCRF`.
        outside: Label of the tokens in no span; each is a segment of length 1.

    Returns:
        NumPy array `(n, 2)`, int32.

    Example:

    >>> from keras_struct.layers import spans_to_segments
    >>> spans_to_segments([(1, 3, "PER")], 3, ["O", "PER"]).tolist()
    [[0, 1], [1, 2], [-1, -1]]
    """
    segments = np.full((n, 2), -1, "int32")
    covered = np.zeros(n, bool)
    for start, end, kind in spans:
        if not 0 <= start < end <= n or covered[start:end].any():
            raise ValueError(
                f"Expected spans within 0 and {n} that do not overlap. Received: spans={spans}"
            )
        covered[start:end] = True
        segments[start] = _index(labels, kind), end - start
    for position in np.flatnonzero(~covered):
        segments[position] = _index(labels, outside), 1
    return segments


def segments_to_spans(segments: ArrayLike, labels: Sequence[str], outside: str = "O") -> list[Span]:
    """Labelled spans of one sequence from its segments; the reverse of `spans_to_segments`.

    Args:
        segments: Integers `(N, 2)`.
        labels: Names of the labels.
        outside: Label whose segments are not spans.

    Returns:
        List of `(start, end, type)`, the end exclusive.
    """
    starts = [(n, int(k), int(d)) for n, (k, d) in enumerate(np.asarray(segments)) if d > 0]
    return [(n, n + d, labels[k]) for n, k, d in starts if labels[k] != outside]


def _index(labels, label):
    if label not in labels:
        raise ValueError(f"Expected a label among {labels}. Received: label={label!r}")
    return labels.index(label)


def last_start(starts):
    """For each position the last one, up to it, where `starts` `(B, N)` is True (else N)."""
    n = K.shape(starts)[1]
    positions = K.where(starts, K.arange(n, dtype="int32"), n)
    count = K.cumsum(K.cast(starts, "int32"), axis=1)
    return array.take_along_axis(K.sort(positions, axis=1), K.maximum(count - 1, 0), 1)


def token_labels(segments, valid):
    """Label of each token `(B, N)`, -1 in the padding, from segments `(B, N, 2)`."""
    start = last_start(K.logical_and(valid, segments[..., 1] > 0))
    start = K.minimum(start, K.shape(segments)[1] - 1)
    return K.where(valid, array.take_along_axis(segments[..., 0], start, 1), -1)


def token_marginals(marginals):
    """Probability of each label at each token `(..., N, K)` from that of segments `(..., N, D, K)`.

    Token n lies in the segments that start at n - j and are longer than j, for every j < D.
    """
    longer = K.flip(K.cumsum(K.flip(marginals, axis=-2), axis=-2), axis=-2)
    n = K.shape(marginals)[-3]
    total = longer[..., 0, :]
    for j in range(1, marginals.shape[-2]):
        nothing = K.zeros_like(longer[..., :1, j, :])
        total = total + K.concatenate([nothing] * j + [longer[..., j, :]], axis=-2)[..., :n, :]
    return total


def windows(scores, longest):
    """`(..., N, D, K)`: scores `(..., N, K)` at position n + d, 0 over the end."""
    n = K.shape(scores)[-2]
    nothing = K.zeros_like(scores[..., :1, :])
    padded = K.concatenate([scores] + [nothing] * (longest - 1), axis=-2)
    return K.stack([padded[..., d : n + d, :] for d in range(longest)], axis=-2)


def window_sums(scores, longest):
    """`(..., N, D, K)`: sums of scores `(..., N, K)` over the positions from n to n + d."""
    return K.cumsum(windows(scores, longest), axis=-2)
