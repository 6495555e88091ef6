"""Forward-backward as a balanced tree of K x K log-matrix products: log N steps (recurrence.md).

Leaf t is the matrix `transitions + unary[t]`, the first leaf has equal rows, padding is the
identity. A node is the product of its two children in the (logsumexp, +) semiring, shifted to have
maximum 0. Inside, arrays are (K, K, nodes, B): every operation runs over long contiguous planes.

The tape holds, level by level from the leaves, the shifted matrices and their shifts, batch first.
"""

import dataclasses

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.chain.linear_chain.sequential import SequentialSweeps
from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE
from keras_struct.ops.structure import time_mask
from keras_struct.ops.sweeps import Sweeps


@dataclasses.dataclass(frozen=True)
class ParallelSweeps(Sweeps):
    def forward(self, potentials, context, op):
        unary, transitions = potentials
        level, shift = _leaves(unary, transitions, context[0])
        levels, shifts = [level], [shift]
        total = array.sum(shift, 0)
        while level.shape[2] > 1:
            left, right = _pairs(level)
            level, shift = _shifted(_combine(left, right, op))
            levels.append(level)
            shifts.append(shift)
            total = total + array.sum(shift, 0)
        root = level[0, :, 0]  # (K, B)
        final = array.max(root, 0) if op == "max" else array.logsumexp(root, 0)
        tape = [x for pair in zip(levels, shifts, strict=True) for x in pair]
        return total + final, tuple(_batch_first(x) for x in tape)

    def backward(self, potentials, context, tape):
        levels, shifts = _levels(tape)
        outside = _root(levels[-1], _softmax(levels[-1][0, :, 0]))
        steps = list(zip(levels[:-1], levels[1:], shifts[1:], strict=True))
        for level, parent, shift in reversed(steps):
            outside = _unpair([w * outside for w in _weights(level, parent, shift)], level)
        return _read(outside, potentials, context[0], shifts)

    def curvature(self, potentials, context, tape, tangents):
        levels, shifts = _levels(tape)
        dunary, dtransitions = tangents
        dlevels = [_leaf_tangents(dunary, dtransitions, context[0])]
        for level, parent, shift in zip(levels[:-1], levels[1:], shifts[1:], strict=True):
            rates = _through(*_pairs(dlevels[-1], neutral=0.0))
            weights = _weights(level, parent, shift)
            dlevels.append(sum(w * rate for w, rate in zip(weights, rates, strict=True)))
        final, dfinal = _softmax(levels[-1][0, :, 0]), dlevels[-1][0, :, 0]
        doutside = final * (dfinal - array.sum(final * dfinal, 0, keepdims=True))
        outside, doutside = _root(levels[-1], final), _root(levels[-1], doutside)
        for depth in reversed(range(len(levels) - 1)):
            level, parent, shift = levels[depth], levels[depth + 1], shifts[depth + 1]
            rates = _through(*_pairs(dlevels[depth], neutral=0.0))
            weights = _weights(level, parent, shift)
            pairs = [w * outside for w in weights]
            dpairs = [
                w * (doutside + outside * (rate - dlevels[depth + 1]))
                for w, rate in zip(weights, rates, strict=True)
            ]
            outside, doutside = _unpair(pairs, level), _unpair(dpairs, level)
        return _read(doutside, potentials, context[0], shifts)

    def trace(self, potentials, context, tape, noise):
        """Top down: given the tags at both ends of a node, draw the one in the middle."""
        (lengths,) = context
        levels, _ = _levels(tape)

        def draw(logits):  # (K, nodes, B)
            return _argmax(logits + noise(ops.shape(logits)))

        right = draw(levels[-1][0])  # (1, B)
        left = 0 * right
        for level in reversed(levels[:-1]):
            lefts, rights = _pairs(level)  # (K, K, nodes, B)
            row = _pick(lefts, left)
            column = _pick(array.transpose(rights, (1, 0, 2, 3)), right)
            middle = draw(row + column)
            left = _interleave(left, middle, level.shape[2])
            right = _interleave(middle, right, level.shape[2])
        tags = array.transpose(right, (1, 0))
        return array.where(time_mask(lengths, ops.shape(tags)[1]), tags, -1)

    def topk(self, potentials, context, k):
        return SequentialSweeps().topk(potentials, context, k)


# Leaves -----------------------------------------------------------------------------------------


def _leaves(unary, transitions, lengths):
    """Shifted leaf matrices (K, K, N, B) and shifts (N, B)."""
    n, k = unary.shape[1:]
    unary = ops.transpose(unary, (2, 1, 0))  # (K, N, B)
    table = ops.transpose(transitions, (2, 3, 1, 0))  # (K, K, 1 or N-1, 1 or B)
    first = ops.broadcast_to(unary[None, :, :1], (k, *ops.shape(unary[:, :1])))
    leaves = ops.concatenate([first, table + unary[None, :, 1:]], axis=2)
    valid = ops.transpose(time_mask(lengths, n))
    leaves = array.where(valid, leaves, _identity(k, leaves.dtype))
    return _shifted(leaves)


