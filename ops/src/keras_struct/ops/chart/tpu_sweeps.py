"""The Pallas kernels of charts: the inside pass, and those from the whole span down to its parts.

References, beside planes by name (`tpu_plan.py`):

    limits    the longest length of every block, in SMEM
    lengths   (1, LANES), 0 where nothing exists if the kernel goes down
    scores    (items, widths, starts, LANES)
    tscores   tangents of these
    m, e      items m 2^e, and of products m and -e; going down, probabilities over m take the
              place of m of products; after these, what spans that wrap another one get
    d         tangents of the logarithms of items and products; going down, (dp - p d) / m takes
              the place of that of a product; after these, tangents of what wrapping spans get
    ahead     (cuts starts, LANES) exponents of the cuts that come next
    goal      (2, LANES) m and e of the whole
    out       (items, widths, starts, LANES) what scored spans get
"""

from typing import Any

from jax import lax
from jax import numpy as jnp
from jax.experimental import pallas as pl

from keras_struct.ops import scaled
from keras_struct.ops.pallas import power_of_two
from keras_struct.ops.pallas_tpu import LANES, SUBLANES
from keras_struct.ops.scaled import EMPTY, Scaled


class Chart:
    """One block of sentences.

    Args:
        plan: `Plan`.
        x: Namespace of references.
        sweep: One of `tpu_plan.SWEEPS`.
        op: "logsumexp" or "max".
    """

    def __init__(self, plan, x, sweep, op="logsumexp"):
        self.plan, self.x, self.op, self.spec = plan, x, op, plan.spec
        self.sweep = sweep
        self.dtype = x.m.dtype
        self.limit = x.limits[0, 0]

    def power(self, e):
        """`2 ** e` of a whole e that is not above 0, exactly for a maximum."""
        if self.op == "logsumexp":
            return jnp.exp2(e)
        return power_of_two(e)

    def each(self, step, back=False, begin=None):
        """`begin(width)`, and `step(width, first start)` of its spans, from narrow to wide."""
        size = self.plan.starts

        def width(w, _):
            w = self.limit - w if back else w + 1
            if begin is not None:
                begin(w)

            def starts(n, _):
                step(w, pl.multiple_of(n * size, size))

            count = self.limit - w + size
            lax.fori_loop(0, _over(count, size), starts, None)

        lax.fori_loop(0, self.limit, width, None)

    def at(self, k, w, start):
        return pl.ds(self.plan.at(k, w, start), self.plan.starts)

    def score_at(self, k, w, first):
        """Where scores of an item are in arrays like the scores."""
        return self.spec.scored.index(k), w - 1, pl.ds(first, self.plan.starts)

    def zeros(self):
        """From memory, as what a loop carries must be."""
        return self.x.m[pl.ds(0, self.plan.starts), :]

    def starts(self, first):
        return first + lax.broadcasted_iota(jnp.int32, (self.plan.starts, LANES), 0)

    def cuts(self, lines, count, carry, term):
        """`carry = term(places, carry)` over cuts, some at a time.

        Args:
            lines: Functions from the number of a cut to the places of some cuts from there.
            count: How many there are.
            carry: Arrays, which must come from memory.
            term: Function of a list, for every cut of these, of its places by line.
        """
        plan = self.plan

        def chunk(n, carry):
            places = zip(*(line(n * plan.cuts) for line in lines), strict=True)
            return term([[pl.ds(at, plan.starts) for at in cut] for cut in places], carry)

        return lax.fori_loop(0, _over(count + plan.cuts - 1, plan.cuts), chunk, carry)

    # Inside -----------------------------------------------------------------------------------

    def clear(self):
        x, plan = self.x, self.plan
        for name in plan.planes(self.sweep):
            fill(getattr(x, name), EMPTY if name == "e" else 0.0)
        for k, item in enumerate(self.spec.items):
            if item.unit == 0:

                def one(n, _, k=k):
                    first = n * SUBLANES
                    at = pl.ds(plan.at(k, 0, 0) + first, SUBLANES)
                    places = first + lax.broadcasted_iota(jnp.int32, (SUBLANES, LANES), 0)
                    exists = places <= plan.n
                    x.m[at, :] = jnp.where(exists, 1.0, 0.0).astype(self.dtype)
                    x.e[at, :] = jnp.where(exists, 0.0, EMPTY).astype(self.dtype)

                lax.fori_loop(0, plan.n // SUBLANES + 1, one, None)

    def inside(self, keep, goal=None):
        """All items; products, too, to keep them. `goal(width, item)` gets the item of the goal."""
        self.clear()
        x, spec = self.x, self.spec

        def step(w, first):
            exists = self.starts(first) <= self.limit - w
            made: dict[int, Any] = {}
            for kind, k in spec.order:
                if kind == "product":
                    made[k] = self.product(k, w, first)
                    if keep:
                        at = self.at(self.plan.product(k), w, first)
                        there = exists & (made[k].m > 0)
                        x.m[at, :] = jnp.where(there, made[k].m, 0.0)
                        x.e[at, :] = jnp.where(there, -made[k].e, EMPTY)
                    continue
                found = self.item(k, w, first, made)
                m = jnp.where(exists, found.m, 0.0)
                e = jnp.where(exists, found.e, EMPTY)
                if k == spec.goal and goal is not None:
                    pl.when(first == 0)(lambda w=w, m=m, e=e: goal(w, m[:1], e[:1]))
                if k in self.plan.shut:
                    closed = self.starts(first) == 0
                    m, e = jnp.where(closed, 0.0, m), jnp.where(closed, EMPTY, e)
                at = self.at(k, w, first)
                x.m[at, :], x.e[at, :] = m, e

        self.each(step)

    def product(self, k, w, first):
        p, x, plan = self.spec.products[k], self.x, self.plan
        # A left part of width 0 is nothing, or one.
        alone = w - p.gap if plan.least_width(p.left) == 0 else -1
        at = self.at(p.right, alone, first + p.gap)
        m, peak = x.m[at, :], x.e[at, :]
        lefts = plan.line(p.left, 1, first, 1, 0)
        rights = plan.line(p.right, w - p.gap - 1, first + 1 + p.gap, -1, 1)
        chunks = _over(w - p.gap + plan.cuts - 1, plan.cuts)
        plus = jnp.maximum if self.op == "max" else jnp.add

        def places(n):
            both = zip(lefts(n * plan.cuts), rights(n * plan.cuts), strict=True)
            return [[pl.ds(at, plan.starts) for at in cut] for cut in both]

        ahead = [pl.ds(c * plan.starts, plan.starts) for c in range(plan.cuts)]

        def read_ahead(n, peak):
            """Keeps the exponents of some cuts; the largest one yet."""
            found = [x.e[left, :] + x.e[right, :] for left, right in places(n)]
            for at, e in zip(ahead, found, strict=True):
                x.ahead[at, :] = e
            return tree(jnp.maximum, [*found, peak])

        def chunk(n, carry):
            # The next exponents meanwhile, so that no latency adds up.
            m, before, peak = carry
            weights = [
                (x.m[left, :] * x.m[right, :]) * self.power(x.ahead[at, :] - peak)
                for at, (left, right) in zip(ahead, places(n), strict=True)
            ]
            m = tree(plus, [*weights, m * self.power(before - peak)])
            return m, peak, read_ahead(jnp.minimum(n + 1, chunks - 1), peak)

        m, peak, _ = lax.fori_loop(0, chunks, chunk, (m, peak, read_ahead(0, peak)))
        return Scaled(m, peak)

    def item(self, k, w, first, made):
        item, x = self.spec.items[k], self.x
        if item.wraps is None:
            inner = made[item.product]
        else:
            at = self.at(item.wraps, w - 2, first + 1)
            inner = Scaled(x.m[at, :], x.e[at, :])
        if item.unit == 1:
            inner = Scaled(jnp.where(w == 1, 1.0, inner.m), jnp.where(w == 1, 0.0, inner.e))
        if item.scored:
            score = x.scores[*self.score_at(k, w, first), :]
            inner = scaled.times(inner, scaled.from_log(score))
        return scaled.normalise(*inner)

    def cuts_of(self, k, w, first):
        """Where left and right parts of a product are, from the narrowest left part that there is
        (see `cuts`), and how many cuts there are."""
        p, plan = self.spec.products[k], self.plan
        u, v = plan.least_width(p.left), plan.least_width(p.right)
        lefts = plan.line(p.left, u, first, 1, 0)
        rights = plan.line(p.right, w - p.gap - u, first + u + p.gap, -1, 1)
        return lefts, rights, w - p.gap - u - v + 1

    # Down -------------------------------------------------------------------------------------

    def above(self, k, w, first):
        """For each part that item k is of a product: the product, whether it is the left part,
        where the other part and the product are (see `cuts`), and how many spans have it."""
        plan = self.plan
        for j, p in enumerate(self.spec.products):
            widest = self.limit - w - p.gap  # of the other part
            if p.left == k:
                v = plan.least_width(p.right)
                right = plan.line(p.right, v, first + w + p.gap, 1, 0)
                whole = plan.line(plan.product(j), w + p.gap + v, first, 1, 0)
                yield p, True, [right, whole], widest - first - v + 1
            if p.right == k:
                u = plan.least_width(p.left)
                left = plan.line(p.left, u, first - u - p.gap, 1, -1)
                whole = plan.line(plan.product(j), w + u + p.gap, first - u - p.gap, 1, -1)
                count = jnp.minimum(widest, first + plan.starts - 1 - p.gap) - u + 1
                yield p, False, [left, whole], count

    def down(self, start, gather, divide, out, begin=None):
        """From the whole span to its parts, with some numbers for each span.

        Args:
            start: What the goal gets, for each number.
            gather: `gather(item, w, first)` gives what an item gets as part of products.
            divide: `divide(product, w, first, values)`.
            out: References to what scored items get, for each number, or None.
            begin: `begin(w)` before a width, or None.
        """
        x, spec = self.x, self.spec
        wraps, planes = self.plan.wrapped, [x.m, x.d] if self.sweep == "curvature" else [x.m]

        def step(w, first):
            exists = self.starts(first) <= self.limit - w
            into: dict[int, list] = {}
            for kind, k in reversed(spec.order):
                if kind == "product":
                    divide(k, w, first, into[k])
                    continue
                item = spec.items[k]
                values = gather(k, w, first)
                if k == spec.goal:
                    whole = (self.starts(first) == 0) & (x.lengths[...] == w)
                    values = [
                        v + jnp.where(whole, s, 0.0) for v, s in zip(values, start, strict=True)
                    ]
                if k == spec.wrapped:
                    at = self.at(wraps, w + 2, first - 1)
                    values = [v + plane[at, :] for v, plane in zip(values, planes, strict=True)]
                values = [jnp.where(exists, v, 0.0) for v in values]
                if item.scored:
                    for ref, v in zip(out, values, strict=True):
                        if ref is not None:
                            ref[*self.score_at(k, w, first), :] = v
                if item.product is None:
                    for plane, v in zip(planes, values, strict=True):
                        plane[self.at(wraps, w, first), :] = v
                elif item.product in into:
                    into[item.product] = _plus(into[item.product], values)
                else:
                    into[item.product] = values

        self.each(step, back=True, begin=begin)


def forward(plan, op, x):
    """The whole of every sentence, as m and e."""
    chart = Chart(plan, x, "forward", op)
    x.goal[0, :, :] = jnp.ones((1, LANES), x.goal.dtype)
    x.goal[1, :, :] = jnp.zeros((1, LANES), x.goal.dtype)

    def goal(w, m, e):
        here = x.lengths[...] == w
        x.goal[0, :, :] = jnp.where(here, m, x.goal[0, :, :])
        x.goal[1, :, :] = jnp.where(here, e, x.goal[1, :, :])

    chart.inside(False, goal)


def backward(plan, x):
    """Probabilities of scored items."""
    chart = Chart(plan, x, "backward")
    chart.inside(True)
    clear_out(x)

    def gather(k, w, first):
        at = chart.at(k, w, first)
        e, p = x.e[at, :], chart.zeros()

        def term(places, carry):
            (p,) = carry
            terms = [
                (x.m[other, :] * x.m[whole, :]) * chart.power((e + x.e[other, :]) + x.e[whole, :])
                for other, whole in places
            ]
            return (tree(jnp.add, [p, *terms]),)

        for _, _, first_cut, count in chart.above(k, w, first):
            (p,) = chart.cuts(first_cut, count, (p,), term)
        return [p * x.m[at, :]]

    def divide(k, w, first, values):
        at = chart.at(plan.product(k), w, first)
        x.m[at, :] = _over_weight(values[0], x.m[at, :])

    chart.down([1.0], gather, divide, [x.out])


def curvature(plan, x):
    """The derivative of these along tangents of the scores."""
    chart = Chart(plan, x, "curvature")
    chart.inside(True)
    clear_out(x)
    tangents(chart)

    def gather(k, w, first):
        at = chart.at(k, w, first)
        e, sums = x.e[at, :], [chart.zeros()] * 2

        def term(places, carry):
            p, dp = carry
            terms, rates = [], []
            for other, whole in places:
                part = x.m[other, :] * chart.power((e + x.e[other, :]) + x.e[whole, :])
                q = x.m[whole, :]
                terms.append(part * q)
                rates.append(part * (x.d[whole, :] + q * x.d[other, :]))
            return tree(jnp.add, [p, *terms]), tree(jnp.add, [dp, *rates])

        for _, _, first_cut, count in chart.above(k, w, first):
            sums = chart.cuts(first_cut, count, tuple(sums), term)
        (p, dp), m = sums, x.m[at, :]
        return [p * m, (dp + p * x.d[at, :]) * m]

    def divide(k, w, first, values):
        at = chart.at(plan.product(k), w, first)
        p, dp = values
        m = x.m[at, :]
        x.d[at, :] = _over_weight(dp - p * x.d[at, :], m)
        x.m[at, :] = _over_weight(p, m)

    chart.down([1.0, 0.0], gather, divide, [None, x.out])


def tangents(chart):
    """Tangents of the logarithms of products and items."""
    x, spec = chart.x, chart.spec

    def step(w, first):
        made: dict[int, Any] = {}
        exists = chart.starts(first) <= chart.limit - w
        for kind, k in spec.order:
            if kind == "product":
                at = chart.at(chart.plan.product(k), w, first)
                made[k] = jnp.where(exists, rate_of(k, w, first, at), 0.0)
                x.d[at, :] = made[k]
                continue
            item = spec.items[k]
            if item.wraps is None:
                rate = made[item.product]
            else:
                rate = x.d[chart.at(item.wraps, w - 2, first + 1), :]
            if item.unit == 1:
                rate = jnp.where(w == 1, 0.0, rate)
            if item.scored:
                rate = rate + x.tscores[*chart.score_at(k, w, first), :]
            x.d[chart.at(k, w, first), :] = jnp.where(exists, rate, 0.0)

    def rate_of(k, w, first, at):
        whole = x.e[at, :]

        def term(places, carry):
            terms = [
                (x.m[left, :] * x.m[right, :])
                * chart.power((x.e[left, :] + x.e[right, :]) + whole)
                * (x.d[left, :] + x.d[right, :])
                for left, right in places
            ]
            return (tree(jnp.add, [*carry, *terms]),)

        lefts, rights, count = chart.cuts_of(k, w, first)
        (total,) = chart.cuts([lefts, rights], count, (chart.zeros(),), term)
        return _over_weight(total, x.m[at, :])

    chart.each(step)


def fill(ref, value):
    """Every element of (rows, LANES), rows a multiple of 8, with a value."""

    def write(n, _):
        at = pl.ds(pl.multiple_of(n * SUBLANES, SUBLANES), SUBLANES)
        ref[at, :] = jnp.full((SUBLANES, LANES), value, ref.dtype)

    lax.fori_loop(0, ref.shape[0] // SUBLANES, write, None)


def clear_out(x):
    for k in range(x.out.shape[0]):

        def width(w, _, k=k):
            fill(x.out.at[k, w], 0.0)

        lax.fori_loop(0, x.out.shape[1], width, None)


def _over_weight(x, m):
    exists = m > 0
    return jnp.where(exists, x / jnp.where(exists, m, 1.0), 0.0)


def _over(n, size):
    """`n // size` of a size that is a power of two; 0 below 0."""
    return jnp.maximum(n, 0) >> (size.bit_length() - 1)


def _plus(xs, ys):
    return [x + y for x, y in zip(xs, ys, strict=True)]


def tree(function, xs):
    """All of a list as one, pair by pair."""
    while len(xs) > 1:
        xs = [function(*xs[n : n + 2]) if n + 1 < len(xs) else xs[n] for n in range(0, len(xs), 2)]
    return xs[0]
