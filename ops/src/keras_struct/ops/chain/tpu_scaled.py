"""Tiles of linear chains whose transitions are shared over time, as products of plain numbers.

With into[j] = max_i links[i, j], E[i, j] = exp(links[i, j] - into[j]), and the scores u[t] + into
over the best one of their time, v[t],

    s[t] = E' a[t]        a[t + 1] = s[t] v[t + 1] 2^-e[t]        e[t] the exponent of max a[t]

so neither exponentials nor logarithms are on the way from a step to the next, and a step is one
product by a matrix. A term of s is lost only below 1e-38; where every s is above `LOWEST`, nothing
counts that is lost. A tile tests it, and goes through log space (`tpu_tile.py`) where it fails.

    a        (times + 1, rows)   before its time v[t]
    s        (times, rows)       going back, q[t + 1] / s[t] takes its place
    offsets  (times + 1, 8)      rows: best score of a time; high and low of their sums; sum of e
"""

from jax import lax
from jax import numpy as jnp
from jax.experimental import pallas as pl

from keras_struct.ops.chain.tpu_tile import FEW, Cells, at_once, over
from keras_struct.ops.exact_sum import two_sum
from keras_struct.ops.messages import join
from keras_struct.ops.pallas_tpu import SUBLANES

LOWEST = 1e-25
# log 2 in two numbers, the first of 9 bits: its products with sums of exponents are exact.
LN2 = 0.693359375, -2.12194440054690583e-4
UNROLLED = 32  # terms of a product
ACCUMULATORS = 16  # registers that hold sums over time
BEST, HIGH, LOW, COUNT = range(4)


def prepare(tile):
    """`into` and E, once for a block of examples."""
    x, rows = tile.x, tile.plan.rows

    @pl.when(tile.first_call)
    def _():
        def chunk(start, size, _):
            here, out = (Cells(ref, rows, start, size) for ref in (x.links, x.e))

            def larger(i, peak):
                return jnp.maximum(peak, here[i])

            into = over(tile.plan.states, larger, here[0], size=at_once(size))
            x.into[pl.ds(start, size), :] = into

            def weights(i, _):
                high, low = two_sum(here[i], -into)
                weight = jnp.exp(high)
                out[i] = weight + weight * low

            over(rows, weights, size=at_once(size))

        tile.linked(chunk)
        tile.turn("e")


def run(tile):
    """a, s and offsets of a tile; whether it is in range."""
    x, plan = tile.x, tile.plan

    def centre(t):
        high, low = two_sum(tile.score(x.scores, t, 0), x.into[...])
        best = jnp.max(high, 0, keepdims=True)
        x.a[t] = jnp.exp((high - best) + low)
        x.offsets[t, pl.ds(BEST, 1), :] = best

    few = FEW if plan.rows <= 32 else 1
    over(plan.times, lambda t, _: centre(t), unrolled=few, size=min(few, at_once(plan.rows)))
    best, top = _start(tile)
    x.offsets[0, pl.ds(HIGH, 1), :], x.offsets[0, pl.ds(LOW, 1), :] = join(best, top)
    x.offsets[0, pl.ds(COUNT, 1), :] = jnp.zeros_like(best)
    x.least[...] = jnp.ones_like(x.least)

    def step(t):
        a = x.a[t]
        inverse, exponent = _power_of_two(jnp.max(a, 0, keepdims=True))
        s = product(tile, x.a, t)
        x.s[t] = s
        x.least[...] = jnp.minimum(x.least[...], s)
        x.a[t + 1] = s * (x.a[t + 1] * inverse)
        high, low, count = (x.offsets[t, pl.ds(n, 1), :] for n in (HIGH, LOW, COUNT))
        high, error = two_sum(high, x.offsets[t + 1, pl.ds(BEST, 1), :])
        for n, value in ((HIGH, high), (LOW, low + error), (COUNT, count + exponent)):
            x.offsets[t + 1, pl.ds(n, 1), :] = value

    x.a[plan.times] = jnp.ones_like(x.least)
    x.offsets[plan.times] = jnp.zeros(x.offsets.shape[1:], x.offsets.dtype)
    over(plan.times, lambda t, _: step(t), unrolled=2, size=2 if plan.rows <= 16 else 1)
    return jnp.min(x.least[...]) >= LOWEST


