"""Matrix-Tree by elimination of one word after the other, on every backend (see recurrence.md).

The weights of the arcs are a matrix A (B, N, N+1) [dependent, head] with the root as last column,
in `scaled` numbers, so that nothing overflows and the rounding error does not grow with the scores.
Step t eliminates word k: with its pivot p, the sum of its row, every path m -> k -> h becomes an
arc, A[m, h] += A[m, k] A[k, h] / p. There are no subtractions. With a single root the pivots leave
the root out, except for that of the last word.

The tape is, step by step, `order` (B, T): the word k; `into` (B, T, N): its column A[m, k]; `out`
(B, T, N+1): its row over the pivot; and `hard` (B,): whether sums were maxima. It serves `trace`;
backward and curvature eliminate again, to have the share of the new path in every arc at every
step: O(N^3) memory while they run.
"""

import dataclasses

import keras
from keras import ops

from keras_struct.ops import array, scaled
from keras_struct.ops.dependency.spanning_tree.partition import k_best
from keras_struct.ops.labels import LabelledArcs
from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE, no_noise
from keras_struct.ops.scaled import EMPTY, Scaled
from keras_struct.ops.structure import time_mask
from keras_struct.ops.sweeps import Sweeps


def rejects(call):
    return None


def sweeps(call):
    trees = SpanningTreeSweeps(call.option("single_root"))
    return LabelledArcs(trees) if call.option("labelled") else trees


