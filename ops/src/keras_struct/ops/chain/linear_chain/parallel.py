"""Forward-backward as a balanced tree of K x K log-matrix products: log N steps (recurrence.md).

Leaf t is the matrix `transitions + unary[t]`, the first leaf has equal rows, padding is the
identity. A node is the product of its two children in the (logsumexp, +) semiring. Its entries are
pairs of numbers (see `messages.py`). Inside, arrays are (K, K, nodes, B): every operation runs over
long contiguous planes.

The tape holds, level by level from the leaves, the posterior of the middle tag given both ends
(middle, left, right, nodes, B), then that of the last tag, and whether any structure exists, all
batch first.
"""

from typing import Any, NamedTuple

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.chain.linear_chain import LinearChainSpec
from keras_struct.ops.exact_sum import two_sum
from keras_struct.ops.implementation import Implementation
from keras_struct.ops.messages import join, log_sum
from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE
from keras_struct.ops.structure import time_mask

# Up to this many tags, K times more work in log N steps beats N steps.
FEW_TAGS = 4


class Tape(NamedTuple):
    levels: Any
    final: Any
    exists: Any


class Parallel(Implementation):
    samples = False  # a chain drawn from its middle would be another one for the same key

    def rejects(self, call):
        if not isinstance(call.spec, LinearChainSpec):
            return f"it has no {call.op}"
        if call.shapes[0][1] is None:
            return "it needs a number of positions that is known"
        return None

    def avoids(self, call):
        _, n, k = call.shapes[0]
        if n == 1:
            return "there is one position"
        if k is None or k > FEW_TAGS:
            return f"it does K times more work, which does not pay for more than {FEW_TAGS} tags"
        return None

    def forward(self, problem, op):
        unary, transitions = problem.potentials
        level, levels = _leaves(unary, transitions, problem.context[0]), []
        while level[0].shape[2] > 1:
            level, weights = _product(level, op)
            levels.append(_batch_first(weights))
        peak, rest, weights, mass = log_sum(level[0][0, :, 0], level[1][0, :, 0], 0.0, 0, op)
        total = peak[0], rest[0]
        exists = ops.cast(total[0] > INFEASIBLE, peak.dtype)
        return total, Tape(tuple(levels), _batch_first(weights / mass), exists)

    def backward(self, problem, tape):
        levels, final, exists = _levels(tape)
        outside = _root(final)
        for weights, nodes in reversed(_with_sizes(levels, problem)):
            outside = _unpair([w * outside for w in weights], nodes)
        return _read(outside, problem, exists)

    def curvature(self, problem, tape, tangents):
        levels, final, exists = _levels(tape)
        dunary, dtransitions = tangents
        level = _leaf_tangents(dunary, dtransitions, problem.context[0])
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
        steps = zip(_with_sizes(levels, problem), rates, strict=True)
        for (weights, nodes), rate in reversed(list(steps)):
            used = [w * outside for w in weights]
            dused = [w * doutside + x * r for w, x, r in zip(weights, used, rate, strict=True)]
            outside, doutside = _unpair(used, nodes), _unpair(dused, nodes)
        return _read(doutside, problem, exists)

    def trace(self, problem, tape, draws=None):
        """Top down: given the tags at both ends of a node, take the best one in the middle."""
        (lengths,) = problem.context
        levels, final, _ = _levels(tape)
        right = _argmax(final[:, None])  # (1, B)
        left = 0 * right
        for weights, nodes in reversed(_with_sizes(levels, problem)):
            rows = [_pick(w, left) for w in weights]
            middle = _argmax(array.stack([_pick(row, right) for row in rows], 0))
            left = _interleave(left, middle, nodes)
            right = _interleave(middle, right, nodes)
        tags = array.transpose(right, (1, 0))
        return array.where(time_mask(lengths, ops.shape(tags)[1]), tags, -1)


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


def _read(outside, problem, exists):
    """Marginals of the potentials from the marginals of the leaves."""
    (unary, transitions), (lengths,) = problem.potentials, problem.context
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
    levels = [array.transpose(x, (1, 2, 3, 4, 0)) for x in tape.levels]
    planes = [[x[m] for m in range(x.shape[0])] for x in levels]
    return planes, array.transpose(tape.final, (1, 0)), tape.exists > 0


def _with_sizes(levels, problem):
    """Weights of every level, and the number of the nodes that they combine."""
    sizes = [problem.potentials[0].shape[1], *(level[0].shape[2] for level in levels)]
    return list(zip(levels, sizes[:-1], strict=True))
