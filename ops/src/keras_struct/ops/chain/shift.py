"""Chains whose state moves up by 0 ... M-1 at every step: CTC, subsets of size k.

    alpha[t, s] = logsumexp_m (alpha[t-1, s-m] + moves[t, s, m])

Canonical potential: `moves` (B, T, S or 1, M), where padding steps have move 0 free and the others
forbidden. Context: `final` (B, S), 0 where a path may end and `FORBIDDEN` elsewhere. A path starts
in state 0 before the first step. Paths are the states after every step, (B, T).

Messages are pairs (see `messages.py`). The tape is `weights` (B, T, M, S), the posterior of every
move into a state, `last` (B, S), that of the last state, and whether there is any path (B,).

Noise: the last state s at place s of stream 0; move m at step t at place t M + m of stream 1.
"""

from typing import Any, NamedTuple

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.implementation import Implementation
from keras_struct.ops.messages import join, log_sum, log_weights
from keras_struct.ops.noise import flat_places, perturbed
from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE
from keras_struct.ops.structure import one_hot


class Tape(NamedTuple):
    weights: Any
    last: Any
    exists: Any


class Shift(Implementation):
    def event(self, states, problem):
        """Events (..., B, T) from paths."""
        raise NotImplementedError

    def forward(self, problem, op):
        (moves,) = problem.potentials
        final = problem.context[0]
        count = moves.shape[3]
        pad = _padding(final, count - 1)

        def step(carry, x):
            (messages,) = carry  # (high and low, B, S)
            high, low = _before(messages, pad, count)
            peak, rest, weights, total = log_sum(high, low, x[0], 0, op)
            return (array.concatenate(join(peak, rest), 0),), (weights / total,)

        start = _start(final)
        start = array.stack([start, ops.zeros_like(start)], 0)
        like = array.stack([start[0]] * count, 0)
        (messages,), (weights,) = array.scan(step, (start,), (_moves_first(moves),), like=(like,))
        peak, rest, last, mass = log_sum(messages[0], messages[1], final, 1, op)
        total = peak[:, 0], rest[:, 0]
        exists = ops.cast(total[0] > INFEASIBLE, final.dtype)
        return total, Tape(_batch_first(weights), last / mass, exists)

    def backward(self, problem, tape):
        (moves,) = problem.potentials
        posterior = _Posterior(tape)
        return (_fit(_batch_first(posterior.used), moves),)

    def curvature(self, problem, tape, tangents):
        (moves,) = problem.potentials
        (dmoves,) = tangents
        posterior = _Posterior(tape)
        count = moves.shape[3]
        dmoves = _moves_first(dmoves)
        # What all paths gain alike changes no weight; without it tangents stay small.
        dmoves = dmoves - _over_paths(posterior.used * dmoves)
        pad = ops.zeros_like(_padding(problem.context[0], count - 1)[0])

        def forward(carry, x):
            (dmessage,) = carry
            rates = _shifted(dmessage, pad, count) + x[1]
            dc = array.sum(x[0] * rates, 0)
            return (dc,), (rates - dc,)

        zeros = ops.zeros_like(posterior.end)
        like = (posterior.weights[0],)
        (dlast,), (rates,) = array.scan(forward, (zeros,), (posterior.weights, dmoves), like=like)
        mean = ops.sum(posterior.end * dlast, axis=1, keepdims=True)

        def backward(carry, x):
            (dp,) = carry
            dused = x[0] * dp + x[1]
            return (_unshifted(dused),), (dused,)

        _, (dused,) = array.scan(
            backward,
            (posterior.end * (dlast - mean),),
            (posterior.weights, posterior.used * rates),
            like=like,
            reverse=True,
        )
        return (_fit(_batch_first(dused), moves),)

    def trace(self, problem, tape, draws=None):
        return self.event(self._walk(tape, draws)[..., 0], problem)

    def sample(self, problem, tape, noise):
        states = ops.transpose(self._walk(tape, noise.every(), noise.count), (2, 0, 1))
        return self.event(states, problem)

    def _walk(self, tape, draws, n=1):
        """States after every step, (B, T, n)."""
        steps, (count, size) = ops.shape(tape.weights)[1], ops.shape(tape.weights)[2:]
        last = log_weights(tape.last)[:, None]  # (B, n, S)
        last = last + ops.zeros((1, n, 1), dtype=last.dtype)
        last = perturbed(last, draws, 0, flat_places((1, size)))
        state = ops.cast(array.argmax(last, 2), "int32")
        moves = ops.arange(count, dtype="int32")[None, None]

        def step(carry, x):
            (state,) = carry  # (B, n)
            weights, time = x
            index = ops.broadcast_to(state[:, None], (ops.shape(state)[0], count, n))
            logits = log_weights(array.take_along_axis(weights, index, 2))
            logits = array.transpose(logits, (0, 2, 1))
            logits = perturbed(logits, draws, 1, time * count + moves)
            move = ops.cast(array.argmax(logits, 2), "int32")
            return (state - move,), (state,)

        times = ops.arange(steps, dtype="int32")
        xs = (_time_major(tape.weights), times)
        _, (states,) = array.scan(step, (state,), xs, like=(state,), reverse=True)
        return ops.transpose(states, (1, 0, 2))

    def topk(self, problem, k):
        (moves,) = problem.potentials
        final = problem.context[0]
        count, size = moves.shape[3], ops.shape(final)[1]
        pad = ops.stack([_padding(final, count - 1)[0]] * k, axis=2)

        def step(carry, x):
            (alpha,) = carry  # (B, S, rank)
            terms = _shifted(alpha, pad, count) + x[0][..., None]
            terms = array.concatenate([terms[m] for m in range(count)], 2)
            best, pointer = array.top_k(terms, k)
            peak = array.max(array.max(best, 2), 1)[:, None, None]
            best = best - array.where(peak > INFEASIBLE, peak, peak * 0.0)
            return (best,), (ops.cast(pointer, "int32"),)

        start = _start(final)[:, :, None]
        alpha = ops.concatenate([start] + [ops.full_like(start, FORBIDDEN)] * (k - 1), axis=2)
        like = ops.cast(ops.zeros_like(alpha), "int32")
        (alpha,), (pointers,) = array.scan(step, (alpha,), (_moves_first(moves),), like=(like,))
        total, cell = array.top_k(ops.reshape(alpha + final[:, :, None], (-1, size * k)), k)
        cell = ops.cast(cell, "int32")

        def back(carry, x):
            (cell,) = carry  # state * k + rank, (B, k)
            pointer = array.take_along_axis(ops.reshape(x[0], (-1, size * k)), cell, 1)
            state = cell // k
            return ((state - pointer // k) * k + pointer % k,), (state,)

        _, (states,) = array.scan(back, (cell,), (pointers,), like=(cell,), reverse=True)
        states = self.event(ops.transpose(states, (2, 1, 0)), problem)
        return states, ops.transpose(total > INFEASIBLE)


class _Posterior:
    """What both backward sweeps start from: `weights` of the moves into a state, which sum to 1,
    probabilities `used` of the moves, both (T, M, B, S), and `end` (B, S) of the last state."""

    def __init__(self, tape):
        self.weights = array.transpose(tape.weights, (1, 2, 0, 3))
        self.end = tape.last * tape.exists[:, None]

        def step(carry, x):
            (p,) = carry
            used = x[0] * p
            return (_unshifted(used),), (used,)

        like = (self.weights[0],)
        _, (used,) = array.scan(step, (self.end,), (self.weights,), like=like, reverse=True)
        # Every path moves once at every step: no rounding adds up over time.
        self.used = used / array.maximum(_over_paths(used), ops.full((), 0.5, dtype=used.dtype))


def indicator(states, moves):
    """Canonical indicator (B, T, S or 1, M) of paths, and whether every move is within reach."""
    before = ops.concatenate([ops.zeros_like(states[:, :1]), states[:, :-1]], axis=1)
    steps = states - before
    used = one_hot(steps, moves.shape[3], moves.dtype)[:, :, None, :]
    if moves.shape[2] != 1:
        used = used * one_hot(states, ops.shape(moves)[2], moves.dtype)[..., None]
    possible = ops.all(ops.logical_and(steps >= 0, steps < moves.shape[3]), axis=1)
    return used, possible


def free_padding(moves, valid):
    """Moves where padding steps stay in place for free; `valid` is (B, T)."""
    stay = one_hot(ops.zeros((1,), "int32"), moves.shape[3], moves.dtype)
    stay = (1.0 - stay) * FORBIDDEN
    return array.where(valid[:, :, None, None], moves, stay[None, None])


def _time_major(x):
    return ops.swapaxes(x, 0, 1)


def _moves_first(x):
    """(B, T, S, M) as (T, M, B, S)."""
    return array.contiguous(array.transpose(x, (1, 3, 0, 2)))


def _batch_first(x):
    """(T, M, B, S) as (B, T, M, S)."""
    return array.transpose(x, (2, 0, 1, 3))


def _over_paths(x):
    """Sum over moves and states: (T, 1, B, 1)."""
    return array.sum(array.sum(x, 3, keepdims=True), 1, keepdims=True)


def _start(final):
    others = 1.0 - one_hot(ops.zeros((1,), "int32"), ops.shape(final)[1], final.dtype)
    return ops.zeros_like(final) + others * FORBIDDEN


def _padding(final, width):
    """Messages of the states below 0, which do not exist: (high and low, B, width)."""
    zeros = ops.concatenate([ops.zeros_like(final[:, :1])] * width, axis=1)
    return array.stack([zeros + FORBIDDEN, zeros], 0)


def _shifted(x, pad, count):
    """`x[:, s - m]` for every move m, (M, B, S); `pad` stands left of state 0."""
    size = ops.shape(x)[1]
    padded = array.concatenate([pad, x], 1)
    moved = [padded[:, count - 1 - m : count - 1 - m + size] for m in range(count)]
    return array.stack(moved, 0)


def _before(messages, pad, count):
    """Messages before every move, `high` and `low`, each (M, B, S)."""
    size = ops.shape(messages)[2]
    padded = array.concatenate([pad, messages], 2)
    moved = [padded[:, :, count - 1 - m : count - 1 - m + size] for m in range(count)]
    moved = array.stack(moved, 1)
    return moved[0], moved[1]


def _unshifted(used):
    """Sum over moves m of `used[m][:, s + m]`."""
    total = used[0]
    for m in range(1, used.shape[0]):
        total = total + array.concatenate([used[m][:, m:], used[m][:, :m] * 0.0], 1)
    return total


def _fit(used, moves):
    """(B, T, M, S) as (B, T, S, M), or summed over the states where they share their moves."""
    if moves.shape[2] == 1:
        return ops.sum(used, axis=3)[:, :, None]
    return array.transpose(used, (0, 1, 3, 2))
