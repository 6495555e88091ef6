"""Matrix-Tree by elimination of one word after the other, on every backend (see `recurrence.md`).

The weights of the arcs are a matrix A (B, N, N+1) [dependent, head] with the root as last column,
each row over its largest, in `scaled` numbers: nothing overflows, and the rounding error does not
grow with the scores. Step t eliminates word k: with its pivot p, the sum of its row, every path
m -> k -> h becomes an arc, A[m, h] += A[m, k] A[k, h] / p. There are no subtractions. With a single
root the pivots leave the root out, except for that of the last word.
"""

from typing import Any, NamedTuple

from keras import ops

from keras_struct.ops import array, scaled
from keras_struct.ops.exact_sum import exact_sum, two_sum
from keras_struct.ops.implementation import Implementation
from keras_struct.ops.noise import perturbed
from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE
from keras_struct.ops.scaled import Scaled
from keras_struct.ops.spanning_tree.noise_places import DIRECT, HEAD, THROUGH, place_of_arc
from keras_struct.ops.spanning_tree.ranked import best_trees
from keras_struct.ops.structure import time_mask


class Tape(NamedTuple):
    """What `trace` reads, step by step, the batch first.

    Backward and curvature eliminate again, to have the share of the new path in every arc at every
    step: O(N^3) memory while they run.

    Attributes:
        order: The word k (B, T).
        into: Its column A[m, k] (B, T, N).
        out: Its row over the pivot (B, T, N+1).
    """

    order: Any
    into: Scaled
    out: Scaled


class SpanningTreePortable(Implementation):
    def forward(self, problem, op):
        total, (order, *factors) = _eliminate(problem, op)
        into_m, into_e, out_m, out_e = (ops.swapaxes(x, 0, 1) for x in factors)
        tape = Tape(ops.swapaxes(order, 0, 1), Scaled(into_m, into_e), Scaled(out_m, out_e))
        return total, tape

    def backward(self, problem, tape):
        exists, xs = _shares(problem)

        def step(carry, x):
            (p,) = carry
            here, choice, share = x
            through = p * share
            into, out = array.sum(through, 2), array.sum(through, 1)
            return (_put(p - through, here, into, _heads(out, choice)),), ()

        (p,), _ = array.scan(step, (ops.zeros_like(xs[2][0]),), xs, like=(), reverse=True)
        p = to_arcs(p)
        return (exists * array.maximum(p, ops.zeros_like(p)),)

    def curvature(self, problem, tape, tangents):
        exists, xs = _shares(problem)

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
            p = _put(p - through, here, into, _heads(out, choice))
            return (p, _put(dp - dthrough, here, dinto, dout)), ()

        zeros = ops.zeros_like(rate)
        (_, dp), _ = array.scan(backward, (zeros, zeros), (*xs, *rates), like=(), reverse=True)
        return (exists * to_arcs(dp),)

    def trace(self, problem, tape, draws=None):
        (scores,), (lengths,) = problem.potentials, problem.context
        order, into, out = tape
        arcs = weights(scores)[0]
        batch, n = ops.shape(order)
        words = ops.arange(n, dtype="int32")
        reduce = array.max if draws is None else array.sum

        def step(carry, x):
            """Word k comes back: some arcs turn out to go through it, then it gets a head."""
            heads, ancestors = carry  # (B, N), (B, N, N) [word, the word itself or an ancestor]
            t, k, *factors = x
            column, row = Scaled(*factors[:2]), Scaled(*factors[2:])
            here = ops.logical_and(ops.equal(words, k[:, None]), (t < lengths)[:, None])
            # Up to now an arc was direct, or went through a word that was eliminated before k.
            at = ops.broadcast_to(heads[:, None], (batch, n, n))
            paths = scaled.times(into, out.map(lambda y, _: array.take_along_axis(y, at, 2)))
            paths = _where((words < t)[None, :, None], paths)
            at = heads[..., None]
            direct = arcs.map(lambda y, _: array.take_along_axis(y, at, 2)[..., 0])
            direct = scaled.raw_add(direct, scaled.raw_total(paths, 1, reduce), draws is None)
            through = row.map(lambda y, _: array.take_along_axis(y, heads, 1))
            through = scaled.times(column, through)
            moves = _prefers(through, direct, draws, place_of_arc(k[:, None], words))
            present = array.max(ancestors, 2) > 0
            moves = ops.logical_and(present, moves)
            # What hangs below such an arc now hangs below k, whose head is none of that.
            cuts = array.sum(ancestors * ops.cast(moves, ancestors.dtype)[:, None], 2)
            free = ops.logical_and(present, cuts < 0.5)
            rooted = ops.any(free, axis=1, keepdims=True)
            to_root = ops.ones_like(rooted)
            if problem.spec.single_root:
                to_root = ops.logical_not(rooted)
            allowed = ops.logical_and(ops.concatenate([free, to_root], axis=1), row.m > 0)
            places = array.concatenate([k[:, None] * 0 + words, k[:, None]], 1)
            places = place_of_arc(k[:, None], places)
            logits = perturbed(scaled.to_log(row), draws, HEAD, places)
            logits = array.where(allowed, logits, ops.full_like(logits, 2 * FORBIDDEN))
            head = ops.cast(array.argmax(logits, 1), "int32")
            lineage = _row(ancestors, ops.minimum(head, n - 1))
            lineage = lineage * ops.cast(head < n, lineage.dtype)[:, None]
            lineage = lineage + ops.cast(here, lineage.dtype)
            below = ops.cast(ops.logical_or(cuts > 0, here), lineage.dtype)
            uncut = ops.cast(ops.equal(cuts[:, :, None], cuts[:, None]), lineage.dtype)
            ancestors = ancestors * uncut + below[:, :, None] * lineage[:, None]
            heads = array.where(here, head[:, None], heads)
            return (array.where(moves, k[:, None], heads), ancestors), ()

        xs = (words, *(ops.swapaxes(x, 0, 1) for x in (order, *into, *out)))
        start = (ops.zeros_like(order), ops.zeros_like(into.m))
        (heads, _), _ = array.scan(step, start, xs, like=(), reverse=True)
        heads = array.where(heads == n, words[None], heads)
        return array.where(time_mask(lengths, n), heads, -1)

    def topk(self, problem, k):
        def best(arcs, lengths):
            part = problem.replace(potentials=(arcs,), context=(lengths,))
            (high, low), tape = self.forward(part, "max")
            return high + low, self.trace(part, tape)

        return best_trees(best, problem.potentials[0], problem.context[0], k)


