"""Semi-Markov forward-backward on every backend (see recurrence.md).

The loop over end positions carries a window (B, D, K): at place d, the log-sum of everything before
a segment of d + 1 positions that ends here, by the label of that segment. Messages are pairs (see
`messages.py`).

The tape is `weights` (B, N, D, K): the posterior of the length of a segment, given where it ends
and its label; `high`, `low` (B, N, K): log-sums with a last segment that ends at n, as a pair; and
whether any structure exists (B,).

Noise: label k of a segment that ends at n is at place n K + k of stream 0, its length d + 1 at
place n D + d of stream 1.
"""

from typing import Any, NamedTuple

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.implementation import Implementation
from keras_struct.ops.messages import join, log_sum, log_weights
from keras_struct.ops.noise import perturbed
from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE
from keras_struct.ops.structure import time_mask


class Tape(NamedTuple):
    weights: Any
    high: Any
    low: Any
    exists: Any


class SemiMarkovPortable(Implementation):
    def forward(self, problem, op):
        segments, transitions = problem.potentials
        (lengths,) = problem.context

        def step(carry, x):
            high, low = carry  # (B, D, K)
            peak, rest, weights, total = log_sum(high, low, x[0], 1, op)
            f, f_low = join(peak[:, 0], rest[:, 0])
            peak, rest, _, _ = log_sum(f[:, :, None], f_low[:, :, None], transitions, 1, op)
            g, g_low = join(peak, rest)
            high = array.concatenate([g, high[:, :-1]], 1)
            low = array.concatenate([g_low, low[:, :-1]], 1)
            return (high, low), (weights / total, f, f_low)

        zeros = ops.zeros_like(segments[:, 0])
        never = zeros[:, 1:] + FORBIDDEN
        start = (ops.concatenate([zeros[:, :1], never], axis=1), zeros)
        like = (zeros, zeros[:, 0], zeros[:, 0])
        _, tape = array.scan(step, start, (_time_major(segments),), like=like)
        weights, high, low = (_time_major(x) for x in tape)
        peak, rest, _, _ = log_sum(_at_last(high, lengths), _at_last(low, lengths), 0.0, 1, op)
        some = ops.cast(lengths > 0, peak.dtype)
        total = some * peak[:, 0], some * rest[:, 0]
        return total, Tape(weights, high, low, ops.cast(total[0] > INFEASIBLE, high.dtype))

    def backward(self, problem, tape):
        local = _Local(problem, tape)

        def step(carry, x):
            queue, pairs = carry
            high, low, weights, end = x
            pair = local.links(high, low) * queue[:, :1]
            p = end + array.sum(pair, 2)
            used = weights * p[:, None]
            return (_push(queue, used), pairs + pair), (used,)

        xs = (local.high, local.low, local.weights, local.end)
        xs = tuple(_time_major(x) for x in xs)
        start = (local.zeros, local.square)
        (_, pairs), (used,) = array.scan(step, start, xs, like=(local.zeros,), reverse=True)
        return _time_major(used), pairs

    def curvature(self, problem, tape, tangents):
        local = _Local(problem, tape)
        dsegments, dtransitions = tangents

        def forward(carry, x):
            (dwindow,) = carry
            high, low, filtered, weights, dsegments = x
            rate = dwindow + dsegments
            df = array.sum(weights * rate, 1)
            dg = array.sum(local.links(high, low) * (df[:, :, None] + dtransitions), 1)
            following = array.concatenate([dg[:, None], dwindow[:, :-1]], 1)
            # What all prefixes gain alike changes no weight but would grow with time.
            gain = array.sum(filtered * df, 1)[:, None, None]
            return (following - gain,), (rate - df[:, None], df, dg)

        xs: tuple = (local.high, local.low, local.filtered, local.weights, dsegments)
        xs = tuple(_time_major(x) for x in xs)
        row = local.zeros[:, 0]
        like = (local.zeros, row, row)
        _, (rates, df, dg) = array.scan(forward, (local.zeros,), xs, like=like)
        dend = _time_major(local.dend(_time_major(df)))

        def backward(carry, x):
            queue, dqueue, dpairs = carry
            high, low, weights, end, rate, df, dg, dend = x
            link = local.links(high, low)
            pair = link * queue[:, :1]
            link_rate = df[:, :, None] + dtransitions - dg[:, None, :]
            dpair = link * dqueue[:, :1] + pair * link_rate
            p, dp = end + array.sum(pair, 2), dend + array.sum(dpair, 2)
            used = weights * p[:, None]
            dused = weights * dp[:, None] + used * rate
            return (_push(queue, used), _push(dqueue, dused), dpairs + dpair), (dused,)

        xs = (xs[0], xs[1], xs[3], _time_major(local.end), rates, df, dg, dend)
        start = (local.zeros, local.zeros, local.square)
        (_, _, dpairs), (dused,) = array.scan(
            backward, start, xs, like=(local.zeros,), reverse=True
        )
        return _time_major(dused), dpairs

    def trace(self, problem, tape, draws=None):
        return self._walk(problem, tape, draws, 1)[0]

    def sample(self, problem, tape, noise):
        return self._walk(problem, tape, noise.every(), noise.count)

    def _walk(self, problem, tape, draws, n):
        """Events (n, B, N, 2)."""
        segments, transitions = problem.potentials
        (lengths,) = problem.context
        batch, positions, longest, k = ops.shape(segments)
        times = ops.arange(positions, dtype="int32")
        last = ops.equal(times[:, None], lengths[None] - 1)[..., None]
        columns = ops.swapaxes(transitions, 1, 2)  # [to, from]
        labels = ops.arange(k, dtype="int32")[None, None]
        sizes = ops.arange(longest, dtype="int32")[None, None]

        def step(carry, x):
            label, wait = carry  # (B, n)
            high, low, weights, last, time = x
            if columns.shape[0] == 1:
                column = ops.take(columns[0], label, axis=0)
            else:
                index = ops.broadcast_to(label[:, :, None], (batch, n, k))
                column = array.take_along_axis(columns, index, 1)
            column = array.where(last[..., None], column * 0.0, column)
            logits = log_weights(log_sum(high[:, None], low[:, None], column, 2, "logsumexp")[2])
            logits = perturbed(logits, draws, 0, time * k + labels)
            here = ops.logical_or(last, wait == 0)
            label = array.where(here, ops.cast(array.argmax(logits, 2), "int32"), label)
            index = ops.broadcast_to(label[:, None], (batch, longest, n))
            logits = log_weights(array.take_along_axis(weights, index, 2))
            logits = array.transpose(logits, (0, 2, 1))
            logits = perturbed(logits, draws, 1, time * longest + sizes)
            length = ops.cast(array.argmax(logits, 2), "int32")
            ends = array.where(here, label, label * 0 - 1)
            spans = array.where(here, length + 1, length * 0 - 1)
            # Before the last position of the example nothing is due.
            wait = array.where(here, length, wait - 1)
            return (label, wait), (ends, spans)

        zeros = lengths[:, None] * ops.zeros((1, n), dtype="int32")
        xs = (*(_time_major(x) for x in (tape.high, tape.low, tape.weights)), last, times)
        _, found = array.scan(step, (zeros, zeros - 1), xs, like=(zeros, zeros), reverse=True)
        ends, spans = (
            ops.reshape(ops.transpose(x, (2, 1, 0)), (n * batch, positions)) for x in found
        )
        return ops.reshape(at_starts(ends, spans, longest), (n, batch, positions, 2))

    def topk(self, problem, k):
        segments, transitions = problem.potentials
        (lengths,) = problem.context
        longest, states = segments.shape[2:]

        def step(carry, x):
            (window,) = carry  # (B, D, K, rank)
            candidates = window + x[0][..., None]
            candidates = ops.reshape(
                ops.transpose(candidates, (0, 2, 1, 3)), (-1, states, longest * k)
            )
            f, length = array.top_k(candidates, k)  # (B, K, rank)
            candidates = f[:, :, :, None] + transitions[:, :, None, :]
            candidates = ops.swapaxes(ops.reshape(candidates, (-1, states * k, states)), 1, 2)
            g, link = array.top_k(candidates, k)  # (B, K', rank)
            window = array.concatenate([g[:, None], window[:, :-1]], 1)
            peak = array.max(array.max(array.max(window, 3), 2), 1)[:, None, None, None]
            window = window - array.where(peak > INFEASIBLE, peak, peak * 0.0)
            return (window,), (f, ops.cast(length, "int32"), ops.cast(link, "int32"))

        first = ops.zeros_like(segments[:, 0, :1, :, None])
        never = ops.full_like(first, FORBIDDEN)
        row = ops.concatenate([first] + [never] * (k - 1), axis=3)
        window = ops.concatenate([row] + [ops.full_like(row, FORBIDDEN)] * (longest - 1), axis=1)
        index = ops.cast(ops.zeros_like(row[:, 0]), "int32")
        _, (f, length, link) = array.scan(
            step, (window,), (_time_major(segments),), like=(row[:, 0], index, index)
        )
        ends = ops.reshape(_at_last(_time_major(f), lengths), (-1, states * k))
        total, start = array.top_k(ends, k)
        start = ops.cast(start, "int32")
        positions = ops.arange(ops.shape(f)[0], dtype="int32")
        last = ops.transpose(positions[None] == lengths[:, None] - 1)

        def back(carry, x):
            cell, wait = carry  # label * k + rank of the segment in flight, (B, k)
            length, link, last = x
            # Where a segment has just begun, its link leads to the one that ends here.
            linked = array.take_along_axis(ops.reshape(link, (-1, states * k)), cell, 1)
            cell = array.where(wait == 0, linked, cell)
            last = ops.logical_and(last[:, None], wait == wait)
            here = ops.logical_or(last, wait == 0)
            cell = array.where(last, start, cell)
            choice = array.take_along_axis(ops.reshape(length, (-1, states * k)), cell, 1)
            label, span, rank = cell // k, choice // k, choice % k
            ends = array.where(here, label, label * 0 - 1)
            spans = array.where(here, span + 1, span * 0 - 1)
            cell = array.where(here, label * k + rank, cell)
            return (cell, array.where(here, span, wait - 1)), (ends, spans)

        zeros = ops.zeros_like(start)
        _, (labels, spans) = array.scan(
            back, (zeros, zeros - 1), (length, link, last), like=(zeros, zeros), reverse=True
        )
        labels = ops.reshape(ops.transpose(labels, (2, 1, 0)), (-1, ops.shape(f)[0]))
        spans = ops.reshape(ops.transpose(spans, (2, 1, 0)), (-1, ops.shape(f)[0]))
        events = at_starts(labels, spans, longest)
        events = ops.reshape(events, (k, -1, ops.shape(f)[0], 2))
        exists = array.where(
            lengths == 0, ops.arange(k)[:, None] == 0, ops.transpose(total > INFEASIBLE)
        )
        keep = ops.logical_and(exists[..., None], time_mask(lengths, ops.shape(f)[0])[None])
        return array.where(keep[..., None], events, -1), exists


