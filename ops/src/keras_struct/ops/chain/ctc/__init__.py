"""Connectionist temporal classification."""

import keras
from keras import ops

from keras_struct.ops import array
from keras_struct.ops.chain import shift
from keras_struct.ops.distribution import Distribution
from keras_struct.ops.numerics import FORBIDDEN, clean, compute_dtype
from keras_struct.ops.structure import (
    Structure,
    as_lengths,
    as_potential,
    as_temperature,
    batch_of,
    check_rank,
    concrete,
    flatten_batch,
    one_hot,
    time_mask,
)
from keras_struct.ops.symbolic import public


@public
def ctc(log_probs, labels, lengths=None, blank=0, temperature=1.0, implementation=None):
    """Distribution over the alignments of T frames with a label sequence (CTC).

    An alignment emits one symbol per frame; without repetitions and blanks it reads `labels`. Its
    score is the sum of the log-probabilities of what it emits, so that the value at temperature 1
    is `log p(labels | log_probs)`: minus `keras.ops.ctc_loss`.

    Shapes: `T` frames, `K` symbols with the blank, `S` labels.

    Args:
        log_probs: (..., T, K) scores, usually `keras.ops.log_softmax` of logits.
        labels: (..., S) integers in [0, K) other than `blank`.
        lengths: Pair `(frames, labels)` of integers (...,), or None for T and S. Either may be
            None. Too few frames for the labels: no structure, value minus infinity.
        blank: Symbol of the blank.
        temperature: Positive number, tensor or variable, () or (...,); the number 0 is the best
            alignment.
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
    structure = CTC(log_probs, labels, lengths, blank)
    temperature = as_temperature(temperature, structure.batch_shape, structure.compute)
    return Distribution(structure, temperature, implementation)


class CTC(Structure):
    op = "ctc"

    def __init__(self, log_probs, labels, lengths, blank):
        log_probs = as_potential("log_probs", log_probs)
        check_rank("log_probs", log_probs, 2, "T, K")
        if log_probs.shape[-2] == 0:
            raise ValueError(
                "Expected at least one frame (use lengths for empty sequences). "
                f"Received: shape of log_probs={tuple(log_probs.shape)}"
            )
        self.dtype = log_probs.dtype
        self.compute = compute_dtype(log_probs.dtype)
        self.batch_shape = batch_of(log_probs, 2)
        self.n, self.k = ops.shape(log_probs)[-2:]
        labels = ops.convert_to_tensor(labels)
        if not keras.backend.is_int_dtype(labels.dtype):
            raise ValueError(f"Expected integer labels. Received: dtype of labels={labels.dtype}")
        if len(labels.shape) != len(log_probs.shape) - 1 or labels.shape[-1] is None:
            raise ValueError(
                f"Expected labels of shape {(*log_probs.shape[:-2], 'S')} with a static S. "
                f"Received: shape of labels={tuple(labels.shape)}"
            )
        if not isinstance(blank, int) or blank < 0 or (isinstance(self.k, int) and blank >= self.k):
            raise ValueError(f"Expected a blank in [0, {self.k}). Received: blank={blank}")
        frames, count = (None, None) if lengths is None else lengths
        most = labels.shape[-1]
        self.lengths = as_lengths("lengths[0]", frames, self.batch_shape, self.n)
        count = as_lengths("lengths[1]", count, self.batch_shape, most)
        labels = ops.cast(flatten_batch(labels, 1), "int32")
        labels = array.where(time_mask(count, most), labels, blank)
        _check_labels(labels, count, blank, self.k)
        self.potentials = {"log_probs": ops.cast(flatten_batch(log_probs, 2), self.compute)}
        blanks = ops.full_like(count, blank)
        columns = [blanks]
        for label in ops.unstack(labels, most, axis=1) if most else []:
            columns += [label, blanks]
        self.extended = ops.stack(columns, axis=1)
        size = 2 * most + 1
        position = ops.arange(size, dtype="int32")[None]
        last = 2 * count[:, None]
        ends = ops.logical_or(position == last, ops.logical_and(position == last - 1, last > 0))
        final = (1.0 - ops.cast(ends, self.compute)) * FORBIDDEN
        # A jump over a blank is allowed between different labels.
        before = ops.pad(self.extended, [(0, 0), (2, 0)], constant_values=blank)[:, :size]
        jump = ops.logical_and(position % 2 == 1, self.extended != before)
        jump = ops.logical_and(jump, position >= 3)
        jump = (1.0 - ops.cast(jump, self.compute)) * FORBIDDEN
        self.reach = ops.stack([ops.zeros_like(jump), ops.zeros_like(jump), jump], axis=-1)
        self.context = (final, self.lengths, self.reach)

    def clean_potentials(self, temperature):
        mask = time_mask(self.lengths, self.n)[..., None]
        return {"log_probs": clean(self.potentials["log_probs"], mask, temperature)}

    def fold(self, potentials):
        emitted = ops.take_along_axis(potentials["log_probs"], self.extended[:, None, :], axis=2)
        moves = emitted[..., None] + self.reach[:, None]
        return (shift.free_padding(moves, time_mask(self.lengths, self.n)),)

    def unfold(self, marginals):
        occupied = ops.sum(marginals[0], axis=3)
        mask = ops.cast(time_mask(self.lengths, self.n), occupied.dtype)
        symbols = one_hot(self.extended, self.k, occupied.dtype)
        return {"log_probs": array.matmul(occupied * mask[..., None], symbols)}

    def parts(self, event, context):
        final, lengths, _ = context
        return (self._walk(event, final, lengths)[0],)

    def possible(self, event, context):
        final, lengths, reach = context
        used, possible, last = self._walk(event, final, lengths)
        ends = ops.take_along_axis(final, ops.clip(last, 0, final.shape[1] - 1)[:, None], axis=1)
        forbidden = ops.any(ops.logical_and(used > 0, reach[:, None] < 0), axis=(1, 2, 3))
        inside = ops.logical_and(last >= 0, last < final.shape[1])
        possible = ops.logical_and(possible, ops.logical_and(inside, ends[:, 0] == 0))
        return ops.logical_and(possible, ops.logical_not(forbidden))

    def _walk(self, event, final, lengths):
        """Indicator, reachability and last state, where the path stays put in the padding."""
        n = ops.shape(event)[1]
        valid = time_mask(lengths, n)
        at_end = ops.take_along_axis(event, ops.maximum(lengths - 1, 0)[:, None], axis=1)
        last = array.where(lengths[:, None] > 0, at_end, 0)
        states = array.where(valid, event, last)
        moves = ops.zeros((1, 1, final.shape[1], 3), dtype=self.compute)
        used, possible = shift.indicator(states, moves)
        return used, possible, last[:, 0]


def _check_labels(labels, count, blank, k):
    values, counts = concrete(labels), concrete(count)
    if values is None or counts is None or not isinstance(k, int):
        return
    inside = values[counts[:, None] > ops.convert_to_numpy(ops.arange(values.shape[1]))[None]]
    if inside.size and (inside.min() < 0 or inside.max() >= k or (inside == blank).any()):
        raise ValueError(
            f"Expected labels in [0, {k}) other than blank={blank}. Received: labels={values}"
        )