def _eliminate(problem, op="logsumexp", shares=False):
    """Log-partition (a pair) and the factors of every step, time first.

    The factors are `order`, `into` and `out` as in the tape. With `shares` they are `order`,
    `choice` (T, B, N+1): the weights of the pivot's terms, and `share` (T, B, N, N+1): the part of
    every arc that goes through k.
    """
    (arcs,), (lengths,) = problem.potentials, problem.context
    n = ops.shape(arcs)[1]
    words, columns = ops.arange(n, dtype="int32"), ops.arange(n + 1, dtype="int32")
    others = ops.not_equal(words[:, None], columns[None])[None]
    reduce = array.max if op == "max" else array.sum

    def step(carry, x):
        *a, left = carry
        a, (t,) = Scaled(*a), x
        counts = ops.logical_or(columns[None] < n, (t == lengths - 1)[:, None])
        if not problem.spec.single_root:
            counts = ops.ones_like(counts)
        # The last word that has a head. One without can only be the single root: it must wait.
        has_head = array.max(_where(counts[:, None], a).m, 2) > 0
        turn = array.where(left, words + array.where(has_head, n, 0), -1)
        k = ops.cast(array.argmax(turn, 1), "int32")
        into = scaled.normalise(*a.map(lambda y, _: _column(y, k)))
        row = a.map(lambda y, _: _row(y, k))
        terms = _where(counts, row)
        pivot = scaled.raw_total(terms, 1, reduce)
        out = _over(row, pivot)
        path = scaled.times(into.map(lambda y, _: y[:, :, None]), out.map(lambda y, _: y[:, None]))
        path = _where(others, path)
        new, share = _add(a, path, op == "max")
        outputs = (k, *into, *out)
        if shares:
            outputs = (k, scaled.ratio(terms, pivot.map(lambda y, _: y[:, None])), share())
        new = _where(ops.not_equal(columns[None], k[:, None])[:, None], new)
        left = ops.logical_and(left, ops.not_equal(words[None], k[:, None]))
        return (*new, left), (*pivot, *outputs)

    a, peaks = weights(arcs)
    row, column = a.m[:, 0], a.m[:, :, 0]
    like = (lengths, row, a.m) if shares else (lengths, column, column, row, row)
    like = (row[:, 0], row[:, 0], *like)
    carry = (*a, time_mask(lengths, n))
    _, (m, e, *outputs) = array.scan(step, carry, (words,), like=like)
    active = words[:, None] < lengths[None]
    m, e = (array.where(active, x, ops.full_like(x, fill)) for x, fill in ((m, 1), (e, 0)))
    return log_partition(peaks, Scaled(ops.swapaxes(m, 0, 1), ops.swapaxes(e, 0, 1))), outputs


def log_partition(peaks, pivots):
    """A pair, of the largest scores of rows and of the pivots (B, N), 1 in the padding."""
    high, low = scaled.to_log_pair(pivots)
    high, rest = exact_sum(array.concatenate([peaks, high], 1), 1)
    return high, rest + array.sum(low, 1)


def weights(arcs):
    """The matrix (B, N, N+1), each row over its largest, and the logarithms of those (B, N)."""
    numbers, peaks = weights_of(arcs)
    return numbers.map(_to_matrix), peaks


