"""Forward-backward over time, in log space or as scaled matrix products (see recurrence.md).

Where transitions are shared over time and no weight underflows, the sums over K x K pairs are
matrix products of exponentials of centred scores (`_scaled`); the test is exact, and log space
(`_log`), where messages are pairs (see `messages.py`), is the other branch.

The tape is `alpha`, as a pair `high`, `low` (B, N, K), up to a constant of each position; whether
the scaled branch ran (B,), and whether any structure exists (B,). Weights are recomputed from it.

Noise: tag k at position t is at place t K + k of stream 0.
"""

from typing import Any, NamedTuple

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.exact_sum import add_pairs, exact_sum, two_sum
from keras_struct.ops.implementation import Implementation
from keras_struct.ops.messages import join, log_sum, log_weights
from keras_struct.ops.noise import perturbed
from keras_struct.ops.numerics import INFEASIBLE
from keras_struct.ops.structure import time_mask

# A column sum of scaled weights below this may have lost terms to underflow.
LOWEST = 1e-25
# From this many tags on, matrix products beat exponentials.
SCALED_FROM = 5


class Tape(NamedTuple):
    high: Any
    low: Any
    scaled: Any
    exists: Any


class Sequential(Implementation):
    def forward(self, problem, op):
        unary, transitions = problem.potentials
        (lengths,) = problem.context
        zeros = ops.zeros_like(unary[:, :, 0])
        none = ops.concatenate([zeros, zeros], axis=1)
        if op == "max" or not _may_scale(unary, transitions):
            high, low = _forward_log(unary, transitions, op)
            shift, scaled = none, none[:, 0]
        else:
            alpha, shift, in_range = _forward_scaled(unary, transitions)
            high, low, shift = ops.cond(
                in_range,
                lambda: (alpha, ops.zeros_like(alpha), shift),
                lambda: (*_forward_log(unary, transitions, op), none),
            )
            scaled = none[:, 0] + ops.cast(in_range, unary.dtype)
        peak, rest, _, _ = log_sum(_at_last(high, lengths), _at_last(low, lengths), 0.0, 1, op)
        valid = time_mask(lengths, ops.shape(unary)[1])
        total = exact_sum(array.where(ops.concatenate([valid, valid], axis=1), shift, none), 1)
        some = ops.cast(lengths > 0, unary.dtype)
        total = add_pairs(total, (some * peak[:, 0], some * rest[:, 0]))
        return total, Tape(high, low, scaled, ops.cast(total[0] > INFEASIBLE, unary.dtype))

    def backward(self, problem, tape):
        unary, transitions = problem.potentials
        inputs = _Inputs(unary, transitions, problem.context[0], tape)
        if _may_scale(unary, transitions):
            return ops.cond(
                ops.all(tape.scaled > 0),
                lambda: _backward_scaled(inputs),
                lambda: _backward_log(inputs),
            )
        return _backward_log(inputs)

    def curvature(self, problem, tape, tangents):
        unary, transitions = problem.potentials
        inputs = _Inputs(unary, transitions, problem.context[0], tape)
        if _may_scale(unary, transitions):
            return ops.cond(
                ops.all(tape.scaled > 0),
                lambda: _curvature_scaled(inputs, *tangents),
                lambda: _curvature_log(inputs, *tangents),
            )
        return _curvature_log(inputs, *tangents)

    def trace(self, problem, tape, draws=None):
        return self._walk(problem, tape, draws, 1)[..., 0]

    def sample(self, problem, tape, noise):
        tags = self._walk(problem, tape, noise.every(), noise.count)
        return ops.transpose(tags, (2, 0, 1))

    def _walk(self, problem, tape, draws, n):
        """Tags (B, N, n), -1 in the padding."""
        unary, transitions = problem.potentials
        (lengths,) = problem.context
        _, steps, k = ops.shape(unary)
        times = ops.arange(steps, dtype="int32")
        inside = ops.cast(times[:, None] < lengths[None] - 1, unary.dtype)[..., None, None]
        shared, single = transitions.shape[1] == 1, transitions.shape[0] == 1
        columns = ops.swapaxes(_pad_time(transitions)[:, 0], 1, 2)  # [to, from]
        tags = ops.arange(k, dtype="int32")[None, None]

        def step(carry, x):
            (tag,) = carry  # (B, n)
            high, low, inside, time = x[:4]
            table = columns if shared else x[4]
            if shared and single:
                column = ops.take(table[0], tag, axis=0)
            else:
                index = ops.broadcast_to(tag[:, :, None], (*ops.shape(tag), ops.shape(table)[2]))
                table = ops.broadcast_to(table, (ops.shape(tag)[0], *ops.shape(table)[1:]))
                column = array.take_along_axis(table, index, 1)
            weights = log_sum(high[:, None], low[:, None], inside * column, 2, "logsumexp")[2]
            logits = perturbed(log_weights(weights), draws, 0, time * k + tags)
            tag = ops.cast(array.argmax(logits, 2), "int32")
            return (tag,), (tag,)

        xs: tuple = (_time_major(tape.high), _time_major(tape.low), inside, times)
        if not shared:
            xs = (*xs, ops.swapaxes(_time_major(_pad_time(transitions)), 2, 3))
        tag = lengths[:, None] * ops.zeros((1, n), dtype="int32")
        _, (found,) = array.scan(step, (tag,), xs, like=(tag,), reverse=True)
        valid = time_mask(lengths, steps)[..., None]
        return array.where(valid, ops.transpose(found, (1, 0, 2)), -1)

    def topk(self, problem, k):
        unary, transitions = problem.potentials
        (lengths,) = problem.context
        n, states = ops.shape(unary)[1], unary.shape[2]
        shared = transitions.shape[1] == 1

        def step(carry, x):
            (alpha,) = carry  # (B, from, rank)
            table = transitions[:, 0] if shared else x[1]
            candidates = alpha[:, :, :, None] + table[:, :, None, :]
            candidates = ops.reshape(candidates, (-1, states * k, states))
            best, pointer = array.top_k(ops.swapaxes(candidates, 1, 2), k)
            alpha = best + x[0][..., None]
            peak = array.max(array.max(alpha, 2), 1)[:, None, None]
            alpha = alpha - array.where(peak > INFEASIBLE, peak, peak * 0.0)
            return (alpha,), (alpha, ops.cast(pointer, "int32"))

        alpha = ops.concatenate(
            [unary[:, 0, :, None]]
            + [ops.full_like(unary[:, 0, :, None], 2 * INFEASIBLE)] * (k - 1),
            axis=2,
        )
        xs: tuple = (_time_major(_next(unary)),)
        if not shared:
            xs = (*xs, _time_major(_pad_time(transitions)))
        pointer = ops.cast(ops.zeros_like(alpha), "int32")
        _, (following, pointers) = array.scan(step, (alpha,), xs, like=(alpha, pointer))
        # Alpha at the last position of every example, and the k best ends.
        scores = ops.concatenate([alpha[None], following[:-1]])
        ends = ops.reshape(_at_last(_batch_major(scores), lengths), (-1, states * k))
        total, start = array.top_k(ends, k)
        start = ops.cast(start, "int32")
        is_last = ops.arange(n, dtype="int32")[:, None] == lengths[None, :] - 1

        def back(carry, x):
            (cell,) = carry  # state * k + rank at the next position, (B, k)
            pointer, is_last = x
            before = ops.take_along_axis(ops.reshape(pointer, (-1, states * k)), cell, axis=1)
            cell = array.where(is_last[:, None], start, before)
            return (cell,), (cell,)

        _, (cells,) = array.scan(back, (start,), (pointers, is_last), like=(start,), reverse=True)
        tags = ops.transpose(cells // k, (2, 1, 0))  # (k, B, N)
        exists = array.where(
            lengths == 0, ops.arange(k)[:, None] == 0, ops.transpose(total > INFEASIBLE)
        )
        keep = ops.logical_and(exists[..., None], time_mask(lengths, n)[None])
        return array.where(keep, tags, -1), exists


def _time_major(x):
    return ops.swapaxes(x, 0, 1)


_batch_major = _time_major


def _next(x):
    """`x` one step ahead in time (axis 1), with a zero at the end."""
    return ops.concatenate([x[:, 1:], ops.zeros_like(x[:, :1])], axis=1)


def _pad_time(transitions):
    """Transitions over time with an unused last step, so that every loop has N steps."""
    return array.pad(transitions, ((0, 0), (0, 1), (0, 0), (0, 0)), 0.0)


def _at_last(x, lengths):
    """`x` (B, N, ...) at the last position of every example (the first for length 0)."""
    last = ops.maximum(lengths - 1, 0)
    index = ops.reshape(last, (-1,) + (1,) * (len(x.shape) - 1))
    return ops.take_along_axis(x, ops.cast(index, "int32"), axis=1)[:, 0]


def _centred(unary, transitions):
    """Scores of tags (B, N, K) over those of the best ones, what was taken off (B, N), and weights
    of transitions (B or 1, K, K), that of the best one into every tag being 1."""
    into = array.max(transitions, 2, keepdims=True)
    high, low = two_sum(transitions, -into)
    weights = array.exp(high)
    weights = weights + weights * low
    high, low = two_sum(unary[:, 1:], into[:, :, 0])
    high = ops.concatenate([unary[:, :1], high], axis=1)
    low = ops.concatenate([ops.zeros_like(unary[:, :1]), low], axis=1)
    centre = array.max(high, 2, keepdims=True)
    return (high - centre) + low, centre[..., 0], weights[:, 0]


def _may_scale(unary, transitions):
    return transitions.shape[1] == 1 and (unary.shape[2] or 0) >= SCALED_FROM


def _product(x, matrix):
    """(B, K) or (B, N, K) times (B or 1, K, K)."""
    if matrix.shape[0] == 1:
        return array.matmul(x, matrix[0])
    return array.matmul(x, matrix) if len(x.shape) == 3 else array.matmul(x[:, None], matrix)[:, 0]


# Forward ----------------------------------------------------------------------------------------


def _forward_log(unary, transitions, op):
    """`alpha` as a pair."""
    shared = transitions.shape[1] == 1

    def step(carry, x):
        peak, rest = carry
        rounded, error = two_sum(peak, x[0])
        high, low = join(rounded, error + rest)
        pairs = transitions[:, 0] if shared else x[1]
        peak, rest, _, _ = log_sum(high[:, :, None], low[:, :, None], pairs, 1, op)
        return (peak[:, 0], rest[:, 0]), (high, low)

    zeros = ops.zeros_like(unary[:, 0])
    xs = (_time_major(unary),) + (() if shared else (_time_major(_pad_time(transitions)),))
    _, alpha = array.scan(step, (zeros, zeros), xs, like=(zeros, zeros))
    return tuple(_batch_major(x) for x in alpha)


def _forward_scaled(unary, transitions):
    """`alpha` with maximum 0, its shifts (B, 2N), and whether no term of any sum was lost."""
    scores, centre, weights = _centred(unary, transitions)

    def step(carry, x):
        incoming, minus_least = carry
        alpha = incoming + x[0]
        shift = array.max(alpha, 1, keepdims=True)
        alpha = alpha - shift
        total = _product(array.exp(alpha), weights)
        return (array.log(total + 1e-37), array.maximum(minus_least, -total)), (alpha, shift)

    zeros = ops.zeros_like(scores[:, 0])
    like = (zeros, zeros[:, :1])
    carry = (zeros, zeros - 1.0)
    (_, minus_least), (alpha, shift) = array.scan(step, carry, (_time_major(scores),), like=like)
    in_range = ops.all(minus_least <= -LOWEST)
    # Apart, since a shift is small beside what was taken off the scores.
    shifts = ops.concatenate([_batch_major(shift)[..., 0], centre], axis=1)
    return _batch_major(alpha), shifts, in_range


# Backward and curvature ---------------------------------------------------------------------------


class _Inputs:
    """What both backward branches start from, computed once outside the loop."""

    def __init__(self, unary, transitions, lengths, tape):
        self.high, self.low, self.scaled, exists = tape
        self.unary, self.transitions = unary, transitions
        self.shared = transitions.shape[1] == 1
        n = ops.shape(unary)[1]
        end = ops.arange(n, dtype="int32")[None] == lengths[:, None] - 1
        end = ops.logical_and(end, (exists > 0)[:, None])
        self.end = ops.cast(end, unary.dtype)[..., None]
        self.lengths = lengths
        high, low = _at_last(self.high, lengths), _at_last(self.low, lengths)
        _, _, weights, total = log_sum(high, low, 0.0, 1, "logsumexp")
        self.final = weights / total
        self.p_end = self.end * self.final[:, None]

    def filtered(self):
        """Posterior of the tag given the prefix, (B, N, K)."""
        _, _, weights, total = log_sum(self.high, self.low, 0.0, 2, "logsumexp")
        return weights / total

    def tables(self):
        return () if self.shared else (_time_major(_pad_time(self.transitions)),)

    def table(self, x):
        return self.transitions[:, 0] if self.shared else x[-1]

    def dp_end(self, dalpha):
        """Tangent of `p_end`."""
        da = _at_last(dalpha, self.lengths)
        dp = self.final * (da - ops.sum(self.final * da, axis=1, keepdims=True))
        return self.end * dp[:, None]


def _backward_log(inputs):
    def step(carry, x):
        p, pairs = carry
        high, low, p_end = x[:3]
        weights, total = _pair_weights(high, low, inputs.table(x))
        pair = weights * (p[:, None, :] / total)
        p = p_end + array.sum(pair, 2)
        if inputs.shared:
            return (p, pairs + pair), (p,)
        return (p, pairs), (p, pair)

    zeros = ops.zeros_like(inputs.final)
    square = zeros[:, :, None] * zeros[:, None, :]
    xs = tuple(_time_major(x) for x in (inputs.high, inputs.low, inputs.p_end)) + inputs.tables()
    like = (zeros,) if inputs.shared else (zeros, square)
    (_, pairs), ys = array.scan(step, (zeros, square), xs, like=like, reverse=True)
    if inputs.shared:
        return _batch_major(ys[0]), pairs[:, None]
    return _batch_major(ys[0]), _batch_major(ys[1])[:, :-1]


def _curvature_log(inputs, dunary, dtransitions):
    dalpha, dc = _tangent_forward_log(inputs, dunary, dtransitions)

    def step(carry, x):
        p, dp, dpairs = carry
        high, low, p_end, dp_end, dalpha, dc = x[:6]
        if inputs.shared:
            table, dtable = inputs.transitions[:, 0], dtransitions[:, 0]
        else:
            table, dtable = x[6:]
        weights, total = _pair_weights(high, low, table)
        weights = weights / total
        rate = dalpha[:, :, None] + dtable - dc[:, None, :]
        dpair = weights * (dp[:, None, :] + p[:, None, :] * rate)
        dp = dp_end + array.sum(dpair, 2)
        p = p_end + array.sum(weights * p[:, None, :], 2)
        if inputs.shared:
            return (p, dp, dpairs + dpair), (dp,)
        return (p, dp, dpairs), (dp, dpair)

    zeros = ops.zeros_like(inputs.final)
    square = zeros[:, :, None] * zeros[:, None, :]
    xs = (inputs.high, inputs.low, inputs.p_end, inputs.dp_end(dalpha), dalpha, dc)
    xs = tuple(_time_major(x) for x in xs)
    if not inputs.shared:
        xs += tuple(_time_major(_pad_time(x)) for x in (inputs.transitions, dtransitions))
    like = (zeros,) if inputs.shared else (zeros, square)
    (_, _, dpairs), ys = array.scan(step, (zeros, zeros, square), xs, like=like, reverse=True)
    if inputs.shared:
        return _batch_major(ys[0]), dpairs[:, None]
    return _batch_major(ys[0]), _batch_major(ys[1])[:, :-1]


def _tangent_forward_log(inputs, dunary, dtransitions):
    def step(carry, x):
        (dc,) = carry
        high, low, filtered, du = x[:4]
        if inputs.shared:
            table, dtable = inputs.transitions[:, 0], dtransitions[:, 0]
        else:
            table, dtable = x[4:]
        dalpha = _centred_tangent(dc + du, filtered)
        weights, total = _pair_weights(high, low, table)
        dc = array.sum(weights * (dalpha[:, :, None] + dtable), 1) / total[:, 0]
        return (dc,), (dalpha, dc)

    xs = tuple(_time_major(x) for x in (inputs.high, inputs.low, inputs.filtered(), dunary))
    if not inputs.shared:
        xs += tuple(_time_major(_pad_time(x)) for x in (inputs.transitions, dtransitions))
    zeros = ops.zeros_like(inputs.final)
    _, (dalpha, dc) = array.scan(step, (zeros,), xs, like=(zeros, zeros))
    return _batch_major(dalpha), _batch_major(dc)


def _pair_weights(high, low, table):
    """Posterior weights of the tag before each tag (B, K, K), times their sums (B, 1, K)."""
    return log_sum(high[:, :, None], low[:, :, None], table, 1, "logsumexp")[2:]


def _centred_tangent(dalpha, filtered):
    """Without what all prefixes gain alike, which changes no weight but would grow with time."""
    return dalpha - array.sum(filtered * dalpha, 1, keepdims=True)


class _Scaled:
    """Weights of a pair (i, j) at time t as a[t, i] E[i, j] / s[t, j]."""

    def __init__(self, inputs):
        _, _, self.weights = _centred(inputs.unary, inputs.transitions)
        self.back = ops.swapaxes(self.weights, 1, 2)
        scaled = (inputs.scaled > 0)[:, None, None]
        self.a = array.exp(array.where(scaled, inputs.high, ops.zeros_like(inputs.high)))
        self.inverse = 1.0 / (_product(self.a, self.weights) + 1e-37)


def _backward_scaled(inputs):
    scaled = _Scaled(inputs)

    def step(carry, x):
        (p,) = carry
        a, inverse, p_end = x
        ratio = p * inverse
        p = p_end + a * _product(ratio, scaled.back)
        return (p,), (p, ratio)

    zeros = ops.zeros_like(inputs.final)
    xs = tuple(_time_major(x) for x in (scaled.a, scaled.inverse, inputs.p_end))
    _, (p, ratio) = array.scan(step, (zeros,), xs, like=(zeros, zeros), reverse=True)
    pairs = scaled.weights * _outer(scaled.a, ratio)
    return _batch_major(p), pairs[:, None]


def _curvature_scaled(inputs, dunary, dtransitions):
    scaled = _Scaled(inputs)
    dweights = scaled.weights * dtransitions[:, 0]
    dback = ops.swapaxes(dweights, 1, 2)
    # What the transitions alone gain.
    gain = _product(scaled.a, dweights) * scaled.inverse

    def forward(carry, x):
        (dc,) = carry
        a, inverse, filtered, gain, du = x
        dalpha = _centred_tangent(dc + du, filtered)
        dc = _product(a * dalpha, scaled.weights) * inverse + gain
        return (dc,), (dalpha, dc)

    zeros = ops.zeros_like(inputs.final)
    filtered = scaled.a / ops.sum(scaled.a, axis=2, keepdims=True)
    xs = tuple(_time_major(x) for x in (scaled.a, scaled.inverse, filtered, gain, dunary))
    _, (dalpha, dc) = array.scan(forward, (zeros,), xs, like=(zeros, zeros))
    dp_end = _time_major(inputs.dp_end(_batch_major(dalpha)))

    def backward(carry, x):
        p, dp = carry
        a, inverse, p_end, dp_end, dalpha, dc = x
        ratio = p * inverse
        dratio = (dp - p * dc) * inverse
        back = _product(ratio, scaled.back)
        p = p_end + a * back
        dp = dp_end + a * (_product(dratio, scaled.back) + dalpha * back + _product(ratio, dback))
        return (p, dp), (dp, ratio, dratio)

    xs = (*xs[:2], _time_major(inputs.p_end), dp_end, dalpha, dc)
    _, (dp, ratio, dratio) = array.scan(
        backward, (zeros, zeros), xs, like=(zeros,) * 3, reverse=True
    )
    dpairs = scaled.weights * (
        _outer(scaled.a, dratio) + _outer(scaled.a * _batch_major(dalpha), ratio)
    ) + dweights * _outer(scaled.a, ratio)
    return _batch_major(dp), dpairs[:, None]


def _outer(left, right):
    """Sum over time of left (B, N, K) times right (N, B, K): (B, K, K)."""
    return array.matmul(ops.swapaxes(left, 1, 2), _batch_major(right))
