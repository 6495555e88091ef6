"""Forward-backward as a balanced tree of K x K log-matrix products: log N steps (recurrence.md).

Leaf t is the matrix `transitions + unary[t]`, the first leaf has equal rows, padding is the
identity. A node is the product of its two children in the (logsumexp, +) semiring. Its entries are
pairs of numbers (see `messages.py`). Inside, arrays are (K, K, nodes, B): every operation runs over
long contiguous planes.

The tape holds, level by level from the leaves, both numbers of the entries, then the log-partition,
all batch first.
"""

import dataclasses

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.chain.linear_chain.sequential import SequentialSweeps, centred
from keras_struct.ops.chain.messages import join, log_sum, log_weights
from keras_struct.ops.exact_sum import add_pairs, exact_sum, two_sum
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
        leaves, centre = _leaves(*potentials, context[0])
        levels = [(leaves, ops.zeros_like(leaves))]
        while levels[-1][0].shape[2] > 1:
            levels.append(_product(levels[-1], op))
        high, low = (x[0, :, 0] for x in levels[-1])  # (K, B)
        peak, rest, _, _ = log_sum(high, low, 0.0, 0, op)
        total = add_pairs(exact_sum(centre, 0), (peak[0], rest[0]))
        return total, tuple(_batch_first(x) for level in levels for x in level)

    def backward(self, potentials, context, tape):
        levels, exists = _levels(tape)
        outside = _root(levels[-1][0], _final(levels[-1]))
        for level in reversed(levels[:-1]):
            outside = _unpair([w * outside for w in _weights(level)], level[0])
        return _read(outside, potentials, context[0], exists)

    def curvature(self, potentials, context, tape, tangents):
        levels, exists = _levels(tape)
        dunary, dtransitions = tangents
        weights = [_weights(level) for level in levels[:-1]]
        dlevels, rates = [_leaf_tangents(dunary, dtransitions, context[0])], []
        for level in weights:
            terms = _through(*_pairs(dlevels[-1], 0.0))
            dlevel = sum(w * term for w, term in zip(level, terms, strict=True))
            rates.append([term - dlevel for term in terms])
            # What all paths through a node gain alike changes no weight.
            dlevels.append(dlevel - array.sum(array.sum(dlevel, 0), 0) / dlevel.shape[0] ** 2)
        final, dfinal = _final(levels[-1]), dlevels[-1][0, :, 0]
        doutside = final * (dfinal - array.sum(final * dfinal, 0, keepdims=True))
        outside, doutside = _root(levels[-1][0], final), _root(levels[-1][0], doutside)
        for level, w, rate in reversed(list(zip(levels[:-1], weights, rates, strict=True))):
            pairs = [x * outside for x in w]
            dpairs = [x * doutside + pair * r for x, pair, r in zip(w, pairs, rate, strict=True)]
            outside, doutside = _unpair(pairs, level[0]), _unpair(dpairs, level[0])
        return _read(doutside, potentials, context[0], exists)

    def trace(self, potentials, context, tape, noise):
        """Top down: given the tags at both ends of a node, draw the one in the middle."""
        (lengths,) = context
        levels, _ = _levels(tape)

        def draw(high, low, scores):  # (K, nodes, B)
            _, _, weights, _ = log_sum(high, low, scores, 0, "max")
            return _argmax(log_weights(weights) + noise(ops.shape(weights)))

        right = draw(levels[-1][0][0], levels[-1][1][0], 0.0)  # (1, B)
        left = 0 * right
        for high, low in reversed(levels[:-1]):
            rows = [_pick(_pairs(x, fill)[0], left) for x, fill in _entries(high, low)]
            columns = [
                _pick(array.transpose(_pairs(x, fill)[1], (1, 0, 2, 3)), right)
                for x, fill in _entries(high, low)
            ]
            middle, error = two_sum(rows[0], columns[0])
            middle = draw(middle, error + (rows[1] + columns[1]), 0.0)
            left = _interleave(left, middle, high.shape[2])
            right = _interleave(middle, right, high.shape[2])
        tags = array.transpose(right, (1, 0))
        return array.where(time_mask(lengths, ops.shape(tags)[1]), tags, -1)

    def topk(self, potentials, context, k):
        return SequentialSweeps().topk(potentials, context, k)


# Leaves -----------------------------------------------------------------------------------------


def _leaves(unary, transitions, lengths):
    """Leaf matrices of centred scores (K, K, N, B), and what was taken off (N, B)."""
    n, k = unary.shape[1:]
    scores, table, centre = centred(unary, transitions)
    scores = ops.transpose(scores, (2, 1, 0))  # (K, N, B)
    table = ops.transpose(table, (2, 3, 1, 0))  # (K, K, 1 or N-1, 1 or B)
    first = ops.broadcast_to(scores[None, :, :1], (k, *ops.shape(scores[:, :1])))
    leaves = ops.concatenate([first, table + scores[None, :, 1:]], axis=2)
    valid = ops.transpose(time_mask(lengths, n))
    leaves = array.where(valid, leaves, _identity(k, leaves.dtype))
    centre = ops.transpose(centre)
    return leaves, array.where(valid, centre, ops.zeros_like(centre))


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


def _entries(high, low):
    """Both numbers of the entries, each with that of a neutral node."""
    return (high, _identity(high.shape[0], high.dtype)), (low, 0.0)


def _through(left, right):
    """Sum of the children through every middle tag m: a list of (K, K, nodes, B)."""
    return [left[:, m, None] + right[None, m, :] for m in range(left.shape[0])]


def _terms(level):
    """Terms of the log-sums over the middle tag, over their rounded maximum: `(peak, terms)`."""
    (left, right), (left_low, right_low) = (_pairs(x, fill) for x, fill in _entries(*level))
    k = left.shape[0]
    sums = [two_sum(left[:, m, None], right[None, m, :]) for m in range(k)]
    peak = _largest([high for high, _ in sums])
    lows = _through(left_low, right_low)
    return peak, [(sums[m][0] - peak) + (sums[m][1] + lows[m]) for m in range(k)]


def _largest(terms):
    peak = terms[0]
    for term in terms[1:]:
        peak = array.maximum(peak, term)
    return peak


def _product(level, op):
    """The level above."""
    peak, terms = _terms(level)
    top = _largest(terms)
    if op == "max":
        return join(peak, top)
    return join(peak, top + array.log(sum(array.exp(term - top) for term in terms)))


def _weights(level):
    """Posterior of the middle tag given both ends: a list over m of (K, K, nodes, B)."""
    _, terms = _terms(level)
    top = _largest(terms)
    weights = [array.exp(term - top) for term in terms]
    total = sum(weights)
    return [w / total for w in weights]


def _final(root):
    """Posterior of the last tag, (K, B)."""
    _, _, weights, total = log_sum(root[0][0, :, 0], root[1][0, :, 0], 0.0, 0, "logsumexp")
    return weights / total


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
    """Levels as pairs, leaves first, and whether a structure exists (B,)."""
    *entries, log_partition = tape
    entries = [array.transpose(x, (*range(1, len(x.shape)), 0)) for x in entries]
    return list(zip(entries[0::2], entries[1::2], strict=True)), log_partition > INFEASIBLE