@dataclasses.dataclass(frozen=True)
class SpanningTreeSweeps(Sweeps):
    single_root: bool

    def forward(self, potentials, context, op):
        (arcs,), (lengths,) = potentials, context
        value, outputs = self._eliminate(arcs, lengths, op)
        tape = (ops.swapaxes(x, 0, 1) for x in outputs)
        return value, (*tape, ops.full_like(lengths, int(op == "max")))

    def backward(self, potentials, context, tape):
        value, xs = self._shares(potentials, context)

        def step(carry, x):
            (p,) = carry
            here, choice, share = x
            through = p * share
            into, out = array.sum(through, 2), array.sum(through, 1)
            out = out + choice * (1.0 - array.sum(out, 1))[:, None]
            return (_put(p - through, here, into, out),), ()

        (p,), _ = array.scan(step, (ops.zeros_like(xs[2][0]),), xs, like=(), reverse=True)
        p = _to_arcs(p)
        return (_exists(value) * array.maximum(p, ops.zeros_like(p)),)

    def curvature(self, potentials, context, tape, tangents):
        value, xs = self._shares(potentials, context)

        def forward(carry, x):
            (rate,) = carry  # of log A
            here, choice, share = x
            row = array.sum(rate * here[:, :, None], 1)
            column = array.sum(rate[:, :, :-1] * here[:, None], 2)
            row = row - array.sum(choice * row, 1)[:, None]
            change = column[:, :, None] + row[:, None] - rate
            return (rate + share * change,), (change, row)

        rate = _to_matrix(tangents[0], 0.0)
        _, rates = array.scan(forward, (rate,), xs, like=(rate, rate[:, 0]))

        def backward(carry, x):
            p, dp = carry
            here, choice, share, change, row = x
            through = p * share
            moved = through * (1.0 - share) * change
            dthrough = dp * share + moved
            into, out = array.sum(through, 2), array.sum(through, 1)
            dinto, dout = array.sum(dthrough, 2), array.sum(dthrough, 1)
            rest = (1.0 - array.sum(out, 1))[:, None]
            dout = dout + choice * (rest * row - array.sum(dout, 1)[:, None])
            p = _put(p - through, here, into, out + choice * rest)
            return (p, _put(dp - dthrough, here, dinto, dout)), ()

        zeros = ops.zeros_like(rate)
        (_, dp), _ = array.scan(backward, (zeros, zeros), (*xs, *rates), like=(), reverse=True)
        return (_exists(value) * _to_arcs(dp),)

    def trace(self, potentials, context, tape, noise):
        *tape, hard = tape
        into, out = Scaled(*tape[1:3]), Scaled(*tape[3:])
        arcs = scaled.from_log(_to_matrix(potentials[0], FORBIDDEN))
        (lengths,) = context
        batch, n = ops.shape(tape[0])
        words = ops.arange(n, dtype="int32")

        def step(carry, x):
            """Word k comes back: some arcs turn out to go through it, then it gets a head."""
            heads, ancestors = carry  # (B, N), (B, N, N) [word, the word itself or an ancestor]
            t, k, into_m, into_e, out_m, out_e, *noises = x
            column, row = Scaled(into_m, into_e), Scaled(out_m, out_e)
            here = ops.logical_and(ops.equal(words, k[:, None]), (t < lengths)[:, None])
            # Up to now an arc was direct, or went through a word that was eliminated before k.
            at = ops.broadcast_to(heads[:, None], (batch, n, n))
            paths = scaled.times(into, out.map(lambda y, _: array.take_along_axis(y, at, 2)))
            paths = _where((words < t)[None, :, None], paths)
            at = heads[..., None]
            direct = arcs.map(lambda y, _: array.take_along_axis(y, at, 2)[..., 0])
            straight = _total(hard, direct, paths)
            through = row.map(lambda y, _: array.take_along_axis(y, heads, 1))
            moves = _prefers(scaled.times(column, through), straight, noises)
            present = array.max(ancestors, 2) > 0
            moves = ops.logical_and(present, moves)
            # What hangs below such an arc now hangs below k, whose head is none of that.
            cuts = array.sum(ancestors * ops.cast(moves, ancestors.dtype)[:, None], 2)
            free = ops.logical_and(present, cuts < 0.5)
            rooted = ops.any(free, axis=1, keepdims=True)
            to_root = ops.logical_not(rooted) if self.single_root else ops.ones_like(rooted)
            allowed = ops.concatenate([free, to_root], axis=1)
            scores = scaled.to_log(row)
            scores = array.where(allowed, scores, ops.full_like(scores, 2 * FORBIDDEN))
            head = ops.cast(array.argmax(scores + noises[2], 1), "int32")
            lineage = _row(ancestors, ops.minimum(head, n - 1))
            lineage = lineage * ops.cast(head < n, lineage.dtype)[:, None]
            lineage = lineage + ops.cast(here, lineage.dtype)
            below = ops.cast(ops.logical_or(cuts > 0, here), lineage.dtype)
            uncut = ops.cast(ops.equal(cuts[:, :, None], cuts[:, None]), lineage.dtype)
            ancestors = ancestors * uncut + below[:, :, None] * lineage[:, None]
            heads = array.where(here, head[:, None], heads)
            return (array.where(moves, k[:, None], heads), ancestors), ()

        noises = (noise((n, batch, n)), noise((n, batch, n)), noise((n, batch, n + 1)))
        xs = (words, *(ops.swapaxes(x, 0, 1) for x in tape), *noises)
        start = (ops.zeros_like(tape[0]), ops.zeros_like(into.m))
        (heads, _), _ = array.scan(step, start, xs, like=(), reverse=True)
        heads = array.where(heads == n, words[None], heads)
        return array.where(time_mask(lengths, n), heads, -1)

    def topk(self, potentials, context, k):
        def best(arcs, lengths):
            value, tape = self.forward((arcs,), (lengths,), "max")
            zeros = no_noise(keras.backend.standardize_dtype(arcs.dtype))
            return value, self.trace((arcs,), (lengths,), tape, zeros)

        return k_best(best, potentials[0], context[0], k)

    # Details ---------------------------------------------------------------------------------

    def _eliminate(self, arcs, lengths, op="logsumexp", shares=False):
        """Log-partition and the factors of every step, time first.

        The factors are `order`, `into` and `out` as in the tape. With `shares` they are `order`,
        `choice` (T, B, N+1): the weights of the pivot's terms, and `share` (T, B, N, N+1): the
        part of every arc that goes through k.
        """
        n = ops.shape(arcs)[1]
        words, columns = ops.arange(n, dtype="int32"), ops.arange(n + 1, dtype="int32")
        others = ops.not_equal(words[:, None], columns[None])[None]
        reduce = array.max if op == "max" else array.sum

        def step(carry, x):
            *a, left = carry
            a, (t,) = Scaled(*a), x
            counts = ops.logical_or(columns[None] < n, (t == lengths - 1)[:, None])
            if not self.single_root:
                counts = ops.ones_like(counts)
            # A word without heads can only be the single root: it must come last.
            strength = array.max(_where(counts[:, None], a).e, 2)
            lowest = ops.full_like(strength, 2 * EMPTY)
            k = ops.cast(array.argmax(array.where(left, strength, lowest), 1), "int32")
            into = scaled.normalise(*a.map(lambda y, _: _column(y, k)))
            row = a.map(lambda y, _: _row(y, k))
            terms = _where(counts, row)
            pivot = scaled.total(terms, 1, reduce)
            out = _over(row, pivot)
            path = scaled.times(
                into.map(lambda y, _: y[:, :, None]), out.map(lambda y, _: y[:, None])
            )
            path = _where(others, path)
            new = _add(a, path, op == "max")
            outputs = (k, *into, *out)
            if shares:
                choice = scaled.ratio(terms, pivot.map(lambda y, _: y[:, None]))
                outputs = (k, choice, scaled.ratio(path, new))
            new = _where(ops.not_equal(columns[None], k[:, None])[:, None], new)
            left = ops.logical_and(left, ops.not_equal(words[None], k[:, None]))
            return (*new, left), (scaled.to_log(pivot), *outputs)

        a = scaled.from_log(_to_matrix(arcs, FORBIDDEN))
        row, column = a.m[:, 0], a.m[:, :, 0]
        like = (lengths, row, a.m) if shares else (lengths, column, column, row, row)
        carry = (*a, time_mask(lengths, n))
        _, (pivots, *outputs) = array.scan(step, carry, (words,), like=(row[:, 0], *like))
        active = words[:, None] < lengths[None]
        return ops.sum(array.where(active, pivots, ops.zeros_like(pivots)), axis=0), outputs

    def _shares(self, potentials, context):
        """Log-partition and, time first: which word it is (T, B, N), `choice` and `share`."""
        (arcs,), (lengths,) = potentials, context
        value, (order, choice, share) = self._eliminate(arcs, lengths, shares=True)
        words = ops.arange(ops.shape(arcs)[1], dtype="int32")
        here = ops.logical_and(
            ops.equal(order[:, :, None], words), (words[:, None] < lengths[None])[:, :, None]
        )
        return value, (ops.cast(here, arcs.dtype), choice, share)


