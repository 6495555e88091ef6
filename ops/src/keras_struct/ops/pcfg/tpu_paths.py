"""The best tree of a grammar, or samples, from the whole span down to its parts.

References, beside those of `tpu_sweeps.py`:

    keys      (2, 1, LANES) of a sample
    roots     (1, LANES) one more than the symbol of the whole sentence, 0 where there is no tree
    numbers   (pairs, LANES) the number of every pair, left S + right
    symbols   (spans, LANES) one more than the symbol of every span, 0 of those that are not used:
              first of all words, then of longer spans by width and start
"""

from jax import lax
from jax import numpy as jnp
from jax.experimental import pallas as pl

from keras_struct.ops.chart.tpu_sweeps import tree
from keras_struct.ops.noise import Draws
from keras_struct.ops.pallas_tpu import LANES, SUBLANES
from keras_struct.ops.pcfg.noise_places import CUT, PAIR, place_of_cut, place_of_pair
from keras_struct.ops.pcfg.tpu_sweeps import Grammar


def walk(plan, op, noisy, x):
    """Symbols of all spans, of one sample after the other."""
    _Walk(plan, op, noisy, x).run()


class _Walk(Grammar):
    def __init__(self, plan, op, noisy, x):
        super().__init__(plan, x, op)
        self.dtype = x.m.dtype
        self.noisy, self.draws = noisy, Draws((x.keys[0, :, :], x.keys[1, :, :]))

    def run(self):
        x = self.x
        pl.when(pl.program_id(1) == 0)(self.inside)
        x.symbols[...] = jnp.zeros_like(x.symbols[...])

        def step(w, i):
            here = self.span(w, i)
            root = jnp.where(self.is_whole(w, i), x.roots[...], 0)
            symbol = jnp.maximum(x.symbols[here, :], root)
            x.symbols[here, :] = symbol
            used = jnp.max(symbol.astype(self.dtype)) > 0
            pl.when(used)(lambda: self.divide(w, i, symbol))

        self.each(step, back=True)

    def span(self, w, i):
        """The place of a span among all."""
        before = (w - 2) * (self.plan.n + 1) - (((w - 1) * w) >> 1) + 1
        return pl.ds(jnp.where(w == 1, i, self.plan.n + before + i), 1)

    def noise(self, stream, places):
        """Weights, without a logarithm: the largest share times weight is that of the largest
        log-share with noise."""
        return jnp.exp(self.draws.gumbel(stream, places, self.dtype.name))

    def divide(self, w, i, symbol):
        """A pair of symbols and a cut for every sentence that uses the span."""
        self.make_pairs(w, i)
        pair, exponent = self.best_pair(w, i, symbol)
        s = self.plan.k + self.plan.p
        left = jnp.floor((pair + 0.5) / s)
        right = pair - left * s
        exists = symbol > 0

        def mark(kind, lefts, rights, count):
            here = exists & ((left >= self.plan.k) == kind.left)
            here = here & ((right >= self.plan.k) == kind.right)
            left_row, right_row = (
                y - (self.plan.k if words else 0)
                for y, words in ((left, kind.left), (right, kind.right))
            )
            cut = jnp.zeros_like(left)
            if not isinstance(count, int):
                cut = self.best_cut(w, i, lefts, rights, count, (left_row, right_row), exponent)

            def one(n, _):
                this = here & (cut == n)
                width = n + (1 if kind.left else 2)
                if kind == self.plan.kinds[False, True]:
                    width = w - 1
                for at, y in (
                    (self.span(width, i), left),
                    (self.span(w - width, i + width), right),
                ):
                    found = jnp.where(this, y + 1, 0).astype(jnp.int32)
                    self.x.symbols[at, :] = jnp.maximum(self.x.symbols[at, :], found)

            lax.fori_loop(0, count, one, None)

        self.each_kind(w, i, mark)

    def best_pair(self, w, i, symbol):
        """Its number, and the exponent of the sum over its cuts."""
        x, plan, at = self.x, self.plan, self.phrases(w, i)
        rows = lax.broadcasted_iota(jnp.int32, (plan.phrases, LANES), 0)
        e = jnp.sum(jnp.where(rows + 1 == symbol, x.se[at, :], 0.0), 0, keepdims=True)
        s, last = plan.k + plan.p, i + w - 1
        span = ((last * (last + 1)) >> 1) + i  # as `place_of_pair`, without a division

        def chunk(n, best):
            places = self.chunk(n)
            zeros = [x.zeros[...]] * (2 * len(places))

            def own(symbols, rules):
                for a in symbols:
                    here = symbol == a + 1
                    for j, at in enumerate(places):
                        rules[j] = jnp.where(here, x.rules[0, a, at, :], rules[j])
                        other = len(places) + j
                        rules[other] = jnp.where(here, x.rules[1, a, at, :], rules[other])
                return rules

            rules = self.parents(own, zeros)
            found = [best]
            for m, exponent, at in zip(rules, rules[len(places) :], places, strict=False):
                number = x.numbers[at, :]
                share = (m * x.pm[at, :]) * self.power((exponent + x.pe[at, :]) - e)
                if self.noisy:
                    place = place_of_pair(span, 0, number.astype(jnp.int32), s * s)
                    share = share * self.noise(PAIR, place)
                found.append((share, number, x.pe[at, :]))
            return tree(_better, found)

        zeros = x.zeros[...]
        best = lax.fori_loop(*self.segment(w), chunk, (zeros - 1.0, zeros, zeros))
        parts = [tuple(y[j : j + 1] for y in best) for j in range(SUBLANES)]
        _, pair, exponent = tree(_better, parts)
        return pair, exponent

    def best_cut(self, w, i, lefts, rights, count, rows, exponent):
        """The number of the cut between two phrases."""
        x, (left, right) = self.x, rows
        size = self.plan.phrases
        number = lax.broadcasted_iota(jnp.int32, (size, LANES), 0).astype(self.dtype)

        def of_symbol(ref, part, row):
            return jnp.sum(jnp.where(number == row, ref[part, :], 0.0), 0, keepdims=True)

        def one(n, best):
            l, r = lefts(n), rights(n)
            e = of_symbol(x.e, l, left) + of_symbol(x.e, r, right)
            share = of_symbol(x.m, l, left) * of_symbol(x.m, r, right)
            # Of sentences with other pairs the exponents mean nothing.
            share = share * self.power(jnp.minimum(e - exponent, 1.0))
            if self.noisy:
                place = place_of_cut(w - 1, i + n + 1) + jnp.zeros((1, LANES), jnp.int32)
                share = share * self.noise(CUT, place)
            place = (jnp.zeros((1, LANES), jnp.int32) + n).astype(self.dtype)
            return _better(best, (share, place))

        zeros = x.zeros[:1, :]
        return lax.fori_loop(0, count, one, (zeros - 1.0, zeros))[1]


def _better(one, other):
    """The better of two choices, the first one of equals."""
    later = (other[0] > one[0]) | ((other[0] == one[0]) & (other[1] < one[1]))
    return tuple(jnp.where(later, y, x) for x, y in zip(one, other, strict=True))
