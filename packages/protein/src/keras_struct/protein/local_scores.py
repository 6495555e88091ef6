"""Soft scores of one chain against many, as many a second as a search needs, compiled by Numba.

What `ProteinAligner.match` gives as a score, without map and path and on the host, whatever the
backend: a sum over all local alignments in float64, of exponentials that are scaled as it grows.

A model that was trained on related chains alone aligns any two of them from end to end, helices
above all. For a search a pair of residues is worth less the more residues either fits: then
alignments of unrelated chains stay local, and their scores say something.
"""

import itertools

import keras
import numpy as np

from keras_struct.ops.compiled import compiled

PAIR = 0.5  # what every pair loses, in nats, beside how common its residues are
MEAN = 64  # residues of the background whose mean is taken
HIGHEST = 80.0  # score of a pair over the temperature: beyond it its weight is no float32
LARGE = 1e200  # where a row of sums is scaled down


@compiled
def log_sum(weights, row_open, row_extend, column_open, column_extend):
    """Logarithm of the sum of the weights of all local alignments with affine gaps.

    Args:
        weights: `(L1, L2)`, of a pair of residues.
        row_open, row_extend: `(L1,)`, of a residue of the first chain that is the first or a later
            one in a gap.
        column_open, column_extend: `(L2,)`, the same of the second.
    """
    n, m = weights.shape
    match, skipped_row, skipped_column = np.zeros((3, m + 1))
    before = np.zeros(m + 1)  # all that a pair may follow, one row above
    total, start, exponent = 0.0, 1.0, 0.0
    for i in range(n):
        largest = 0.0
        for j in range(m, 0, -1):
            followed = before[j - 1] + start
            skipped_row[j] = row_extend[i] * skipped_row[j] + row_open[i] * (
                match[j] + skipped_column[j]
            )
            match[j] = weights[i, j - 1] * followed
            total += match[j]
        for j in range(1, m + 1):
            skipped_column[j] = column_extend[j - 1] * skipped_column[j - 1] + column_open[
                j - 1
            ] * (match[j - 1] + skipped_row[j - 1])
            before[j] = match[j] + skipped_row[j] + skipped_column[j]
            largest = max(largest, before[j])
        if max(largest, total) > LARGE:
            for j in range(m + 1):
                match[j] /= LARGE
                skipped_row[j] /= LARGE
                skipped_column[j] /= LARGE
                before[j] /= LARGE
            total, start, exponent = total / LARGE, start / LARGE, exponent + np.log(LARGE)
    return np.log(total) + exponent


class LocalScores:
    """The scores of a `ProteinAligner` of local alignments with affine gaps.

    Args:
        aligner: `ProteinAligner`, whose weights are read once.

    Call arguments:
        first: States `(L1, dim)` of a chain.
        others: Iterable of states `(L2, dim)`, float16 or float32.
        first_common: `(L1,)`, how common its residues are, see `common`; None for 0.
        others_common: Iterable of the same `(L2,)` of the others; None for 0.

    Returns:
        Scores `(N,)` in nats, float64: those of `ProteinAligner.match` where nothing is common.

    Raises:
        ValueError: If the model aligns in another way.
    """

    def __init__(self, aligner):
        layer = aligner.aligner
        affine = getattr(getattr(layer, "gaps", None), "gap_extend", None) is not None
        plain = getattr(layer, "adjacent_gaps", "") in (None, "any")
        if getattr(layer, "structure", None) != "smith_waterman" or not (affine and plain):
            raise ValueError(
                "Expected a model of local alignments with affine gaps. "
                f"Received: {type(layer).__name__} with structure="
                f"{getattr(layer, 'structure', None)!r}"
            )
        gaps = layer.gaps
        self.temperature, self.bias = layer.temperature, 0.0
        if layer.learn_temperature:
            self.temperature = float(np.exp(_array(layer.log_temperature)))
        if layer.use_bias:
            self.bias = float(_array(layer.bias))
        bilinear = layer.scoring == "bilinear"
        self.form = _array(layer.projection.kernel) if bilinear else None
        self.gaps = []  # of rows and of columns: a constant, and what a state adds to it
        for side in range(2):
            constants = np.array(
                [_array(x).flat[side if gaps.contextual else 0] for x in gaps.constants]
            )
            states = _array((gaps.row, gaps.column)[side].kernel) if gaps.contextual else None
            self.gaps.append((constants, states))

    def __call__(self, first, others, first_common=None, others_common=None):
        projected, rows = self._projected(first), self._gap_weights(0, first)
        commons = itertools.repeat(0.0) if others_common is None else others_common
        found = []
        for second, common in zip(others, commons, strict=False):
            second = np.asarray(second, "float32")
            scores = projected @ second.T + self.bias / self.temperature
            if first_common is not None:
                scores -= (first_common[:, None] + np.asarray(common, "float32")) / self.temperature
            if scores.max() > HIGHEST:
                raise ValueError(
                    f"Expected pairs of residues that score at most {HIGHEST} nats. "
                    f"Received: {scores.max()}"
                )
            found.append(log_sum(np.exp(scores), *rows, *self._gap_weights(1, second)))
        return self.temperature * np.array(found)

    def common(self, states, background):
        """What a pair loses for each of the residues of a chain, `(L,)`, float32, in nats.

        It is how much log(mean(exp(score))) over the background is above half of what it is for a
        residue of the background itself, on average, and 0.25.

        Args:
            states: `(L, dim)`.
            background: States `(N, dim)` of residues taken at random.
        """
        mean = self._log_mean(background[:: max(1, len(background) // MEAN)], background).mean()
        found = self._log_mean(np.asarray(states, "float32"), background) - mean / 2
        return (self.temperature * found + PAIR / 2).astype("float32")

    def _log_mean(self, states, background):
        scores = self._projected(states) @ background.T + self.bias / self.temperature
        most = scores.max(axis=1)
        return np.log(np.exp(scores - most[:, None]).mean(axis=1)) + most

    def _projected(self, states):
        projected = states if self.form is None else states @ self.form
        return projected * np.float32(projected.shape[1] ** -0.5 / self.temperature)

    def _gap_weights(self, side, states):
        constants, kernel = self.gaps[side]
        scores = np.broadcast_to(constants, (len(states), 2))
        scores = scores if kernel is None else scores + states @ kernel
        opened, extended = np.exp(scores.T.astype("float64") / self.temperature)
        return opened, extended


def _array(weight):
    return keras.ops.convert_to_numpy(weight)
