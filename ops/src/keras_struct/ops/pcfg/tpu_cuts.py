"""Pairs of symbols of one span: their sums over cuts, and what they hand to the parts.

References are those of `tpu_sweeps.py`.
"""

from jax import lax
from jax import numpy as jnp
from jax.experimental import pallas as pl

from keras_struct.ops.chart.tpu_sweeps import tree
from keras_struct.ops.pallas import power_of_two
from keras_struct.ops.pallas_tpu import SUBLANES
from keras_struct.ops.scaled import EMPTY


class Cuts:
    """One block of sentences.

    Args:
        plan: `Plan`.
        x: Namespace of references.
        op: "logsumexp" or "max".
        rates: Whether tangents are made, too.
    """

    def __init__(self, plan, x, op="logsumexp", rates=False):
        self.plan, self.x, self.op, self.rates = plan, x, op, rates
        self.limit = x.limits[0, 0]
        self.plain = x.flags[0, 0] > 0

    def power(self, e):
        """`2 ** e` of a whole e that is not far above 0, exactly for a maximum."""
        return jnp.exp2(e) if self.op == "logsumexp" else power_of_two(e)

    def each(self, step, back=False, begin=None):
        """`begin(width)`, and `step(width, start)` of all spans of more than one word."""

        def width(t, _):
            w = self.limit - t if back else t + 2
            if begin is not None:
                begin(w)
            lax.fori_loop(0, self.limit - w + 1, lambda i, _: step(w, i), None)

        lax.fori_loop(0, self.limit - 1, width, None)

    def phrases(self, w, i):
        return self.aligned(self.plan.row(w, i), self.plan.phrases)

    def words(self, i):
        return self.aligned(i * self.plan.words, self.plan.words)

    @staticmethod
    def aligned(start, size):
        return pl.ds(pl.multiple_of(start, SUBLANES), size)

    def is_whole(self, w, i):
        return (self.x.lengths[...] == w) & (i == 0)

    # Cuts ---------------------------------------------------------------------------------------

    def each_kind(self, w, i, function):
        """`function(kind, left, right, count)` of the pairs of a span: `left(n)` and `right(n)` are
        the places of the parts of the n-th of `count` cuts."""
        kinds, phrases, words = self.plan.kinds, self.phrases, self.words

        @pl.when(w == 2)
        def _():
            function(kinds[True, True], lambda n: words(i), lambda n: words(i + 1), 1)

        @pl.when(w > 2)
        def _():
            rest = phrases(w - 1, i + 1)
            function(kinds[True, False], lambda n: words(i), lambda n: rest, 1)
            rest = phrases(w - 1, i)
            function(kinds[False, True], lambda n: rest, lambda n: words(i + w - 1), 1)

        @pl.when(w > 3)
        def _():
            def left(n):
                return phrases(n + 2, i)

            def right(n):
                return phrases(w - n - 2, i + n + 2)

            function(kinds[False, False], left, right, w - 3)

    def tiles(self, kind, function):
        """`function(first, places)` of some left symbols at a time: places of their pairs."""

        def tile(t, _):
            first = t * kind.tile
            places = [
                self.aligned(kind.start + (first + j) * kind.rows, kind.rows)
                for j in range(kind.tile)
            ]
            function(first, places)

        lax.fori_loop(0, kind.tiles, tile, None)

    @staticmethod
    def symbols(ref, part, first, some):
        """The rows of some symbols of a part, each to be read beside all rows of another part."""
        return [ref[pl.ds(part.start + first + j, 1), :] for j in some]

    def make_pairs(self, w, i):
        """Sums over cuts of all pairs of symbols; with rates, their tangents."""
        self.each_kind(w, i, self._sum_cuts)

    def _sum_cuts(self, kind, left, right, count):
        x, many = self.x, not isinstance(count, int)
        plus = jnp.maximum if self.op == "max" else jnp.add

        every, half = range(kind.tile), (kind.tile + 1) // 2
        halves = [some for some in (every[:half], every[half:]) if some]  # to fit in registers

        def over_cuts(term, function, parts, fill=0.0):
            """Over the cuts, of the symbols of one part after the other."""
            if not many:
                return term(0, every)
            start = jnp.concatenate([x.zeros[...] + fill] * (kind.rows // SUBLANES))
            found = []
            for some in parts:

                def add(n, carry, some=some):
                    return [function(*y) for y in zip(carry, term(n, some), strict=True)]

                found += lax.fori_loop(0, count, add, [start] * len(some))
            return found

        def tile(first, places):
            def exponents(n, some):
                e = x.e[right(n), :]
                return [y + e for y in self.symbols(x.e, left(n), first, some)]

            def terms(n, some):
                m = x.m[right(n), :]
                ms = [y * m for y in self.symbols(x.m, left(n), first, some)]
                if not many:
                    return ms
                es = zip(some, exponents(n, some), strict=True)
                powers = [self.power(e - peaks[j]) for j, e in es]
                return [m * power for m, power in zip(ms, powers, strict=True)]

            def rates(n, some):
                d = x.d[right(n), :]
                return [y + d for y in self.symbols(x.d, left(n), first, some)]

            def changes(n, some):
                both = zip(rates(n, some), terms(n, some), strict=True)
                return [rate * term for rate, term in both]

            peaks = over_cuts(exponents, jnp.maximum, [every], 2 * EMPTY)
            sums = over_cuts(terms, plus, halves if self.op == "max" else [every])
            for at, m, e in zip(places, sums, peaks, strict=True):
                x.pm[at, :], x.pe[at, :] = m, e
            if self.rates and many:
                for at, d in zip(places, over_cuts(changes, jnp.add, halves), strict=True):
                    x.pd[at, :] = over_weight(d, x.pm[at, :])
            elif self.rates:
                for at, m, d in zip(places, sums, rates(0, every), strict=True):
                    x.pd[at, :] = jnp.where(m > 0, d, 0.0)

        self.tiles(kind, tile)

    def share_cuts(self, w, i):
        """Hands what pairs get, over their m, to the parts of all cuts."""
        self.each_kind(w, i, self._share_cuts)

    def _share_cuts(self, kind, left, right, count):
        x, rates = self.x, self.rates

        def cut(n, _):
            l, r = left(n), right(n)
            m, e = x.m[r, :], x.e[r, :]
            d = x.d[r, :] if rates else None

            def some(first, places):
                every = range(kind.tile)
                ms, es = (self.symbols(ref, l, first, every) for ref in (x.m, x.e))
                ds = self.symbols(x.d, l, first, every) if rates else [None] * kind.tile
                rights, changes = [], []
                for j, (at, m_left, e_left, d_left) in enumerate(
                    zip(places, ms, es, ds, strict=True)
                ):
                    here = pl.ds(l.start + first + j, 1)
                    weight = self.power((e_left + e) - x.pe[at, :])
                    term = weight * x.pm[at, :]
                    rights.append(term * m_left)
                    x.p[here, :] += jnp.sum(term * m, 0, keepdims=True) * m_left
                    if rates:
                        term = weight * x.pd[at, :] + term * (d_left + d)
                        changes.append(term * m_left)
                        x.dp[here, :] += jnp.sum(term * m, 0, keepdims=True) * m_left
                x.p[r, :] += tree(jnp.add, rights) * m
                if rates:
                    x.dp[r, :] += tree(jnp.add, changes) * m

            self.tiles(kind, some)

        if isinstance(count, int):
            cut(0, None)
        else:
            lax.fori_loop(0, count, cut, None)


def over_weight(x, m):
    exists = m > 0
    return jnp.where(exists, x / jnp.where(exists, m, 1.0), 0.0)