def _leaf_tangents(dunary, dtransitions, lengths):
    n, k = dunary.shape[1:]
    dunary = ops.transpose(dunary, (2, 1, 0))
    table = ops.transpose(dtransitions, (2, 3, 1, 0))
    first = ops.broadcast_to(dunary[None, :, :1], (k, *ops.shape(dunary[:, :1])))
    leaves = ops.concatenate([first, table + dunary[None, :, 1:]], axis=2)
    valid = ops.transpose(time_mask(lengths, n))
    return array.where(valid, leaves, ops.zeros_like(leaves))


def _read(outside, potentials, lengths, shifts):
    """Marginals of the potentials from the marginals of the leaves."""
    unary, transitions = potentials
    total = sum(array.sum(shift, 0) for shift in shifts)
    valid = ops.logical_and(time_mask(lengths, unary.shape[1]), (total > INFEASIBLE)[:, None])
    outside = outside * ops.cast(ops.transpose(valid), unary.dtype)
    p = ops.transpose(ops.sum(outside, axis=0), (2, 1, 0))
    pairs = outside[:, :, 1:]
    if transitions.shape[1] == 1:
        pairs = ops.sum(pairs, axis=2, keepdims=True)
    return p, ops.transpose(pairs, (3, 2, 0, 1))


def _identity(k, dtype):
    return ops.reshape((1.0 - ops.eye(k, dtype=dtype)) * FORBIDDEN, (k, k, 1, 1))


# Nodes ------------------------------------------------------------------------------------------


def _pairs(level, neutral=None):
    """Left and right children; an odd level gets one more neutral node (the identity)."""
    if level.shape[2] % 2:
        neutral = _identity(level.shape[0], level.dtype) if neutral is None else neutral
        level = array.concatenate([level, 0.0 * level[:, :, :1] + neutral], 2)
    return level[:, :, 0::2], level[:, :, 1::2]


def _through(left, right):
    """Sum of the children through every middle tag m: a list of (K, K, nodes, B)."""
    return [left[:, m, None] + right[None, m, :] for m in range(left.shape[0])]


def _combine(left, right, op):
    terms = _through(left, right)
    peak = terms[0]
    for term in terms[1:]:
        peak = array.maximum(peak, term)
    if op == "max":
        return peak
    return peak + array.log(sum(array.exp(term - peak) for term in terms))


def _shifted(level):
    shift = array.max(array.max(level, 0), 0)
    return level - shift, shift


def _weights(level, parent, shift):
    """Posterior of the middle tag given both ends: a list over m of (K, K, nodes, B)."""
    product = parent + shift
    return [array.exp(term - product) for term in _through(*_pairs(level))]


def _unpair(triples, level):
    """Outside weights of the children from those of (left, middle, right) tags, a list over m."""
    left = array.stack([array.sum(x, 1) for x in triples], 1)
    right = array.stack([array.sum(x, 0) for x in triples], 0)
    k, _, nodes, _ = left.shape
    both = array.stack([left, right], 3)
    return array.reshape(both, (k, k, 2 * nodes, -1))[:, :, : level.shape[2]]


def _interleave(left, right, n):
    both = array.stack([left, right], 1)
    return array.reshape(both, (2 * left.shape[0], -1))[:n]


def _pick(matrices, index):
    """Row `index` (nodes, B) of matrices (K, K, nodes, B): (K, nodes, B)."""
    row = matrices[0]
    for i in range(1, matrices.shape[0]):
        row = array.where(index == i, matrices[i], row)
    return row


def _argmax(x):
    """Index of the largest of a few planes, the first axis; int32."""
    best, index = x[0], ops.zeros(ops.shape(x)[1:], dtype="int32")
    for i in range(1, x.shape[0]):
        better = x[i] > best
        index = array.where(better, i, index)
        best = array.maximum(best, x[i])
    return index


def _softmax(x):
    return ops.softmax(x, axis=0)


def _root(level, row):
    """Outside weights of the root: only its first row is read."""
    k = level.shape[0]
    first = ops.reshape(ops.eye(k, dtype=row.dtype)[0], (k, 1, 1, 1))
    return first * row[None, :, None]


# Tape -------------------------------------------------------------------------------------------


def _batch_first(x):
    rank = len(x.shape)
    return array.transpose(x, (rank - 1, *range(rank - 1)))


def _levels(tape):
    tape = [array.transpose(x, (*range(1, len(x.shape)), 0)) for x in tape]
    return tape[0::2], tape[1::2]
