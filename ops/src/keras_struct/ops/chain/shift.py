"""Chains whose state moves up by 0 ... M-1 at every step: CTC, subsets of size k.

    alpha[t, s] = logsumexp_m (alpha[t-1, s-m] + moves[t, s, m])

Canonical potential: `moves` (B, T, S or 1, M), where padding steps have move 0 free and the others
forbidden. Context: `final` (B, S), 0 where a path may end and `FORBIDDEN` elsewhere. A path starts
in state 0 before the first step. Paths are the states after every step, (B, T).

The tape is `c` (B, T, S): the recurrence above on messages shifted to have maximum 0.
"""

import dataclasses

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE
from keras_struct.ops.structure import one_hot
from keras_struct.ops.sweeps import Sweeps


@dataclasses.dataclass(frozen=True)
class ShiftSweeps(Sweeps):
    def forward(self, potentials, context, op):
        (moves,) = potentials
        final = context[0]
        count = moves.shape[3]

        def step(carry, x):
            (alpha,) = carry
            terms = [
                term + x[0][:, :, m] for m, term in enumerate(_shifted(alpha, count, FORBIDDEN))
            ]
            peak = terms[0]
            for term in terms[1:]:
                peak = array.maximum(peak, term)
            c = peak
            if op == "logsumexp":
                c = peak + array.log(sum(array.exp(term - peak) for term in terms))
            return (c - array.max(c, 1, keepdims=True),), (c,)

        start = _start(final)
        _, (c,) = array.scan(step, (start,), (_time_major(moves),), like=(start,))
        c = _time_major(c)
        shift = ops.max(c, axis=2)
        last = c[:, -1] - shift[:, -1:] + final
        total = ops.max(last, axis=1) if op == "max" else array.logsumexp(last, 1)
        return total + ops.sum(shift, axis=1), (c,)

    def backward(self, potentials, context, tape):
        (moves,) = potentials
        weights, p_end, _ = self._local(moves, context[0], tape[0])

        def step(carry, x):
            (p,) = carry
            used = x[0] * p[:, :, None]
            return (_unshifted(used),), (used,)

        like = weights[:, 0]
        _, (used,) = array.scan(step, (p_end,), (_time_major(weights),), like=(like,), reverse=True)
        return (_fit(_time_major(used), moves),)

    def curvature(self, potentials, context, tape, tangents):
        (moves,) = potentials
        (dmoves,) = tangents
        weights, p_end, final = self._local(moves, context[0], tape[0])
        count = moves.shape[3]
        w, dm = _time_major(weights), _time_major(dmoves)

        def forward(carry, x):
            (dalpha,) = carry
            rates = array.stack(_shifted(dalpha, count, 0.0), 2) + x[1]
            dc = array.sum(x[0] * rates, 2)
            return (dc,), (rates - dc[:, :, None],)

        zeros = ops.zeros_like(p_end)
        (dlast,), (rates,) = array.scan(forward, (zeros,), (w, dm), like=(weights[:, 0],))
        dp_end = final * (dlast - ops.sum(final * dlast, axis=1, keepdims=True))
        dp_end = array.where(p_end > 0, dp_end, ops.zeros_like(dp_end))

        def backward(carry, x):
            p, dp = carry
            used = x[0] * p[:, :, None]
            dused = x[0] * dp[:, :, None] + used * x[1]
            return (_unshifted(used), _unshifted(dused)), (dused,)

        _, (dused,) = array.scan(
            backward, (p_end, dp_end), (w, rates), like=(weights[:, 0],), reverse=True
        )
        return (_fit(_time_major(dused), moves),)

    def trace(self, potentials, context, tape, noise):
        (moves,) = potentials
        final = context[0]
        c = tape[0]
        alpha = c - ops.max(c, axis=2, keepdims=True)
        last = alpha[:, -1] + final
        state = ops.cast(array.argmax(last + noise(ops.shape(last)), 1), "int32")
        logits = _incoming(alpha, final, moves)
        choice = ops.cast(array.argmax(logits + noise(ops.shape(logits)), 3), "int32")

        def step(carry, x):
            (state,) = carry
            move = array.take_along_axis(x[0], state[:, None], 1)[:, 0]
            return (state - move,), (state,)

        _, (states,) = array.scan(
            step, (state,), (_time_major(choice),), like=(state,), reverse=True
        )
        return ops.transpose(states)

    def topk(self, potentials, context, k):
        (moves,) = potentials
        final = context[0]
        count, size = moves.shape[3], final.shape[1]

        def step(carry, x):
            (alpha,) = carry  # (B, S, rank)
            terms = [
                term + x[0][:, :, m, None]
                for m, term in enumerate(_shifted(alpha, count, FORBIDDEN))
            ]
            best, pointer = array.top_k(array.concatenate(terms, 2), k)
            return (best,), (ops.cast(pointer, "int32"),)

        start = _start(final)[:, :, None]
        alpha = ops.concatenate([start] + [ops.full_like(start, FORBIDDEN)] * (k - 1), axis=2)
        like = ops.cast(ops.zeros_like(alpha), "int32")
        (alpha,), (pointers,) = array.scan(step, (alpha,), (_time_major(moves),), like=(like,))
        total, cell = array.top_k(ops.reshape(alpha + final[:, :, None], (-1, size * k)), k)
        cell = ops.cast(cell, "int32")

        def back(carry, x):
            (cell,) = carry  # state * k + rank, (B, k)
            pointer = array.take_along_axis(ops.reshape(x[0], (-1, size * k)), cell, 1)
            state = cell // k
            return ((state - pointer // k) * k + pointer % k,), (state,)

        _, (states,) = array.scan(back, (cell,), (pointers,), like=(cell,), reverse=True)
        return ops.transpose(states, (2, 1, 0)), ops.transpose(total > INFEASIBLE)

    def _local(self, moves, final, c):
        """Posterior weights of every move, marginal of the last state, and its softmax."""
        alpha = c - ops.max(c, axis=2, keepdims=True)
        weights = array.exp(_incoming(alpha, final, moves) - c[..., None])
        last = alpha[:, -1] + final
        total = ops.sum(ops.max(c, axis=2), axis=1) + ops.max(last, axis=1)
        final = ops.softmax(last, axis=-1)
        exists = ops.cast(total > INFEASIBLE, final.dtype)[:, None]
        return weights, final * exists, final


def indicator(states, moves):
    """Canonical indicator (B, T, S or 1, M) of paths, and whether every move is within reach."""
    before = ops.concatenate([ops.zeros_like(states[:, :1]), states[:, :-1]], axis=1)
    steps = states - before
    used = one_hot(steps, moves.shape[3], moves.dtype)[:, :, None, :]
    if moves.shape[2] != 1:
        used = used * one_hot(states, moves.shape[2], moves.dtype)[..., None]
    possible = ops.all(ops.logical_and(steps >= 0, steps < moves.shape[3]), axis=1)
    return used, possible


def free_padding(moves, valid):
    """Moves where padding steps stay in place for free; `valid` is (B, T)."""
    stay = one_hot(ops.zeros((1,), "int32"), moves.shape[3], moves.dtype)
    stay = (1.0 - stay) * FORBIDDEN
    return array.where(valid[:, :, None, None], moves, stay[None, None])


def _time_major(x):
    return ops.swapaxes(x, 0, 1)


def _start(final):
    others = 1.0 - one_hot(ops.zeros((1,), "int32"), final.shape[1], final.dtype)
    return ops.zeros_like(final) + others * FORBIDDEN


def _shifted(x, count, fill):
    """`x[:, s - m]` for every move m, along axis 1."""
    size = x.shape[1]
    pad = x[:, :1] * 0.0 + fill
    padded = array.concatenate([pad] * (count - 1) + [x], 1)
    return [padded[:, count - 1 - m : count - 1 - m + size] for m in range(count)]


def _unshifted(used):
    """Sum over moves m of `used[:, s + m, m]`."""
    total = used[:, :, 0]
    for m in range(1, used.shape[2]):
        total = total + array.concatenate([used[:, m:, m], used[:, :m, m] * 0.0], 1)
    return total


def _incoming(alpha, final, moves):
    """`alpha[t-1, s-m] + moves[t, s, m]`: (B, T, S, M)."""
    before = ops.concatenate([_start(final)[:, None], alpha[:, :-1]], axis=1)
    count, size = moves.shape[3], before.shape[2]
    padded = ops.pad(before, [(0, 0), (0, 0), (count - 1, 0)], constant_values=FORBIDDEN)
    shifted = [padded[:, :, count - 1 - m : count - 1 - m + size] for m in range(count)]
    return ops.stack(shifted, axis=3) + moves


def _fit(used, moves):
    return ops.sum(used, axis=2, keepdims=True) if moves.shape[2] == 1 else used
