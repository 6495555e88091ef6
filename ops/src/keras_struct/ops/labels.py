"""Labelled parts, around any distribution over unlabelled structures.

Every part of a structure (an arc, a span) carries one of L labels, independently of all others
given the structure. So the sweeps of the unlabelled structures run on the log-sum (or the maximum)
over the labels, and the labels come back by their shares in it. Shapes: `B` examples, `N` words,
`S` places that carry a label, `L` labels.
"""

import dataclasses
from typing import Any

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.chart.bracketing import split
from keras_struct.ops.noise import flat_places, perturbed
from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE


def with_labels(sweeps, labels):
    """Sweeps of structures whose parts carry labels, if they do."""
    return sweeps if labels is None else LABELLED[labels](sweeps)


LABEL_STREAM = 1 << 20  # of the noise; the structures have the lower numbers


@dataclasses.dataclass(frozen=True)
class LabelledSweeps:
    """Sweeps over scores (B, N, N, L), by the sweeps `plain` over parts (B, N, N).

    Further potentials are those of `plain`. The tape is the parts, then the tape of `plain`. The
    noise of the label of place s is at place s L, s L + 1, ... of `LABEL_STREAM`.
    """

    plain: Any

    @property
    def traceable(self):
        return self.plain.traceable

    @property
    def differentiable(self):
        return dataclasses.replace(self, plain=self.plain.differentiable)

    @property
    def batch_axis(self):
        return self.plain.batch_axis

    def places(self, scores, event):
        """Scores (B, S, L) of the labels of every place of a plain event, and which are used."""
        raise NotImplementedError

    def labelled(self, event, labels):
        """The event with the labels (B, S) of its places."""
        raise NotImplementedError

    def score_of_others(self, others, event):
        """Score (B,) of a plain event by the further potentials, if there are any."""
        raise NotImplementedError

    def forward(self, problem, op):
        scores, *_ = problem.potentials
        parts = array.max(scores, -1) if op == "max" else array.logsumexp(scores, -1)
        value, tape = self.plain.forward(_plain(problem, parts), op)
        return value, (ops.moveaxis(parts, 0, self.batch_axis), tape)

    def _opened(self, tape):
        """The parts and the tape of `plain`: in a tape, all arrays have the same batch axis."""
        parts, tape = tape
        return ops.moveaxis(parts, self.batch_axis, 0), tape

    def backward(self, problem, tape):
        parts, tape = self._opened(tape)
        marginals, *rest = self.plain.backward(_plain(problem, parts), tape)
        return (marginals[..., None] * _shares(problem.potentials[0]), *rest)

    def curvature(self, problem, tape, tangents):
        parts, tape = self._opened(tape)
        plain, (rates, *other_rates) = _plain(problem, parts), tangents
        shares = _shares(problem.potentials[0])
        rate = array.sum(shares * rates, -1)
        marginals = self.plain.backward(plain, tape)[0]
        hessian, *rest = self.plain.curvature(plain, tape, (rate, *other_rates))
        moved = marginals[..., None] * (rates - rate[..., None])
        return (shares * (hessian[..., None] + moved), *rest)

    def trace(self, problem, tape):
        parts, tape = self._opened(tape)
        event = self.plain.trace(_plain(problem, parts), tape)
        return self._with_labels(problem.potentials[0], event)

    def sample(self, problem, tape, noise):
        parts, tape = self._opened(tape)
        events = self.plain.sample(_plain(problem, parts), tape, noise)
        scores = problem.potentials[0]
        return array.map_samples(
            lambda i: self._with_labels(scores, events[i], noise.draws(i)), noise.count
        )

    def _with_labels(self, scores, event, draws=None):
        logits, _ = self.places(scores, event)
        numbers = flat_places(ops.shape(logits)[1:])
        labels = array.argmax(perturbed(logits, draws, LABEL_STREAM, numbers), -1)
        return self.labelled(event, ops.cast(labels, "int32"))

    def topk(self, problem, k):
        """The k best labellings of each of the k best structures hold the k best of all."""
        scores, *others = problem.potentials
        events, exists = self.plain.topk(_plain(problem, array.max(scores, -1)), k)
        totals, found = [], []
        for rank in range(k):
            logits, used = self.places(scores, events[rank])
            best, labels = _best_labellings(logits, used, k)
            if others:
                best = best + self.score_of_others(others, events[rank])[:, None]
            totals.append(array.where(exists[rank][:, None], best, FORBIDDEN))
            found += [self.labelled(events[rank], labels[:, i]) for i in range(k)]
        total, index = array.top_k(ops.concatenate(totals, axis=1), k)  # (B, k)
        index = ops.transpose(ops.cast(index, "int32"))
        exists = ops.transpose(total > INFEASIBLE)
        found = ops.stack(found)  # (k k, B, ...)
        wide = ops.reshape(index, (*ops.shape(index), *([1] * (len(found.shape) - 2))))
        wide = ops.broadcast_to(wide, (k, *ops.shape(found)[1:]))
        best = array.take_along_axis(found, wide, 0)
        there = ops.reshape(exists, (*ops.shape(exists), *([1] * (len(found.shape) - 2))))
        return array.where(there, best, -1), exists


