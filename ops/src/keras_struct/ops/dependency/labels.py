"""Labelled arcs, around any distribution over unlabelled trees.

Every arc of a tree carries one of L labels, independently of all others given the tree. So the
sweeps of the unlabelled trees run on the log-sum (or the maximum) over the labels, and the labels
come back by their shares in it. Shapes: `B` examples, `N` words, `L` labels.
"""

import dataclasses

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE
from keras_struct.ops.sweeps import Sweeps


@dataclasses.dataclass(frozen=True)
class LabelledSweeps(Sweeps):
    """Sweeps over scores (B, N, N, L), by the sweeps `trees` over arcs (B, N, N).

    `trees` has one canonical potential, arcs [dependent, head], and events (B, N): the head of
    every dependent, its own index for a root, -1 in the padding. Events here are (B, N, 2): head
    and label. The tape is the arcs, then the tape of `trees`.
    """

    trees: Sweeps

    def forward(self, potentials, context, op):
        (scores,) = potentials
        arcs = array.max(scores, -1) if op == "max" else array.logsumexp(scores, -1)
        value, tape = self.trees.forward((arcs,), context, op)
        return value, (arcs, *tape)

    def backward(self, potentials, context, tape):
        arcs, *tape = tape
        (marginals,) = self.trees.backward((arcs,), context, tuple(tape))
        return (marginals[..., None] * _shares(potentials[0], arcs),)

    def curvature(self, potentials, context, tape, tangents):
        arcs, *tape = tape
        shares = _shares(potentials[0], arcs)
        rate = array.sum(shares * tangents[0], -1)
        (marginals,) = self.trees.backward((arcs,), context, tuple(tape))
        (hessian,) = self.trees.curvature((arcs,), context, tuple(tape), (rate,))
        moved = marginals[..., None] * (tangents[0] - rate[..., None])
        return (shares * (hessian[..., None] + moved),)

    def trace(self, potentials, context, tape, noise):
        arcs, *tape = tape
        heads = self.trees.trace((arcs,), context, tuple(tape), noise)
        scores = _of_heads(potentials[0], heads)
        labels = ops.cast(array.argmax(scores + noise(ops.shape(scores)), -1), "int32")
        return _event(heads, labels)

    def topk(self, potentials, context, k):
        """The k best labellings of each of the k best trees hold the k best labelled trees."""
        (scores,) = potentials
        heads, exists = self.trees.topk((array.max(scores, -1),), context, k)
        totals, labels = [], []
        for tree in range(k):
            found = _best_labellings(_of_heads(scores, heads[tree]), heads[tree] >= 0, k)
            total = array.where(exists[tree][:, None], found[0], FORBIDDEN)
            totals.append(total)
            labels.append(found[1])
        total, index = array.top_k(ops.concatenate(totals, axis=1), k)  # (B, k)
        index = ops.cast(index, "int32")
        trees = ops.swapaxes(heads, 0, 1)
        best = _rows(trees, index // k)
        chosen = _rows(ops.concatenate(labels, axis=1), index)
        exists = ops.transpose(total > INFEASIBLE)
        events = ops.swapaxes(_event(best, chosen), 0, 1)
        return array.where(exists[..., None, None], events, -1), exists


def _shares(scores, arcs):
    """Probability of every label, given the arc."""
    return array.exp(scores - arcs[..., None])


def _of_heads(scores, heads):
    """Scores (B, N, L) of the labels of each dependent's arc; head -1 counts as 0."""
    shape = (*ops.shape(heads), 1, scores.shape[-1])
    index = ops.broadcast_to(ops.maximum(heads, 0)[:, :, None, None], shape)
    return array.take_along_axis(scores, index, 2)[:, :, 0]


def _best_labellings(scores, valid, k):
    """The k best choices of a label per word: totals (B, k) and labels (B, k, N)."""
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


def _rows(x, index):
    """`x[b, index[b, i]]` for x (B, M, N) and index (B, k)."""
    shape = (*ops.shape(index), ops.shape(x)[2])
    return array.take_along_axis(x, ops.broadcast_to(index[..., None], shape), 1)


def _event(heads, labels):
    return ops.stack([heads, array.where(heads < 0, -1, labels)], axis=-1)