def _to_matrix(arcs, fill):
    """(B, N, N+1) from arcs (B, N, N): the diagonal becomes the last column."""
    words = ops.arange(ops.shape(arcs)[1], dtype="int32")
    root = ops.equal(words[:, None], words[None])[None]
    roots = array.sum(array.where(root, arcs, ops.zeros_like(arcs)), 2)
    return ops.concatenate(
        [array.where(root, ops.full_like(arcs, fill), arcs), roots[:, :, None]], axis=2
    )


def _to_arcs(matrix):
    """Undo `_to_matrix`."""
    words = ops.arange(ops.shape(matrix)[1], dtype="int32")
    root = ops.equal(words[:, None], words[None])[None]
    return array.where(root, matrix[:, :, -1:], matrix[:, :, :-1])


def _put(matrix, here, column, row):
    """Write row and column of the word that is one in `here` (B, N); they were zero."""
    matrix = matrix + here[:, :, None] * row[:, None]
    at = array.concatenate([here, ops.zeros_like(here[:, :1])], 1)
    return matrix + column[:, :, None] * at[:, None]


def _exists(value):
    return ops.cast(value > INFEASIBLE, value.dtype)[:, None, None]


def _where(mask, x):
    """Scaled numbers where the mask is true, else zero."""
    return x.map(lambda y, fill: array.where(mask, y, ops.full_like(y, fill)))


def _over(x, y):
    """Quotient (B, N+1) of a row and a number, normalised; 0 where the number is 0."""
    exists = (y.m > 0)[:, None]
    safe = array.where(exists, y.m[:, None], ops.ones_like(y.m[:, None]))
    return _where(exists, scaled.normalise(x.m / safe, x.e - y.e[:, None]))


def _add(x, y, maximum):
    """Sum (or maximum) of mantissas up to 2: again up to 2, without a logarithm."""
    peak = array.maximum(x.e, y.e)
    a, b = x.m * array.power_of_two(x.e - peak), y.m * array.power_of_two(y.e - peak)
    m = array.maximum(a, b) if maximum else a + b
    large = m > 2.0
    return Scaled(array.where(large, 0.25 * m, m), array.where(large, peak + 2.0, peak))


def _total(hard, x, ys):
    """`x` plus the sum of `ys` (B, T, N) over axis 1; where `hard`, the maximum of all."""
    hard = (hard > 0)[:, None]
    sums, best = (
        scaled.add(x, scaled.total(ys, 1, reduce), reduce is array.max)
        for reduce in (array.sum, array.max)
    )
    return Scaled(*(array.where(hard, a, b) for a, b in zip(best, sums, strict=True)))


def _prefers(x, y, noises):
    """Whether a draw between the weights takes `x`; without noise, the larger."""
    both = scaled.add(x, y)
    x, y = (array.log(array.maximum(scaled.ratio(z, both), both.m * 0.0 + 1e-37)) for z in (x, y))
    return x + noises[0] > y + noises[1]


def _row(x, k):
    """`x[b, k[b]]`, (B, columns)."""
    index = ops.broadcast_to(k[:, None, None], (ops.shape(x)[0], 1, ops.shape(x)[2]))
    return array.take_along_axis(x, index, 1)[:, 0]


def _column(x, k):
    """`x[b, :, k[b]]`, (B, rows)."""
    index = ops.broadcast_to(k[:, None, None], (*ops.shape(x)[:2], 1))
    return array.take_along_axis(x, index, 2)[:, :, 0]