def _start(tile):
    """a[0], and the two numbers whose sum is its offset."""
    x = tile.x

    def high_and_rest(start=0, size=1):
        high, low = (x.g[n, 0, pl.ds(start, size), :] for n in range(2))
        high, error = two_sum(high, tile.score(x.scores, 0, 0, start, size))
        return high, error + low

    def larger(start, size, best):
        return jnp.maximum(best, _top(high_and_rest(start, size)[0]))

    best = tile.linked(larger, high_and_rest()[0])

    def rest(start, size, top):
        high, low = high_and_rest(start, size)
        found = (high - best) + low
        x.a[0, pl.ds(start, size), :] = found
        return jnp.maximum(top, _top(found))

    high, low = high_and_rest()
    top = tile.linked(rest, (high - best) + low)

    def power(start, size, _):
        at = pl.ds(start, size)
        x.a[0, at, :] = jnp.exp(x.a[0, at, :] - top)

    tile.linked(power)
    return best, top


def _top(x):
    return jnp.max(x, 0, keepdims=True)


def _power_of_two(x):
    """2^-e and e, the exponent of a positive normal number."""
    integer, mantissa = (jnp.int32, 23) if x.dtype == jnp.float32 else (jnp.int64, 52)
    bias = jnp.finfo(x.dtype).maxexp - 1
    bits = lax.bitcast_convert_type(x, integer)
    exponent = lax.shift_right_logical(bits, integer(mantissa))
    inverse = lax.shift_left(integer(2 * bias) - exponent, integer(mantissa))
    return lax.bitcast_convert_type(inverse, x.dtype), (exponent - bias).astype(x.dtype)


def product(tile, rows, t, column=False):
    """Sum over i of row i of `rows[t]` times E from i, or over j to j."""
    if tile.plan.matrices:
        matrix = tile.x.matrices[1 if column else 0]
        return jnp.dot(matrix, rows[t], precision=lax.Precision.HIGHEST)
    e = Cells(tile.x.e, tile.plan.rows)
    if column and not tile.plan.turned:
        return row_sums(tile, lambda i: e[i] * rows[t])

    def term(n):
        return rows[t, pl.ds(n, 1), :] * (tile.column("e", n) if column else e[n])

    return total(tile.plan.states, term)


def row_sums(tile, row):
    """Row i of the result is the sum over the rows of `row(i)`."""
    sums = tile.x.sums

    def write(i, _):
        sums[pl.ds(i, 1), :] = jnp.sum(row(i), 0, keepdims=True)

    over(tile.plan.rows, write, size=at_once(tile.plan.rows))
    return sums[...]


def total(count, term, unrolled=UNROLLED):
    """Sum of terms, by four sums that do not wait for each other where there are few."""
    if count > unrolled:
        first = term(0)
        return over(count - 1, lambda n, x: x + term(n + 1), first, size=at_once(first.shape[0]))
    parts = [term(n) for n in range(min(4, count))]
    for n in range(4, count):
        parts[n % 4] = parts[n % 4] + term(n)
    while len(parts) > 1:
        parts = [sum(parts[n : n + 2][1:], parts[n]) for n in range(0, len(parts), 2)]
    return parts[0]


def unpack(tile, t):
    """Messages of a step as pairs, and those before the next one."""

    @pl.when(t > 0)
    def _():
        _before(tile, t)

    tile.enter(t)


def _before(tile, t):
    """g at a step from 1 on."""
    x = tile.x
    offset, offset_low, count = (x.offsets[t - 1, pl.ds(n, 1), :] for n in (HIGH, LOW, COUNT))

    def chunk(start, size, _):
        at = pl.ds(start, size)
        high, error = two_sum(offset, x.into[at, :])
        low = offset_low + error + count * LN2[0]
        low = low + (count * LN2[1] + jnp.log(x.s[t - 1, at, :]))
        x.g[0, t, at, :], x.g[1, t, at, :] = join(high, low)

    tile.linked(chunk)


def finish(tile):
    """Messages before the next tile."""
    _before(tile, tile.plan.times)


def backward(tile):
    """Marginals of a tile that is in range."""
    x = tile.x

    def step(t):
        ratio = x.q[t + 1] / x.s[t]
        x.s[t] = ratio
        p = tile.ended(t, x.final[...]) + x.a[t] * product(tile, x.s, t, column=True)
        x.q[t] = p
        x.dscores[t, 0] = p

    tile.loop(step, back=True)

    def gather(j, sums, start, size):
        return sums[0] * tile.column("e", j, 0, start, size)

    outer(tile, [(x.a, x.s, 0)], gather, x.dlinks)


