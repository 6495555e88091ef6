"""Forward-backward over time, in log space or as scaled matrix products (see recurrence.md).

The tape is `c` (B, N, K): `c[t]` = log-sum over the tag at t of `alpha[t] + transitions`, where
`alpha[t]` is shifted to have maximum 0. Everything else is recomputed from it in one vectorised
expression. Where transitions are shared over time and no weight underflows, the sums over K x K
pairs are matrix products of exponentials (`_scaled`); the test is exact, and log space (`_log`)
is the other branch.
"""

import dataclasses

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.numerics import INFEASIBLE
from keras_struct.ops.structure import time_mask
from keras_struct.ops.sweeps import Sweeps

# A column sum of scaled weights below this may have lost terms to underflow (log of 1e-25).
LOWEST = -57.0
# From this many tags on, matrix products beat exponentials.
SCALED_FROM = 5


@dataclasses.dataclass(frozen=True)
class SequentialSweeps(Sweeps):
    def forward(self, potentials, context, op):
        unary, transitions = potentials
        (lengths,) = context
        if op == "max":
            c = _forward_log(unary, transitions, _max)
        elif _may_scale(unary, transitions):
            c = _forward_scaled(unary, transitions)
            c = ops.cond(
                _in_range(c, transitions),
                lambda: c,
                lambda: _forward_log(unary, transitions, array.logsumexp),
            )
        else:
            c = _forward_log(unary, transitions, array.logsumexp)
        alpha, shift = _alpha(unary, c)
        last = _at_last(alpha, lengths)
        valid = time_mask(lengths, ops.shape(unary)[1])
        total = ops.sum(array.where(valid, shift, ops.zeros_like(shift)), axis=1)
        final = _max(last, 1) if op == "max" else array.logsumexp(last, 1)
        return total + array.where(lengths > 0, final, ops.zeros_like(final)), (c,)

    def backward(self, potentials, context, tape):
        unary, transitions = potentials
        inputs = _Inputs(unary, transitions, context[0], tape[0])
        if _may_scale(unary, transitions):
            return ops.cond(
                _in_range(tape[0], transitions),
                lambda: _backward_scaled(inputs),
                lambda: _backward_log(inputs),
            )
        return _backward_log(inputs)

    def curvature(self, potentials, context, tape, tangents):
        unary, transitions = potentials
        inputs = _Inputs(unary, transitions, context[0], tape[0])
        if _may_scale(unary, transitions):
            return ops.cond(
                _in_range(tape[0], transitions),
                lambda: _curvature_scaled(inputs, *tangents),
                lambda: _curvature_log(inputs, *tangents),
            )
        return _curvature_log(inputs, *tangents)

    def trace(self, potentials, context, tape, noise):
        unary, transitions = potentials
        (lengths,) = context
        n = ops.shape(unary)[1]
        alpha, _ = _alpha(unary, tape[0])
        alpha = alpha + noise(ops.shape(alpha))
        inside = ops.cast(ops.arange(n, dtype="int32")[None] < lengths[:, None] - 1, unary.dtype)[
            ..., None
        ]
        shared = transitions.shape[1] == 1
        columns = ops.swapaxes(transitions[:, 0], 1, 2)  # [to, from]
        single = transitions.shape[0] == 1

        def step(carry, x):
            (tag,) = carry
            alpha, inside = x[0], x[1]
            table = columns if shared else x[2]
            if shared and single:
                column = ops.take(table[0], tag, axis=0)
            else:
                column = ops.take_along_axis(table, tag[:, None, None], axis=1)[:, 0]
            tag = ops.cast(array.argmax(alpha + inside * column, 1), "int32")
            return (tag,), (tag,)

        xs: tuple = (_time_major(alpha), _time_major(inside))
        if not shared:
            xs = (*xs, ops.swapaxes(_time_major(_pad_time(transitions)), 2, 3))
        tag = ops.zeros_like(lengths)
        _, (tags,) = array.scan(step, (tag,), xs, like=(tag,), reverse=True)
        return array.where(time_mask(lengths, n), _batch_major(tags), -1)

    def topk(self, potentials, context, k):
        unary, transitions = potentials
        (lengths,) = context
        n, states = ops.shape(unary)[1], unary.shape[2]
        shared = transitions.shape[1] == 1

        def step(carry, x):
            (alpha,) = carry  # (B, from, rank)
            table = transitions[:, 0] if shared else x[1]
            candidates = alpha[:, :, :, None] + table[:, :, None, :]
            candidates = ops.reshape(candidates, (-1, states * k, states))
            best, pointer = array.top_k(ops.swapaxes(candidates, 1, 2), k)
            return (best + x[0][..., None],), (best, ops.cast(pointer, "int32"))

        alpha = ops.concatenate(
            [unary[:, 0, :, None]]
            + [ops.full_like(unary[:, 0, :, None], 2 * INFEASIBLE)] * (k - 1),
            axis=2,
        )
        xs: tuple = (_time_major(_next(unary)),)
        if not shared:
            xs = (*xs, _time_major(_pad_time(transitions)))
        pointer = ops.cast(ops.zeros_like(alpha), "int32")
        _, (best, pointers) = array.scan(step, (alpha,), xs, like=(alpha, pointer))
        # Alpha at the last position of every example, and the k best ends.
        scores = ops.concatenate([alpha[None], best[:-1] + _time_major(unary)[1:, ..., None]])
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


