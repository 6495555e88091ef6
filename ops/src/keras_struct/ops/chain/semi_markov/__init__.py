"""Semi-Markov conditional random field: labelled segmentations."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.annotations import ArrayLike
from keras_struct.ops.distribution import Distribution
from keras_struct.ops.numerics import FORBIDDEN, compute_dtype
from keras_struct.ops.structure import (
    Structure,
    as_potential,
    as_sequence,
    batch_of,
    check_rank,
    flatten_batch,
    flatten_shared,
    one_hot,
    time_mask,
)
from keras_struct.ops.symbolic import public
from keras_struct.ops.validation import Checks


@public
def semi_markov(
    segments: ArrayLike,
    transitions: ArrayLike,
    start: ArrayLike | None = None,
    end: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    mask: ArrayLike | None = None,
    implementation: str | None = None,
) -> Distribution:
    """Distribution over the labelled segmentations of a sequence (semi-Markov CRF).

    A segmentation covers the positions by adjacent segments of 1 to D positions, each with a
    label. Its score is the sum of `segments[n, d, k]` over its segments (start n, length d + 1,
    label k), of `transitions[k, k']` over adjacent segments, plus `start[k]` of the first and
    `end[k]` of the last label.

    Shapes: `...` batch axes, `N` positions, `D` longest segment, `K` labels.

    Args:
        segments: (..., N, D, K) scores. Segments that reach over the end are never used.
        transitions: (K, K) or (..., K, K) scores of going from the first label to the second.
        start: (K,) or (..., K) scores of the first label, or None for zeros.
        end: (K,) or (..., K) scores of the last label, or None for zeros.
        lengths: Integers (...,) between 0 and N; None for N. Length 0 has one structure, the empty
            segmentation, and value 0.
        temperature: Positive number, tensor or variable, () or (...,); the number 0 is Viterbi.
        mask: Booleans (..., N), instead of lengths: a position where it is False is not part of
            the sequence, wherever it stands, nor of a segment that goes on behind it.
        implementation: Name, or None for the best one (see `ops.explain`).

    Returns:
        `Distribution`. Events are (..., N, 2), int32: label and length at the first position of
        every segment, -1 elsewhere.

    Raises:
        ValueError: For shapes or lengths that do not fit.

    Example:

    >>> import numpy as np
    >>> from keras_struct import ops
    >>> d = ops.semi_markov(np.zeros((1, 4, 2, 1), "float32"), np.zeros((1, 1), "float32"))
    >>> print(np.round(np.exp(np.array(d.value())), 3))  # 4 as a sum of ones and twos
    [5.]

    Source: Sarawagi and Cohen (2004), Semi-Markov conditional random fields, section 3.
    """
    structure = SemiMarkov(segments, transitions, start, end, lengths, mask)
    return Distribution(structure, temperature, implementation)


@dataclasses.dataclass(frozen=True)
class SemiMarkovSpec:
    """Potentials: segments by their last position (B, N, D, K) and transitions (B or 1, K, K).

    Context: lengths (B,).
    """


class SemiMarkov(Structure):
    op = "semi_markov"
    family = "chain"
    event_rank = 2
    spec = SemiMarkovSpec()
    axes: Mapping[str, tuple] = {"segments": (0, None, None)}

    def __init__(self, segments, transitions, start, end, lengths, mask):
        segments = as_potential("segments", segments)
        transitions = as_potential("transitions", transitions)
        check_rank("segments", segments, 3, "N, D, K")
        if segments.shape[-3] == 0:
            raise ValueError(
                "Expected at least one position (use lengths for empty sequences). "
                f"Received: shape of segments={tuple(segments.shape)}"
            )
        self.checks = Checks()
        self.dtype = segments.dtype
        self.compute = compute_dtype(segments.dtype)
        self.batch_shape = batch_of(segments, 3)
        self.n = ops.shape(segments)[-3]
        self.longest, self.k = segments.shape[-2:]
        if self.longest is None or self.k is None or self.longest < 1:
            raise ValueError(
                "Expected segments with a static number of lengths D >= 1 and labels K. "
                f"Received: shape of segments={tuple(segments.shape)}"
            )
        if tuple(transitions.shape[-2:]) != (self.k, self.k):
            raise ValueError(
                f"Expected transitions of shape (..., {self.k}, {self.k}). "
                f"Received: shape of transitions={tuple(transitions.shape)}"
            )
        named = {
            "segments": flatten_batch(segments, 3),
            "transitions": flatten_shared("transitions", transitions, 2, self.batch_shape),
        }
        for name, x in (("start", start), ("end", end)):
            if x is not None:
                x = as_potential(name, x)
                if x.shape[-1] != self.k:
                    raise ValueError(
                        f"Expected {name} of shape (..., {self.k}). "
                        f"Received: shape of {name}={tuple(x.shape)}"
                    )
                named[name] = flatten_shared(name, x, 1, self.batch_shape)
        self.potentials = {key: ops.cast(x, self.compute) for key, x in named.items()}
        positions = as_sequence("lengths", lengths, mask, self.batch_shape, self.n, self.checks)
        self.sequences, self.context = (positions,), (positions.lengths,)
        # Also without lengths some segments reach over the end.
        self.padding = {"segments": (self._inside(positions.lengths)[..., None], FORBIDDEN)}
        self.compact()

    def fold(self, potentials):
        (lengths,) = self.context
        segments = potentials["segments"]
        if "start" in potentials:
            first = ops.cast(ops.arange(self.n) == 0, segments.dtype)[None, :, None, None]
            segments = segments + first * potentials["start"][:, None, None, :]
        if "end" in potentials:
            last = ops.cast(self._last(lengths), segments.dtype)[..., None]
            segments = segments + last * potentials["end"][:, None, None, :]
        return by_end(segments, FORBIDDEN), potentials["transitions"]

    def unfold(self, marginals):
        (lengths,) = self.context
        segments = by_start(marginals[0])
        named = {"segments": segments, "transitions": marginals[1]}
        if "start" in self.potentials:
            named["start"] = ops.sum(segments[:, 0], axis=1)
        if "end" in self.potentials:
            last = ops.cast(self._last(lengths), segments.dtype)[..., None]
            named["end"] = ops.sum(segments * last, axis=(1, 2))
        return named

    def parts(self, event, context):
        (lengths,) = context
        starts = ops.logical_and(time_mask(lengths, self.n), event[..., 1] > 0)
        label = array.where(starts, event[..., 0], -1)
        length = one_hot(array.where(starts, event[..., 1] - 1, -1), self.longest, self.compute)
        segments = length[..., None] * one_hot(label, self.k, self.compute)[:, :, None, :]
        ended = by_end(segments, 0.0)
        # The label that ends at n-1 meets the one that starts at n.
        left = ops.sum(ended, axis=2)[:, :-1]
        right = ops.sum(segments, axis=2)[:, 1:]
        return ended, array.matmul(ops.swapaxes(left, 1, 2), right)

    def possible(self, event, context):
        (lengths,) = context
        segments = self.parts(event, context)[0]
        used = by_start(segments)
        inside = ops.cast(self._inside(lengths), used.dtype)
        every = ops.sum(used, axis=3)
        lost = ops.sum(every * (1.0 - inside), axis=(1, 2))
        starts = ops.logical_and(time_mask(lengths, self.n), event[..., 1] > 0)
        claimed = ops.sum(ops.cast(starts, used.dtype), axis=1)
        known = ops.equal(claimed, ops.sum(every, axis=(1, 2)))
        ends = ops.sum(segments, axis=(2, 3))
        begins = ops.sum(every, axis=2)
        valid = ops.cast(time_mask(lengths, self.n), used.dtype)
        cover = ops.cumsum(begins, axis=1) - ops.cumsum(ends, axis=1) + ends
        whole = ops.all(ops.abs(cover - valid) < 0.5, axis=1)
        return ops.logical_and(ops.logical_and(whole, known), lost == 0)

    def _inside(self, lengths):
        """(B, N, D): the segment ends before the length."""
        ends = ops.arange(self.n, dtype="int32")[:, None] + ops.arange(self.longest, dtype="int32")
        return ends[None] < lengths[:, None, None]

    def _last(self, lengths):
        ends = ops.arange(self.n, dtype="int32")[:, None] + ops.arange(self.longest, dtype="int32")
        return ends[None] == lengths[:, None, None] - 1


def by_end(x, fill):
    """`out[n, d] = x[n - d, d]`: segments (B, N, D, K) indexed by their last position."""
    columns = []
    for d in range(x.shape[2]):
        column = x[:, :, d]
        if d:
            pad = ops.full_like(column[:, :1], fill)
            pad = ops.concatenate([pad] * d, axis=1)
            column = ops.concatenate([pad, column], axis=1)[:, : ops.shape(x)[1]]
        columns.append(column)
    return ops.stack(columns, axis=2)


def by_start(x):
    """The transpose of `by_end`: `out[n, d] = x[n + d, d]`, zero beyond the end."""
    columns = []
    for d in range(x.shape[2]):
        column = x[:, :, d]
        if d:
            pad = ops.concatenate([ops.zeros_like(column[:, :1])] * d, axis=1)
            column = ops.concatenate([column, pad], axis=1)[:, d:]
        columns.append(column)
    return ops.stack(columns, axis=2)