def outer(tile, factors, gather, into):
    """Adds `gather(j, sums, start, size)` to the links from some states to j.

    `sums[n]` is the sum over time of left[t] times row j of right[t], of all factors (left, right,
    n).
    """
    plan = tile.plan
    count = 1 + max(n for _, _, n in factors)
    room = ACCUMULATORS * SUBLANES // (count * plan.linked)
    width = next(n for n in (8, 4, 2, 1) if n <= max(room, 1))  # divides the rows
    steps = 4 if count * plan.rows <= 32 else 2

    def chunk(start, size, _):
        out = Cells(into, plan.rows, start, size)

        def group(m, _):
            js = [m * width + k for k in range(width)]

            def add(t, sums):
                sums = [list(x) for x in sums]
                for left, right, n in factors:
                    plane = left[t, pl.ds(start, size), :]
                    for k, j in enumerate(js):
                        x = plane * right[t, pl.ds(j, 1), :]
                        sums[n][k] = x if sums[n][k] is None else sums[n][k] + x
                return tuple(tuple(x) for x in sums)

            def several(t, sums):
                return add(t + 1, sums)

            sums = add(0, [[None] * width] * count)
            sums = over(plan.times - 1, several, sums, unrolled=2, size=steps)
            for k, j in enumerate(js):
                out[j] = out[j] + gather(j, [x[k] for x in sums], start, size)

        lax.fori_loop(0, plan.rows // width, group, None)

    tile.linked(chunk)


def tangent(tile):
    """Tangents of the messages of a tile that is in range, from those before it."""
    x, plan = tile.x, tile.plan

    def step(t):
        def enter(start, size, _):
            at = pl.ds(start, size)
            x.df[t, at, :] = x.dg[t, at, :] + tile.score(x.tscores, t, 0, start, size)

        def chunk(start, size, _):
            e, tlinks = (Cells(ref, plan.rows, start, size) for ref in (x.e, x.tlinks))

            def term(i):
                row = pl.ds(i, 1)
                return (e[i] * x.a[t, row, :]) * (x.df[t, row, :] + tlinks[i])

            at = pl.ds(start, size)
            x.dg[t + 1, at, :] = total(plan.states, term, FEW) / x.s[t, at, :]

        tile.linked(enter)
        tile.linked(chunk)

    tile.loop(step)


def curvature(tile):
    """Tangents of the marginals of a tile that is in range, after `tangent`."""
    x = tile.x

    def step(t):
        def ratios(start, size, _):
            """s becomes the ratio, dg[t + 1] its tangent."""
            at = pl.ds(start, size)
            inverse, q = 1.0 / x.s[t, at, :], x.q[t + 1, at, :]
            x.s[t, at, :] = q * inverse
            x.dg[t + 1, at, :] = (x.dq[t + 1, at, :] - q * x.dg[t + 1, at, :]) * inverse

        def leave(start, size, _):
            at = pl.ds(start, size)
            back, dback, a, df = (ref[t, at, :] for ref in (x.q, x.dq, x.a, x.df))
            x.q[t, at, :] = tile.ended(t, x.final[at, :]) + a * back
            dp = tile.ended(t, x.dfinal[at, :]) + a * (dback + df * back)
            x.dq[t, at, :] = dp
            x.dscores[t, 0, at, :] = dp
            x.df[t, at, :] = a * df

        tile.linked(ratios)
        _products(tile, t)
        tile.linked(leave)

    tile.loop(step, back=True)

    def gather(j, sums, start, size):
        weight, rate = (tile.column(name, j, 0, start, size) for name in ("e", "tlinks"))
        return weight * (sums[0] + rate * sums[1])

    factors = [(x.a, _Later(x.dg), 0), (x.df, x.s, 0), (x.a, x.s, 1)]
    outer(tile, factors, gather, x.dlinks)


def _products(tile, t):
    """Into q and dq: sums over j of E times the ratios, and of E times their tangents and those of
    the links."""
    x, plan = tile.x, tile.plan
    if not plan.turned:
        e, tlinks = Cells(x.e, plan.rows), Cells(x.tlinks, plan.rows)
        x.q[t] = product(tile, x.s, t, column=True)
        x.dq[t] = product(tile, x.dg, t + 1, column=True)
        row_sums(tile, lambda i: e[i] * tlinks[i] * x.s[t])

        def plus(start, size, _):
            x.dq[t, pl.ds(start, size), :] += x.sums[pl.ds(start, size), :]

        tile.linked(plus)
        return

    def columns(j):
        row = pl.ds(j, 1)
        weight, ratio = tile.column("e", j), x.s[t, row, :]
        return weight * ratio, weight * (x.dg[t + 1, row, :] + ratio * tile.column("tlinks", j))

    def add(n, sums):
        return tuple(a + b for a, b in zip(sums, columns(n + 1), strict=True))

    x.q[t], x.dq[t] = over(plan.states - 1, add, columns(0), size=at_once(2 * plan.rows))


class _Later:
    """A reference one step later."""

    def __init__(self, ref):
        self.ref = ref

    def __getitem__(self, index):
        t, *rest = index
        return self.ref[t + 1, *rest]