def _max(x, axis):
    return array.max(x, axis)


def _time_major(x):
    return ops.swapaxes(x, 0, 1)


_batch_major = _time_major


def _next(x):
    """`x` one step ahead in time (axis 1), with a zero at the end."""
    return ops.concatenate([x[:, 1:], ops.zeros_like(x[:, :1])], axis=1)


def _pad_time(transitions):
    """Transitions over time with an unused last step, so that every loop has N steps."""
    return ops.concatenate([transitions, ops.zeros_like(transitions[:, :1])], axis=1)


def _at_last(x, lengths):
    """`x` (B, N, ...) at the last position of every example (the first for length 0)."""
    last = ops.maximum(lengths - 1, 0)
    index = ops.reshape(last, (-1,) + (1,) * (len(x.shape) - 1))
    return ops.take_along_axis(x, ops.cast(index, "int32"), axis=1)[:, 0]


def _alpha(unary, c):
    """Forward messages shifted to have maximum 0, and their shifts: (B, N, K), (B, N)."""
    incoming = ops.concatenate([ops.zeros_like(c[:, :1]), c[:, :-1]], axis=1)
    alpha = incoming + unary
    shift = ops.max(alpha, axis=2)
    return alpha - shift[..., None], shift


def _may_scale(unary, transitions):
    return transitions.shape[1] == 1 and (unary.shape[2] or 0) >= SCALED_FROM


def _in_range(c, transitions):
    return ops.all(c - _peak(transitions) >= LOWEST)


def _peak(transitions):
    """Largest transition into every tag: (B or 1, 1, K)."""
    return ops.max(transitions[:, 0], axis=1, keepdims=True)


def _product(x, matrix):
    """(B, K) times (B or 1, K, K)."""
    if matrix.shape[0] == 1:
        return array.matmul(x, matrix[0])
    return array.matmul(x[:, None, :], matrix)[:, 0]


# Forward ----------------------------------------------------------------------------------------


def _forward_log(unary, transitions, reduce):
    shared = transitions.shape[1] == 1

    def step(carry, x):
        (alpha,) = carry
        table = transitions[:, 0] if shared else x[1]
        c = reduce(alpha[:, :, None] + table, 1)
        alpha = c + x[0]
        return (alpha - array.max(alpha, 1, keepdims=True),), (c,)

    return _run_forward(step, unary, () if shared else (_time_major(_pad_time(transitions)),))


def _forward_scaled(unary, transitions):
    peak = _peak(transitions)
    weights = array.exp(transitions[:, 0] - peak)
    peak = peak[:, 0]
    floor = 1e-37

    def step(carry, x):
        (alpha,) = carry
        c = array.log(_product(array.exp(alpha), weights) + floor) + peak
        alpha = c + x[0]
        return (alpha - array.max(alpha, 1, keepdims=True),), (c,)

    return _run_forward(step, unary, ())


def _run_forward(step, unary, tables):
    alpha = unary[:, 0] - ops.max(unary[:, 0], axis=1, keepdims=True)
    xs = (_time_major(_next(unary)), *tables)
    _, (c,) = array.scan(step, (alpha,), xs, like=(alpha,))
    return _batch_major(c)


# Backward and curvature ---------------------------------------------------------------------------


