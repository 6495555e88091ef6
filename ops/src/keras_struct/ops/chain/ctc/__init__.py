"""Connectionist temporal classification."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import keras
from keras import ops

from keras_struct.ops import array
from keras_struct.ops.annotations import ArrayLike, Pair
from keras_struct.ops.chain import shift
from keras_struct.ops.distribution import Distribution
from keras_struct.ops.numerics import FORBIDDEN, any_over, compute_dtype
from keras_struct.ops.structure import (
    Structure,
    as_pair,
    as_potential,
    as_sequence,
    batch_of,
    check_rank,
    flatten_batch,
    one_hot,
    time_mask,
)
from keras_struct.ops.symbolic import public
from keras_struct.ops.validation import Checks


@public
def ctc(
    log_probs: ArrayLike,
    labels: ArrayLike,
    lengths: Pair = None,
    blank: int = 0,
    temperature: ArrayLike = 1.0,
    mask: Pair = None,
    implementation: str | None = None,
) -> Distribution:
    """Distribution over the alignments of T frames with a label sequence (CTC).

    An alignment emits one symbol per frame; without repetitions and blanks it reads `labels`. Its
    score is the sum of the log-probabilities of what it emits, so that the value at temperature 1
    is `log p(labels | log_probs)`: minus `keras.ops.ctc_loss`.

    Shapes: `T` frames, `K` symbols with the blank, `S` labels.

    Args:
        log_probs: (..., T, K) scores, usually `keras.ops.log_softmax` of logits. They are not
            normalised here: of raw logits the value is no log-probability, and may be above 0.
        labels: (..., S) integers in [0, K) other than `blank`.
        lengths: Pair `(frames, labels)` of integers (...,), or None for T and S. Either may be
            None. Too few frames for the labels: no structure, value minus infinity.
        blank: Symbol of the blank.
        temperature: Positive number, tensor or variable, () or (...,); the number 0 is the best
            alignment.
        mask: Pair of booleans (..., T) and (..., S), or None, instead of lengths: a frame or label
            where it is False is not there.
        implementation: Name, or None for the best one (see `ops.explain`).

    Returns:
        `Distribution`. Events are positions in the extended label sequence (..., T), int32: at
        every frame, 2i+1 says that it emits `labels[i]`, an even number that it emits a blank, and
        -1 is padding.

    Raises:
        ValueError: For shapes, labels or lengths that do not fit.

    Example:

    >>> import numpy as np
    >>> from keras_struct import ops
    >>> d = ops.ctc(np.log(np.full((1, 3, 2), 0.5, "float32")), np.array([[1]]))
    >>> print(np.round(np.exp(np.array(d.value())), 3))  # 6 of the 8 strings of length 3 read "1"
    [0.75]

    Source: Graves et al. (2006), Connectionist temporal classification, section 4.1.
    """
    return Distribution(CTC(log_probs, labels, lengths, blank, mask), temperature, implementation)


@dataclasses.dataclass(frozen=True)
class CTCSpec:
    """A chain of moves 0, 1 and 2 in the extended labels, see `shift`.

    Context: `final`, number of frames, `reach` (B, S, M): 0 or `FORBIDDEN`.
    """


class CTC(Structure):
    op = "ctc"
    family = "chain"
    spec = CTCSpec()
    axes: Mapping[str, tuple] = {"log_probs": (0, None)}

    def __init__(self, log_probs, labels, lengths, blank, mask):
        log_probs = as_potential("log_probs", log_probs)
        check_rank("log_probs", log_probs, 2, "T, K")
        if log_probs.shape[-2] == 0:
            raise ValueError(
                "Expected at least one frame (use lengths for empty sequences). "
                f"Received: shape of log_probs={tuple(log_probs.shape)}"
            )
        self.checks = Checks()
        self.dtype = log_probs.dtype
        self.compute = compute_dtype(log_probs.dtype)
        self.batch_shape = batch_of(log_probs, 2)
        self.n, self.k = ops.shape(log_probs)[-2:]
        given = labels
        labels = ops.convert_to_tensor(labels)
        if not keras.backend.is_int_dtype(labels.dtype):
            raise ValueError(f"Expected integer labels. Received: dtype of labels={labels.dtype}")
        if len(labels.shape) != len(log_probs.shape) - 1:
            raise ValueError(
                f"Expected labels of shape {(*log_probs.shape[:-2], 'S')}. "
                f"Received: shape of labels={tuple(labels.shape)}"
            )
        if not isinstance(blank, int) or blank < 0 or (isinstance(self.k, int) and blank >= self.k):
            raise ValueError(f"Expected a blank in [0, {self.k}). Received: blank={blank}")
        most = ops.shape(labels)[-1]
        frames, count = (
            as_sequence(f"lengths[{i}]", length, mask, self.batch_shape, n, self.checks)
            for i, (length, mask, n) in enumerate(
                zip(as_pair("lengths", lengths), as_pair("mask", mask), (self.n, most), strict=True)
            )
        )
        self.sequences = (frames, count)
        labels = ops.cast(flatten_batch(labels, 1), "int32")
        if count.places is not None:
            labels = count.places.gather(labels, 1)
        self._check_labels(given, labels, count.lengths, blank)
        labels = array.where(time_mask(count.lengths, most), labels, blank)
        self.potentials = {"log_probs": ops.cast(flatten_batch(log_probs, 2), self.compute)}
        valid = frames.mask(self.n)
        self.padding = {"log_probs": (None if valid is None else valid[..., None], 0.0)}
        blanks = ops.full_like(labels, blank)
        pairs = ops.stack([blanks, labels], axis=2)
        pairs = ops.reshape(pairs, (ops.shape(labels)[0], 2 * most))
        last = ops.full_like(count.lengths, blank)[:, None]
        self.extended = ops.concatenate([pairs, last], axis=1)
        final, self.reach = _ends_and_reach(self.extended, count.lengths, blank, self.compute)
        self.context = (final, frames.lengths, self.reach)
        self.compact()

    def _check_labels(self, given, labels, count, blank):
        k, most = self.k, labels.shape[1]  # unknown where there are no values to check

        def check(values, counts):
            values = values.reshape(-1, most)
            inside = values[counts.reshape(-1, 1) > range(most)]
            if inside.size and (inside.min() < 0 or inside.max() >= k or (inside == blank).any()):
                raise ValueError(
                    f"Expected labels in [0, {k}) other than blank={blank}. "
                    f"Received: labels={values.astype(int)}"
                )

        if isinstance(k, int) and most:
            self.checks.add((given, count), (labels, count), check)

    def fold(self, potentials):
        emitted = ops.take_along_axis(potentials["log_probs"], self.extended[:, None, :], axis=2)
        moves = emitted[..., None] + self.reach[:, None]
        return (shift.free_padding(moves, time_mask(self.context[1], self.n)),)

    def unfold(self, marginals):
        occupied = ops.sum(marginals[0], axis=3)
        mask = ops.cast(time_mask(self.context[1], self.n), occupied.dtype)
        symbols = one_hot(self.extended, self.k, occupied.dtype)
        return {"log_probs": array.matmul(occupied * mask[..., None], symbols)}

    def parts(self, event, context):
        final, lengths, _ = context
        return (self._walk(event, final, lengths)[0],)

    def possible(self, event, context):
        final, lengths, reach = context
        used, possible, last = self._walk(event, final, lengths)
        size = ops.shape(final)[1]
        ends = ops.take_along_axis(final, ops.clip(last, 0, size - 1)[:, None], axis=1)
        forbidden = any_over(ops.logical_and(used > 0, reach[:, None] < 0), (1, 2, 3))
        inside = ops.logical_and(last >= 0, last < size)
        possible = ops.logical_and(possible, ops.logical_and(inside, ends[:, 0] == 0))
        return ops.logical_and(possible, ops.logical_not(forbidden))

    def restore(self, event, places):
        frames, labels = places
        if labels is not None:  # 2i + 1 emits label i, 2i + 2 the blank after it
            label = labels.positions(array.where(event > 0, (event - 1) // 2, -1))
            moved = 2 * label + 1 + ops.cast(ops.equal(event % 2, 0), "int32")
            event = array.where(event > 0, moved, event)
        return event if frames is None else frames.scatter(event, 1)

    def compacted(self, event, places):
        frames, labels = places
        if labels is not None:
            label = labels.ranks(array.where(event > 0, (event - 1) // 2, -1))
            moved = 2 * label + 1 + ops.cast(ops.equal(event % 2, 0), "int32")
            event = array.where(event > 0, moved, event)
        return event if frames is None else frames.gather(event, 1)

    def _walk(self, event, final, lengths):
        """Indicator, reachability and last state, where the path stays put in the padding."""
        n = ops.shape(event)[1]
        valid = time_mask(lengths, n)
        at_end = ops.take_along_axis(event, ops.maximum(lengths - 1, 0)[:, None], axis=1)
        last = array.where(lengths[:, None] > 0, at_end, 0)
        states = array.where(valid, event, last)
        moves = ops.zeros_like(final)[:1, None, :, None] + ops.zeros((3,), dtype=self.compute)
        used, possible = shift.indicator(states, moves)
        return used, possible, last[:, 0]


def _ends_and_reach(extended, count, blank, dtype):
    """Where a path may end, (B, S), and which moves there are, (B, S, 3): 0 or `FORBIDDEN`."""
    size = ops.shape(extended)[1]
    position = ops.arange(size, dtype="int32")[None]
    last = 2 * count[:, None]
    ends = ops.logical_or(position == last, ops.logical_and(position == last - 1, last > 0))
    final = (1.0 - ops.cast(ends, dtype)) * FORBIDDEN
    # A jump over a blank is allowed between different labels.
    before = ops.pad(extended, [(0, 0), (2, 0)], constant_values=blank)[:, :size]
    jump = ops.logical_and(position % 2 == 1, ops.not_equal(extended, before))
    jump = ops.logical_and(jump, position >= 3)
    jump = (1.0 - ops.cast(jump, dtype)) * FORBIDDEN
    return final, ops.stack([ops.zeros_like(jump), ops.zeros_like(jump), jump], axis=-1)
