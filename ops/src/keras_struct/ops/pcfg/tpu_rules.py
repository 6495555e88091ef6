"""The nonterminals of one span: their sums over rules and pairs, and what they hand to these.

Where rules of all sentences of a block are not further apart than `2 ** RANGE` (`flags`), they have
one exponent, `top`, and sums are plain, over the largest exponent of the pairs of a span: exact if
nothing that vanishes can be seen in a sum. Other spans are summed with an exponent for each term.
References are those of `tpu_sweeps.py`.
"""

from jax import lax
from jax import numpy as jnp
from jax.experimental import pallas as pl

from keras_struct.ops import scaled
from keras_struct.ops.chart.tpu_sweeps import tree
from keras_struct.ops.pallas_tpu import SUBLANES
from keras_struct.ops.pcfg.tpu_cuts import Cuts, over_weight
from keras_struct.ops.pcfg.tpu_plan import MOST, RANGE, SMALLEST
from keras_struct.ops.scaled import EMPTY


class Rules(Cuts):
    def segment(self, w):
        """The first and the last chunk of the pairs of a width, and one more."""
        second, third, last = (end // self.plan.chunk for end in self.plan.segments[1:])
        start = jnp.where(w == 2, 0, second)
        return start, jnp.where(w == 2, second, jnp.where(w == 3, third, last))

    def chunk(self, n):
        """Places of some registers of pairs."""
        first = pl.multiple_of(n * self.plan.chunk, self.plan.chunk)
        return [pl.ds(first + j, SUBLANES) for j in range(0, self.plan.chunk, SUBLANES)]

    def parents(self, function, carry=None, times=1):
        """`carry = function(symbols, carry)` of some nonterminals at a time."""
        size = self.plan.parents * times
        whole = self.plan.k // size

        def tile(t, carry):
            return function([t * size + j for j in range(size)], carry)

        if whole:
            carry = lax.fori_loop(0, whole, tile, carry)
        if self.plan.k % size:
            carry = function(list(range(whole * size, self.plan.k)), carry)
        return carry

    def make_phrases(self, w, i):
        """The nonterminals of a span, from its pairs; with rates, their tangents."""
        x, whole = self.x, self.phrases(w, i)
        found = lax.cond(self.plain, lambda: self._plain(w, whole), lambda: jnp.float32(0))
        pl.when(found < 1)(lambda: self._exact(w, whole))
        x.m[whole, :], x.e[whole, :] = scaled.normalise(x.sm[whole, :], x.se[whole, :])
        if self.rates:
            self._rates(w, whole)

    def over_pairs(self, w, symbols, term, function):
        """Sums over all pairs of terms `term(j, a, place)` of symbols a, the j-th of some."""
        first, stop = self.segment(w)

        def chunk(n, carry):
            found = [term(j, a, at) for j, a in enumerate(symbols) for at in self.chunk(n)]
            size = self.plan.registers
            found = [tree(function, found[j : j + size]) for j in range(0, len(found), size)]
            if carry is None:
                return found
            return [function(*y) for y in zip(carry, found, strict=True)]

        return lax.fori_loop(first + 1, stop, chunk, chunk(first, None))

    def put(self, whole, symbols, sums, exponents):
        for a, m, e in zip(symbols, sums, exponents, strict=True):
            here = pl.ds(whole.start + a, 1)
            self.x.sm[here, :], self.x.se[here, :] = m, e

    def _exact(self, w, whole):
        x = self.x

        def some(symbols, _):
            def exponent(j, a, at):
                return x.rules[1, a, at, :] + x.pe[at, :]

            def term(j, a, at):
                m = x.rules[0, a, at, :] * x.pm[at, :]
                return m * self.power(exponent(j, a, at) - peaks[j])

            found = self.over_pairs(w, symbols, exponent, jnp.maximum)
            peaks = [jnp.max(y, 0, keepdims=True) for y in found]
            sums = self.over_pairs(w, symbols, term, self.plus)
            self.put(whole, symbols, map(self.total, sums), peaks)

        self.parents(some)

    def scale_pairs(self, w):
        """Pairs as plain numbers over the largest exponent; that, and the smallest one."""
        x = self.x
        first, stop = self.segment(w)

        def ends(n, carry):
            low, high = ([y] for y in carry)
            for at in self.chunk(n):
                e = x.pe[at, :]
                high.append(e)
                low.append(jnp.where(x.pm[at, :] > 0, e, -EMPTY))
            return tree(jnp.minimum, low), tree(jnp.maximum, high)

        zeros = x.zeros[...]
        low, high = lax.fori_loop(first, stop, ends, (zeros - EMPTY, zeros + 2 * EMPTY))
        high = jnp.max(high, 0, keepdims=True)

        def scale(n, _):
            for at in self.chunk(n):
                x.po[at, :] = x.pm[at, :] * self.power(x.pe[at, :] - high)

        lax.fori_loop(first, stop, scale, None)
        return jnp.min(low, 0, keepdims=True), high

    def _plain(self, w, whole):
        """1 if all is exact, else 0."""
        x = self.x
        low, high = self.scale_pairs(w)

        def some(symbols, least):
            def term(j, a, at):
                return x.rules[0, a, at, :] * x.po[at, :]

            sums = self.over_pairs(w, symbols, term, self.plus)
            sums = [self.total(y) for y in sums]
            self.put(whole, symbols, sums, [high + x.top[...]] * len(sums))
            return tree(jnp.minimum, [least, *sums])

        least = self.parents(some, x.zeros[:1, :] + 1.0, 2)
        exact = (least >= 2.0**-SMALLEST) | (low - high >= -RANGE)
        exact = exact & self.has_digits(high)
        return jnp.min(jnp.where(exact, 1.0, 0.0).astype(jnp.float32))

    def has_digits(self, high):
        """Where exponents are sums that no rounding changes, or nothing exists."""
        return (jnp.abs(high + self.x.top[...]) <= MOST) | (high < EMPTY / 2)

    def _rates(self, w, whole):
        x = self.x

        def some(symbols, _):
            exponents = [x.se[pl.ds(whole.start + a, 1), :] for a in symbols]

            def rate(j, a, at):
                m = x.rules[0, a, at, :] * x.pm[at, :]
                weight = self.power((x.rules[1, a, at, :] + x.pe[at, :]) - exponents[j])
                return (m * weight) * (x.drules[a, at, :] + x.pd[at, :])

            for a, y in zip(symbols, self.over_pairs(w, symbols, rate, jnp.add), strict=True):
                here = pl.ds(whole.start + a, 1)
                x.d[here, :] = over_weight(jnp.sum(y, 0, keepdims=True), x.sm[here, :])

        self.parents(some)

    @property
    def plus(self):
        return jnp.maximum if self.op == "max" else jnp.add

    def total(self, x):
        return (jnp.max if self.op == "max" else jnp.sum)(x, 0, keepdims=True)

    def share_rules(self, w, i):
        """Hands what the nonterminals of a span get to rules and pairs."""
        x, at = self.x, self.phrases(w, i)
        m, p = x.sm[at, :], x.p[at, :]
        x.over[...] = over_weight(p, m)
        if self.rates:
            x.dover[...] = over_weight(x.dp[at, :] - p * x.d[at, :], m)
            self._share_exactly(w, at)
            return
        found = lax.cond(self.plain, lambda: self._share_plainly(w, at), lambda: jnp.float32(0))
        pl.when(found < 1)(lambda: self._share_exactly(w, at))

    def _share_plainly(self, w, whole):
        """1 if all is exact, else 0 and nothing is done."""
        x = self.x
        _, high = self.scale_pairs(w)
        exists = x.sm[whole, :] > 0
        far = (high + x.top[...]) - jnp.where(exists, x.se[whole, :], 0.0)
        worst = jnp.max(jnp.where(exists, far, -1.0), 0, keepdims=True)
        exact = (worst <= SMALLEST) & self.has_digits(high)
        exact = jnp.min(jnp.where(exact, 1.0, 0.0).astype(jnp.float32)) > 0

        def share():
            x.less[...] = jnp.where(exists, x.over[...] * self.power(far), 0.0)

            def chunk(n, _):
                places = self.chunk(n)
                pairs = [x.po[at, :] for at in places]

                def some(symbols, sums):
                    found: list[list] = [[y] for y in sums]
                    for a in symbols:
                        over = x.less[pl.ds(a, 1), :]
                        for y, at, pair in zip(found, places, pairs, strict=True):
                            y.append(x.rules[0, a, at, :] * over)
                            x.out[a, at, :] += over * pair
                    return [tree(jnp.add, y) for y in found]

                sums = self.parents(some, [x.zeros[...]] * len(places))
                for at, total, pair in zip(places, sums, pairs, strict=True):
                    x.pm[at, :] = over_weight(total * pair, x.pm[at, :])

            lax.fori_loop(*self.segment(w), chunk, None)

        pl.when(exact)(share)
        return jnp.where(exact, 1.0, 0.0).astype(jnp.float32)

    def _share_exactly(self, w, whole):
        x = self.x
        x.less[...] = jnp.where(x.sm[whole, :] > 0, -x.se[whole, :], EMPTY)

        def chunk(n, _):
            places = self.chunk(n)
            pairs = [(x.pm[at, :], x.pe[at, :]) for at in places]
            rates = [x.pd[at, :] for at in places] if self.rates else []

            def some(symbols, sums):
                found: list[list] = [[y] for y in sums]
                for a in symbols:
                    here = pl.ds(a, 1)
                    over, less = x.over[here, :], x.less[here, :]
                    dover = x.dover[here, :] if self.rates else None
                    for j, (at, (m, e)) in enumerate(zip(places, pairs, strict=True)):
                        use = m * self.power((x.rules[1, a, at, :] + e) + less)
                        weight = x.rules[0, a, at, :] * use
                        q = weight * over
                        found[j].append(q)
                        if self.rates:
                            rate = x.drules[a, at, :] + rates[j]
                            dq = weight * dover + q * rate
                            found[len(places) + j].append(dq)
                            x.out[a, at, :] += dq
                        else:
                            x.out[a, at, :] += jnp.where(self.plain, use * over, q)
                return [tree(jnp.add, y) for y in found]

            zeros = [x.zeros[...]] * (len(places) * (1 + self.rates))
            sums = self.parents(some, zeros)
            for j, (at, (m, _)) in enumerate(zip(places, pairs, strict=True)):
                x.pm[at, :] = over_weight(sums[j], m)
                if self.rates:
                    change = sums[len(places) + j] - sums[j] * rates[j]
                    x.pd[at, :] = over_weight(change, m)

        lax.fori_loop(*self.segment(w), chunk, None)

    def end_rules(self):
        """Where sums are plain, rules have got what they get over their numbers."""
        x, plan = self.x, self.plan

        def multiply():
            def parent(a, _):
                def chunk(n, _):
                    for at in self.chunk(n):
                        x.out[a, at, :] *= x.rules[0, a, at, :]

                lax.fori_loop(0, plan.segments[-1] // plan.chunk, chunk, None)

            lax.fori_loop(0, plan.k, parent, None)

        if not self.rates:
            pl.when(self.plain)(multiply)