@dataclasses.dataclass(frozen=True)
class LabelledArcs(LabelledSweeps):
    """Plain events (B, N): the head of every dependent; labelled (B, N, 2): head and label."""

    def places(self, scores, event):
        shape = (*ops.shape(event), 1, scores.shape[-1])
        index = ops.broadcast_to(ops.maximum(event, 0)[:, :, None, None], shape)
        return array.take_along_axis(scores, index, 2)[:, :, 0], event >= 0

    def labelled(self, event, labels):
        return ops.stack([event, array.where(event < 0, -1, labels)], axis=-1)


@dataclasses.dataclass(frozen=True)
class LabelledSpans(LabelledSweeps):
    """Plain events (B, N, N): 0 at every span that is used, else -1; labelled: the label there."""

    def places(self, scores, event):
        batch, n, _, labels = ops.shape(scores)
        flat = (batch, n * n)
        return ops.reshape(scores, (*flat, labels)), ops.reshape(event >= 0, flat)

    def labelled(self, event, labels):
        return array.where(event < 0, -1, ops.reshape(labels, ops.shape(event)))

    def score_of_others(self, others, event):
        """Of the cuts."""
        (splits,) = others
        cuts = ops.cast(split(event >= 0), splits.dtype)
        return ops.sum(array.where(splits > INFEASIBLE, splits, 0.0) * cuts, axis=(1, 2, 3))


LABELLED = {"arcs": LabelledArcs, "spans": LabelledSpans}


def _plain(problem, parts):
    """The problem of the unlabelled structures."""
    return problem.replace(potentials=(parts, *problem.potentials[1:]), labels=None)


def _shares(scores):
    """Probability of every label, given the part. They sum to 1 even where the log-sum of the
    scores has lost the logarithm of their number."""
    weights = array.exp(scores - array.max(scores, -1, keepdims=True))
    return weights / array.sum(weights, -1, keepdims=True)


def _best_labellings(scores, valid, k):
    """The k best choices of a label per place: totals (B, k) and labels (B, k, S)."""
    size = scores.shape[-1]
    scores = array.where(valid[..., None], scores, ops.zeros_like(scores))
    # In the padding there is one label only, or one labelling would count several times.
    first = ops.arange(size)[None, None] == 0
    scores = array.where(ops.logical_or(valid[..., None], first), scores, FORBIDDEN)

    def step(carry, x):
        (totals,) = carry  # (B, k)
        candidates = totals[:, :, None] + x[0][:, None, :]
        totals, choice = array.top_k(ops.reshape(candidates, (-1, k * size)), k)
        choice = ops.cast(choice, "int32")
        return (totals,), (choice // size, choice % size)

    start = ops.zeros_like(scores[:, 0, :1])
    start = ops.concatenate([start] + [start + FORBIDDEN] * (k - 1), axis=1)
    index = ops.cast(ops.zeros_like(start), "int32")
    (totals,), (ranks, labels) = array.scan(
        step, (start,), (ops.swapaxes(scores, 0, 1),), like=(index, index)
    )

    def back(carry, x):
        (rank,) = carry
        ranks, labels = x
        label = array.take_along_axis(labels, rank, 1)
        return (array.take_along_axis(ranks, rank, 1),), (label,)

    rank = index + ops.arange(k, dtype="int32")[None]
    _, (labels,) = array.scan(back, (rank,), (ranks, labels), like=(index,), reverse=True)
    return totals, ops.transpose(labels, (1, 2, 0))