class _Inputs:
    """What both backward branches start from, computed once outside the loop."""

    def __init__(self, unary, transitions, lengths, c):
        self.transitions = transitions
        self.shared = transitions.shape[1] == 1
        self.alpha, shift = _alpha(unary, c)
        self.c = c
        n = ops.shape(unary)[1]
        feasible = ops.sum(array.where(time_mask(lengths, n), shift, ops.zeros_like(shift)), axis=1)
        end = ops.arange(n, dtype="int32")[None] == lengths[:, None] - 1
        end = ops.logical_and(end, (feasible > INFEASIBLE)[:, None])
        self.end = ops.cast(end, unary.dtype)[..., None]
        self.lengths = lengths
        self.final = ops.softmax(_at_last(self.alpha, lengths), axis=-1)
        self.p_end = self.end * self.final[:, None]

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
        alpha, c, p_end = x[:3]
        weights = array.exp(alpha[:, :, None] + inputs.table(x) - c[:, None, :])
        pair = weights * p[:, None, :]
        p = p_end + array.sum(pair, 2)
        if inputs.shared:
            return (p, pairs + pair), (p,)
        return (p, pairs), (p, pair)

    zeros = ops.zeros_like(inputs.final)
    square = zeros[:, :, None] * zeros[:, None, :]
    xs = tuple(_time_major(x) for x in (inputs.alpha, inputs.c, inputs.p_end)) + inputs.tables()
    like = (zeros,) if inputs.shared else (zeros, square)
    (_, pairs), ys = array.scan(step, (zeros, square), xs, like=like, reverse=True)
    if inputs.shared:
        return _batch_major(ys[0]), pairs[:, None]
    return _batch_major(ys[0]), _batch_major(ys[1])[:, :-1]


def _curvature_log(inputs, dunary, dtransitions):
    dalpha, dc = _tangent_forward_log(inputs, dunary, dtransitions)

    def step(carry, x):
        p, dp, dpairs = carry
        alpha, c, p_end, dp_end, dalpha, dc = x[:6]
        if inputs.shared:
            table, dtable = inputs.transitions[:, 0], dtransitions[:, 0]
        else:
            table, dtable = x[6:]
        weights = array.exp(alpha[:, :, None] + table - c[:, None, :])
        rate = dalpha[:, :, None] + dtable - dc[:, None, :]
        dpair = weights * (dp[:, None, :] + p[:, None, :] * rate)
        dp = dp_end + array.sum(dpair, 2)
        p = p_end + array.sum(weights * p[:, None, :], 2)
        if inputs.shared:
            return (p, dp, dpairs + dpair), (dp,)
        return (p, dp, dpairs), (dp, dpair)

    zeros = ops.zeros_like(inputs.final)
    square = zeros[:, :, None] * zeros[:, None, :]
    xs = (inputs.alpha, inputs.c, inputs.p_end, inputs.dp_end(dalpha), dalpha, dc)
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
        (dalpha,) = carry
        alpha, c, du = x[:3]
        if inputs.shared:
            table, dtable = inputs.transitions[:, 0], dtransitions[:, 0]
        else:
            table, dtable = x[3:]
        weights = array.exp(alpha[:, :, None] + table - c[:, None, :])
        dc = array.sum(weights * (dalpha[:, :, None] + dtable), 1)
        return (dc + du,), (dalpha, dc)

    xs = tuple(_time_major(x) for x in (inputs.alpha, inputs.c, _next(dunary)))
    if not inputs.shared:
        xs += tuple(_time_major(_pad_time(x)) for x in (inputs.transitions, dtransitions))
    start = dunary[:, 0]
    _, (dalpha, dc) = array.scan(step, (start,), xs, like=(start, start))
    return _batch_major(dalpha), _batch_major(dc)


class _Scaled:
    """Weights of a pair (i, j) at time t as a[t, i] E[i, j] / s[t, j]."""

    def __init__(self, inputs):
        peak = _peak(inputs.transitions)
        self.weights = array.exp(inputs.transitions[:, 0] - peak)
        self.back = ops.swapaxes(self.weights, 1, 2)
        self.a = array.exp(inputs.alpha)
        self.inverse = array.exp(peak - inputs.c)


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

    def forward(carry, x):
        (dalpha,) = carry
        a, inverse, du = x
        dc = (_product(a * dalpha, scaled.weights) + _product(a, dweights)) * inverse
        return (dc + du,), (dalpha, dc)

    start = dunary[:, 0]
    xs = tuple(_time_major(x) for x in (scaled.a, scaled.inverse, _next(dunary)))
    _, (dalpha, dc) = array.scan(forward, (start,), xs, like=(start, start))
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

    zeros = ops.zeros_like(inputs.final)
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