def weights_of(arcs):
    """The same, (B, N, N), as the scores are."""
    peaks = ops.stop_gradient(array.max(arcs, 2))
    peaks = array.where(peaks > INFEASIBLE, peaks, ops.zeros_like(peaks))
    exists = arcs > INFEASIBLE
    high, low = two_sum(arcs, -peaks[:, :, None])
    low = array.where(exists, low, ops.zeros_like(low))
    return scaled.times(scaled.from_log(high), scaled.from_log(low)), peaks


def _shares(problem):
    """Where trees exist (B, 1, 1), as a number; and, time first: which word it is (T, B, N),
    `choice` and `share`."""
    (arcs,), (lengths,) = problem.potentials, problem.context
    (high, _), (order, choice, share) = _eliminate(problem, shares=True)
    words = ops.arange(ops.shape(arcs)[1], dtype="int32")
    here = ops.logical_and(
        ops.equal(order[:, :, None], words), (words[:, None] < lengths[None])[:, :, None]
    )
    exists = ops.cast(high > INFEASIBLE, arcs.dtype)[:, None, None]
    return exists, (ops.cast(here, arcs.dtype), choice, share)


def _to_matrix(arcs, fill):
    """(B, N, N+1) from arcs (B, N, N): the diagonal becomes the last column."""
    words = ops.arange(ops.shape(arcs)[1], dtype="int32")
    root = ops.equal(words[:, None], words[None])[None]
    roots = array.sum(array.where(root, arcs, ops.zeros_like(arcs)), 2)
    return ops.concatenate(
        [array.where(root, ops.full_like(arcs, fill), arcs), roots[:, :, None]], axis=2
    )


def to_arcs(matrix):
    """Undo `_to_matrix`."""
    words = ops.arange(ops.shape(matrix)[1], dtype="int32")
    root = ops.equal(words[:, None], words[None])[None]
    return array.where(root, matrix[:, :, -1:], matrix[:, :, :-1])


def _put(matrix, here, column, row):
    """Write row and column of the word that is one in `here` (B, N); they were zero."""
    matrix = matrix + here[:, :, None] * row[:, None]
    at = array.concatenate([here, ops.zeros_like(here[:, :1])], 1)
    return matrix + column[:, :, None] * at[:, None]


def _heads(out, choice):
    """Probabilities of the heads of the word that comes back.

    They are not below 0 and sum to 1; this keeps it so even where exponents have no digits left,
    and sums have lost their terms' proportions.
    """
    p = out + choice * (1.0 - array.sum(out, 1))[:, None]
    p = array.maximum(p, ops.zeros_like(p))
    total = array.sum(p, 1)
    return p / array.where(total > 0, total, ops.ones_like(total))[:, None]


def _where(mask, x):
    """Scaled numbers where the mask is true, else zero."""
    return x.map(lambda y, fill: array.where(mask, y, ops.full_like(y, fill)))


def _over(x, y):
    """Quotient (B, N+1) of a row and a number, normalised; 0 where the number is 0."""
    exists = (y.m > 0)[:, None]
    safe = array.where(exists, y.m[:, None], ops.ones_like(y.m[:, None]))
    return _where(exists, scaled.normalise(x.m / safe, x.e - y.e[:, None]))


def _add(x, y, maximum):
    """Sum (or maximum) of mantissas up to 2, again up to 2, without a logarithm; and a function
    that gives the share of `y` in it, which is right even if the exponents have no digits left."""
    peak = array.maximum(x.e, y.e)
    a, b = x.m * array.power_of_two(x.e - peak), y.m * array.power_of_two(y.e - peak)
    m = array.maximum(a, b) if maximum else a + b
    large = m > 2.0
    new = Scaled(array.where(large, 0.25 * m, m), array.where(large, peak + 2.0, peak))
    return new, lambda: b / array.where(m > 0, m, ops.ones_like(m))


def _prefers(through, direct, draws, places):
    """Whether the arc goes through k: a draw between two weights, or the larger."""
    both = scaled.raw_add(through, direct)
    through, direct = (
        array.log(array.maximum(scaled.ratio(x, both), both.m * 0.0 + 1e-37))
        for x in (through, direct)
    )
    through = perturbed(through, draws, THROUGH, places)
    return through > perturbed(direct, draws, DIRECT, places)


def _row(x, k):
    """`x[b, k[b]]`, (B, columns)."""
    index = ops.broadcast_to(k[:, None, None], (ops.shape(x)[0], 1, ops.shape(x)[2]))
    return array.take_along_axis(x, index, 1)[:, 0]


def _column(x, k):
    """`x[b, :, k[b]]`, (B, rows)."""
    index = ops.broadcast_to(k[:, None, None], (*ops.shape(x)[:2], 1))
    return array.take_along_axis(x, index, 2)[:, :, 0]
