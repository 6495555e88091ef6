"""Forward-backward as a balanced tree of K x K log-matrix products: log N steps (recurrence.md).

Leaf t is the matrix `transitions + unary[t]`, the first leaf has equal rows, padding is the
identity. A node is the product of its two children in the (logsumexp, +) semiring. Its entries are
pairs of numbers (see `messages.py`). Inside, arrays are (K, K, nodes, B): every operation runs over
long contiguous planes.

The tape holds, level by level from the leaves, the posterior of the middle tag given both ends
(middle, left, right, nodes, B), then that of the last tag and the log-partition, all batch first.
"""

import dataclasses

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.chain.linear_chain.sequential import SequentialSweeps
from keras_struct.ops.chain.messages import join, log_sum, log_weights
from keras_struct.ops.exact_sum import two_sum
from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE
from keras_struct.ops.structure import time_mask
from keras_struct.ops.sweeps import Sweeps


@dataclasses.dataclass(frozen=True)
class ParallelSweeps(Sweeps):
    def forward(self, potentials, context, op):
        total, tape = self._forward_pair(potentials, context, op)
        log_partition = sum(total)
        return log_partition, (*tape, log_partition)

    def _forward_pair(self, potentials, context, op):
        """The log-partition as a pair (see `exact_sum`), and the rest of the tape."""
        unary, transitions = potentials
        level, tape = _leaves(unary, transitions, context[0]), []
        while level[0].shape[2] > 1:
            level, weights = _product(level, op)
            tape.append(weights)
        peak, rest, weights, mass = log_sum(level[0][0, :, 0], level[1][0, :, 0], 0.0, 0, op)
        return (peak[0], rest[0]), tuple(_batch_first(x) for x in (*tape, weights / mass))

    def backward(self, potentials, context, tape):
        levels, final, exists = _levels(tape)
        outside = _root(final)
        for weights, nodes in reversed(_with_sizes(levels, potentials)):
            outside = _unpair([w * outside for w in weights], nodes)
        return _read(outside, potentials, context[0], exists)

    def curvature(self, potentials, context, tape, tangents):
        levels, final, exists = _levels(tape)
        dunary, dtransitions = tangents
        level = _leaf_tangents(dunary, dtransitions, context[0])
        rates = []
        for weights in levels:
            terms = _through(*_pairs(level, 0.0))
            level = sum(w * term for w, term in zip(weights, terms, strict=True))
            rates.append([term - level for term in terms])
            # What all paths through a node gain alike changes no weight.
            level = level - array.sum(array.sum(level, 0), 0) / level.shape[0] ** 2
        dfinal = level[0, :, 0]
        dfinal = final * (dfinal - array.sum(final * dfinal, 0, keepdims=True))
        outside, doutside = _root(final), _root(dfinal)
        steps = zip(_with_sizes(levels, potentials), rates, strict=True)
        for (weights, nodes), rate in reversed(list(steps)):
            used = [w * outside for w in weights]
            dused = [w * doutside + x * r for w, x, r in zip(weights, used, rate, strict=True)]
            outside, doutside = _unpair(used, nodes), _unpair(dused, nodes)
        return _read(doutside, potentials, context[0], exists)

    def trace(self, potentials, context, tape, noise):
        """Top down: given the tags at both ends of a node, draw the one in the middle."""
        (lengths,) = context
        levels, final, _ = _levels(tape)

        def draw(weights):  # (K, nodes, B)
            return _argmax(log_weights(weights) + noise(ops.shape(weights)))

        right = draw(final[:, None])  # (1, B)
        left = 0 * right
        for weights, nodes in reversed(_with_sizes(levels, potentials)):
            rows = [_pick(w, left) for w in weights]
            middle = draw(array.stack([_pick(row, right) for row in rows], 0))
            left = _interleave(left, middle, nodes)
            right = _interleave(middle, right, nodes)
        tags = array.transpose(right, (1, 0))
        return array.where(time_mask(lengths, ops.shape(tags)[1]), tags, -1)

    def topk(self, potentials, context, k):
        return SequentialSweeps().topk(potentials, context, k)


# Leaves -----------------------------------------------------------------------------------------


def _leaves(unary, transitions, lengths):
    """Leaf matrices (K, K, N, B), as pairs."""
    n, k = unary.shape[1:]
    unary = ops.transpose(unary, (2, 1, 0))  # (K, N, B)
    table = ops.transpose(transitions, (2, 3, 1, 0))  # (K, K, 1 or N-1, 1 or B)
    first = ops.broadcast_to(unary[None, :, :1], (k, *ops.shape(unary[:, :1])))
    high, low = two_sum(table, unary[None, :, 1:])
    valid = ops.transpose(time_mask(lengths, n))
    high = ops.concatenate([first, high], axis=2)
    low = ops.concatenate([ops.zeros_like(first), low], axis=2)
    high = array.where(valid, high, _identity(k, high.dtype))
    return high, array.where(valid, low, ops.zeros_like(low))