class _Local:
    """Local posterior weights, computed once outside the loops."""

    def __init__(self, problem, tape):
        _, self.transitions = problem.potentials
        (self.lengths,) = problem.context
        self.weights, self.high, self.low, exists = tape
        # Posterior of the last label given what ends at n.
        _, _, weights, total = log_sum(self.high, self.low, 0.0, 2, "logsumexp")
        self.filtered = weights / total
        self.final = _at_last(self.filtered, self.lengths)
        positions = ops.arange(ops.shape(self.high)[1], dtype="int32")[None]
        at_end = ops.logical_and(positions == self.lengths[:, None] - 1, exists[:, None] > 0)
        self.at_end = ops.cast(at_end, self.high.dtype)[..., None]
        self.end = self.at_end * self.final[:, None]
        self.zeros = ops.zeros_like(self.weights[:, 0])
        self.square = ops.zeros_like(self.final[:, :, None] * self.final[:, None, :])

    def links(self, high, low):
        """Posterior weights of the label before each label, (B, K, K)."""
        _, _, weights, total = log_sum(
            high[:, :, None], low[:, :, None], self.transitions, 1, "logsumexp"
        )
        return weights / total

    def dend(self, df):
        """Tangent of `end`."""
        d = _at_last(df, self.lengths)
        d = self.final * (d - ops.sum(self.final * d, axis=1, keepdims=True))
        return self.at_end * d[:, None]


def _push(queue, used):
    """Probabilities of the segments in flight, one position further back."""
    return used + array.concatenate([queue[:, 1:], queue[:, :1] * 0.0], 1)


def at_starts(labels, spans, longest):
    """(label, length) at the first position of every segment, from those at the last one."""
    label, length = labels * 0 - 1, spans * 0 - 1
    n = ops.shape(labels)[1]
    for d in range(longest):
        pad = [labels[:, :1] * 0 - 1] * d
        ahead_label = ops.concatenate([labels, *pad], axis=1)[:, d:][:, :n]
        ahead_span = ops.concatenate([spans, *pad], axis=1)[:, d:][:, :n]
        starts = ahead_span == d + 1
        label, length = (
            array.where(starts, ahead_label, label),
            array.where(starts, ahead_span, length),
        )
    return ops.stack([label, length], axis=-1)


def _time_major(x):
    return ops.swapaxes(x, 0, 1)


def _at_last(x, lengths):
    return array.take_rows(x, ops.maximum(lengths - 1, 0)[:, None], 1)[:, 0]