def _leaf_tangents(dunary, dtransitions, lengths):
    n, k = dunary.shape[1:]
    dunary = ops.transpose(dunary, (2, 1, 0))
    table = ops.transpose(dtransitions, (2, 3, 1, 0))
    first = ops.broadcast_to(dunary[None, :, :1], (k, *ops.shape(dunary[:, :1])))
    leaves = ops.concatenate([first, table + dunary[None, :, 1:]], axis=2)
    valid = ops.transpose(time_mask(lengths, n))
    return array.where(valid, leaves, ops.zeros_like(leaves))


def _read(outside, potentials, lengths, exists):
    """Marginals of the potentials from the marginals of the leaves."""
    unary, transitions = potentials
    valid = ops.logical_and(time_mask(lengths, unary.shape[1]), exists[:, None])
    outside = outside * ops.cast(ops.transpose(valid), unary.dtype)
    p = ops.transpose(ops.sum(outside, axis=0), (2, 1, 0))
    pairs = outside[:, :, 1:]
    if transitions.shape[1] == 1:
        pairs = ops.sum(pairs, axis=2, keepdims=True)
    return p, ops.transpose(pairs, (3, 2, 0, 1))


def _identity(k, dtype):
    return ops.reshape((1.0 - ops.eye(k, dtype=dtype)) * FORBIDDEN, (k, k, 1, 1))


# Nodes ------------------------------------------------------------------------------------------


def _pairs(level, fill):
    """Left and right children; an odd level gets one more neutral node."""
    if level.shape[2] % 2:
        level = array.concatenate([level, 0.0 * level[:, :, :1] + fill], 2)
    return level[:, :, 0::2], level[:, :, 1::2]


def _through(left, right):
    """Sum of the children through every middle tag m: a list of (K, K, nodes, B)."""
    return [left[:, m, None] + right[None, m, :] for m in range(left.shape[0])]


def _product(level, op):
    """The level above, and the posterior of the middle tag given both ends."""
    left, right = _pairs(level[0], _identity(level[0].shape[0], level[0].dtype))
    sums = [two_sum(left[:, m, None], right[None, m, :]) for m in range(left.shape[0])]
    lows = _through(*_pairs(level[1], 0.0))
    peak = _largest([high for high, _ in sums])
    terms = [(high - peak) + (error + low) for (high, error), low in zip(sums, lows, strict=True)]
    top = _largest(terms)
    weights = [array.exp(term - top) for term in terms]
    total = sum(weights)
    rest = top if op == "max" else top + array.log(total)
    return join(peak, rest), array.stack([w / total for w in weights], 0)


def _largest(terms):
    peak = terms[0]
    for term in terms[1:]:
        peak = array.maximum(peak, term)
    return peak


def _unpair(triples, nodes):
    """Outside weights of the children from those of (left, middle, right) tags, a list over m."""
    left = array.stack([array.sum(x, 1) for x in triples], 1)
    right = array.stack([array.sum(x, 0) for x in triples], 0)
    k = left.shape[0]
    both = array.stack([left, right], 3)
    return array.reshape(both, (k, k, 2 * left.shape[2], -1))[:, :, :nodes]


def _interleave(left, right, n):
    both = array.stack([left, right], 1)
    return array.reshape(both, (2 * left.shape[0], -1))[:n]


def _pick(matrices, index):
    """Entry `index` (nodes, B) of the first axis of arrays (K, ..., nodes, B)."""
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


def _root(row):
    """Outside weights of the root: only its first row is read."""
    k = row.shape[0]
    first = ops.reshape(ops.eye(k, dtype=row.dtype)[0], (k, 1, 1, 1))
    return first * row[None, :, None]


# Tape -------------------------------------------------------------------------------------------


def _batch_first(x):
    rank = len(x.shape)
    return array.transpose(x, (rank - 1, *range(rank - 1)))


def _levels(tape):
    """Weights of every level, leaves first, the last tag's, and whether a structure exists (B,)."""
    *levels, final, log_partition = tape
    levels = [array.transpose(x, (1, 2, 3, 4, 0)) for x in levels]
    planes = [[x[m] for m in range(x.shape[0])] for x in levels]
    return planes, array.transpose(final, (1, 0)), log_partition > INFEASIBLE


def _with_sizes(levels, potentials):
    """Weights of every level, and the number of the nodes that they combine."""
    sizes = [potentials[0].shape[1], *(level[0].shape[2] for level in levels)]
    return list(zip(levels, sizes[:-1], strict=True))
