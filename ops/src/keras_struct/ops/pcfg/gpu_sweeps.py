"""The Pallas kernels of grammars for GPUs: from narrow spans to wide ones, and down again.

Programs share the spans of each width of a sentence of N words, in one call for each width; where
one program has a sentence, it goes over all widths. The steps are those of `triton_sweeps.py`.
References of a kernel are flat and attributes of `x`. See `gpu_plan.py` for tiles, of which there
are C cells in all, S symbols and K phrases; P is the number of programs:

    bounds         (2,)            the first width, and the one after the last
    lengths        (1,)
    rules          (2 K C,)        m and e
    drules         (K C,)          tangents of the scores of rules
    starts         (K,)            probabilities of the roots, and `dstarts` their tangents
    parts          (2 N N S,)      m and e of every symbol at (first word, last word)
    sums           (2 N N K,)      the same of nonterminals as they were summed, of which terms have
                                   shares whose sum is 1
    rates          (N N S,)        tangents of the logarithms of symbols
    got, dgot      (2 N N S,)      probabilities of spans as left and as right parts
    pairs          (P 3 C,)        of one span: m and e of every pair, and its tangent
    out            (P K C,)        what rules get from the spans of each program

Every number has its own exponent, as in `portable`. What one thread has stored, others read after a
barrier. `given_...` are what these arrays held before.
"""

from jax import lax
from jax import numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from keras_struct.ops.gpu_scaled import normalised, over
from keras_struct.ops.pallas import power_of_two
from keras_struct.ops.scaled import EMPTY

int32 = jnp.int32


def inside(plan, n, programs, barrier, op, x):
    """All spans of some widths."""
    grammar = Grammar(plan, n, programs, barrier, x, op)

    def step(w, i):
        grammar.make_pairs(w, i)
        barrier()
        grammar.make_phrases(w, i)
        barrier()

    grammar.each(step)


def tangent(plan, n, programs, barrier, x):
    """Tangents of the logarithms of nonterminals."""
    grammar = Grammar(plan, n, programs, barrier, x, rate=True)

    def step(w, i):
        grammar.make_pairs(w, i)
        barrier()
        grammar.make_rates(w, i)
        barrier()

    grammar.each(step)


def down(plan, n, programs, barrier, rate, x):
    """What rules and parts get: probabilities, or with `rate`, after `tangent`, their tangents, too
    (only these of rules)."""
    grammar = Grammar(plan, n, programs, barrier, x, rate=rate)

    def step(w, i):
        grammar.make_pairs(w, i)
        barrier()
        grammar.share_rules(w, i)
        barrier()
        grammar.share_cuts(w, i)
        barrier()

    grammar.each(step, back=True)


class Grammar:
    """One sentence.

    Args:
        plan: `gpu_plan.Plan`.
        n: Words.
        programs: For this sentence.
        barrier: `PallasGPU.barrier` of who calls the kernel.
        x: References.
        op: "logsumexp" or "max".
        rate: Whether there are tangents.
    """

    def __init__(self, plan, n, programs, barrier, x, op="logsumexp", rate=False):
        self.plan, self.n, self.programs, self.barrier, self.x = plan, n, programs, barrier, x
        self.plus = jnp.maximum if op == "max" else jnp.add
        self.reduce = jnp.max if op == "max" else jnp.sum
        self.rate, self.dtype = rate, x.parts.dtype
        self.limit, self.program = x.lengths[0], pl.program_id(1)
        self.lane = lax.broadcasted_iota(int32, (plan.tile,), 0)
        square = plan.tile, plan.tile
        self.cell = lax.broadcasted_iota(int32, square, 0) * int32(plan.tile)
        self.cell += lax.broadcasted_iota(int32, square, 1)
        self.flat = lax.broadcasted_iota(int32, (1, plan.block), 1)
        self.parent = lax.broadcasted_iota(int32, (plan.parents,), 0)
        self.plane = int32(n * n * plan.symbols)

    def full(self, shape, value=0.0):
        return jnp.full(shape, value, self.dtype)

    def load(self, ref, at):
        return triton.load(ref.at[at])

    def store(self, ref, at, values):
        triton.store(ref.at[at], values)

    # Places ---------------------------------------------------------------------------------------

    def span(self, first, last):
        """Where the symbols of a span begin."""
        return (first * int32(self.n) + last) * int32(self.plan.symbols)

    def symbols(self, first, last, tile):
        return self.span(first, last) + tile * int32(self.plan.tile) + self.lane

    def place(self, left, right):
        """Where the pairs of two tiles begin among those of all tiles."""
        return (left * int32(self.plan.tiles) + right) * int32(self.plan.block)

    def pair(self, at):
        """Of this program."""
        return self.program * int32(3 * self.plan.cells) + at

    def rule(self, a, place):
        """Rules of some parents for the pairs of two tiles, (parents, block)."""
        return a[:, None] * int32(self.plan.cells) + place + self.flat

    # Loops ----------------------------------------------------------------------------------------

    def each(self, step, back=False):
        """`step(width, first word)` of the spans of this program."""
        programs = int32(self.programs)
        first, last = self.x.bounds[0], jnp.minimum(self.limit + 1, self.x.bounds[1])

        def width(k, carry):
            w = last - 1 - k if back else first + k
            count = lax.div(self.limit - w + programs - self.program, programs)

            def start(k, carry):
                step(w, self.program + k * programs)
                return carry

            return lax.fori_loop(int32(0), count, start, carry)

        lax.fori_loop(int32(0), last - first, width, int32(0))

    def kinds(self, width):
        """The first tile of the symbols of a span, and the one after its last."""
        phrases, tiles = int32(self.plan.phrase_tiles), int32(self.plan.tiles)
        one = width == int32(1)
        return jnp.where(one, phrases, int32(0)), jnp.where(one, tiles, phrases)

    def over_tiles(self, w, body, carry):
        """`body(left tile, right tile, carry)` of those that have a cut of spans of a width."""
        phrases, tiles, none = int32(self.plan.phrase_tiles), int32(self.plan.tiles), int32(0)

        def row(left, carry):
            word, two = left >= phrases, w == int32(2)
            first = jnp.where(word & two | ~word & (w == int32(3)), phrases, none)
            longer = jnp.where(word, phrases, tiles)
            last = jnp.where(two, jnp.where(word, tiles, none), longer)
            return lax.fori_loop(first, last, lambda right, carry: body(left, right, carry), carry)

        return lax.fori_loop(none, tiles, row, carry)

    def over_parents(self, body, carry):
        """`body(parents, carry)` of some at a time."""
        size = self.plan.parents

        def some(k, carry):
            return body(k * int32(size) + self.parent, carry)

        return lax.fori_loop(int32(0), int32(self.plan.phrases // size), some, carry)

    # Inside ---------------------------------------------------------------------------------------

    def make_pairs(self, w, i):
        """Sums (or maxima) over the cuts of a span, and their tangents."""
        plan, x, j = self.plan, self.x, i + w - 1

        def tiles(left, right, carry):
            word = left >= int32(plan.phrase_tiles)
            first, last = jnp.where(word, i, i + 1), jnp.where(word, i + 1, j)
            word = right >= int32(plan.phrase_tiles)
            first = jnp.where(word, jnp.maximum(first, j - 1), first)
            last = jnp.where(word, last, jnp.minimum(last, j - 1))

            def cut(m, carry):
                total, peak, *change = carry
                one, other = self.symbols(i, m, left), self.symbols(m + 1, j, right)
                e = self.load(x.parts, self.plane + one)[:, None]
                e += self.load(x.parts, self.plane + other)[None]
                term = self.load(x.parts, one)[:, None] * self.load(x.parts, other)[None]
                top = jnp.maximum(peak, e)
                before, term = power_of_two(peak - top), term * power_of_two(e - top)
                if self.rate:
                    rate = self.load(x.rates, one)[:, None] + self.load(x.rates, other)[None]
                    change = [change[0] * before + term * rate]
                return self.plus(total * before, term), top, *change

            zero = self.full(self.cell.shape)
            begin = zero, self.full(self.cell.shape, 2 * EMPTY), *[zero] * self.rate
            total, peak, *change = lax.fori_loop(first, last, cut, begin)
            at = self.pair(self.place(left, right)) + self.cell
            self.store(x.pairs, at, total)
            self.store(x.pairs, at + int32(plan.cells), jnp.where(total > 0, peak, EMPTY))
            if self.rate:
                self.store(x.pairs, at + int32(2 * plan.cells), over(change[0], total))
            return carry

        self.over_tiles(w, tiles, int32(0))

    def numbers(self, a, place):
        """Products m and e of rules and pairs, (parents, block)."""
        plan, x = self.plan, self.x
        rule, pair = self.rule(a, place), self.pair(place) + self.flat
        e = self.load(x.rules, rule + int32(plan.phrases * plan.cells))
        e += self.load(x.pairs, pair + int32(plan.cells))
        return self.load(x.rules, rule) * self.load(x.pairs, pair), e

    def make_phrases(self, w, i):
        """Nonterminals of a span, from its pairs."""
        plan, x, j = self.plan, self.x, i + w - 1
        shape = plan.parents, plan.block

        def parents(a, carry):
            def tiles(left, right, carry):
                total, peak = carry
                term, e = self.numbers(a, self.place(left, right))
                top = jnp.maximum(peak, e)
                total = total * power_of_two(peak - top)
                return self.plus(total, term * power_of_two(e - top)), top

            begin = self.full(shape), self.full(shape, 2 * EMPTY)
            total, peak = self.over_tiles(w, tiles, begin)
            e = jnp.max(peak, 1)
            m = self.reduce(total * power_of_two(peak - e[:, None]), 1)
            at = (i * int32(self.n) + j) * int32(plan.phrases) + a
            self.store(x.sums, at, m)
            self.store(x.sums, at + int32(self.n**2 * plan.phrases), e)
            m, e = normalised(m, e)
            at = self.span(i, j) + a
            self.store(x.parts, at, m)
            self.store(x.parts, self.plane + at, e)
            return carry

        self.over_parents(parents, int32(0))

    def weights(self, w, i, a):
        """m of nonterminals as they were summed, and a function from the places of pairs to terms
        (parents, block) of these sums."""
        plan, x = self.plan, self.x
        at = (i * int32(self.n) + i + w - 1) * int32(plan.phrases) + a
        m = self.load(x.sums, at)
        less = jnp.where(m > 0, -self.load(x.sums, at + int32(self.n**2 * plan.phrases)), EMPTY)

        def terms(place):
            term, e = self.numbers(a, place)
            return term * power_of_two(e + less[:, None])

        return m, terms

    def rates_of(self, a, place):
        """Tangents of the logarithms of terms."""
        found = self.load(self.x.drules, self.rule(a, place))
        pair = self.pair(int32(2 * self.plan.cells) + place)
        return found + self.load(self.x.pairs, pair + self.flat)

    def make_rates(self, w, i):
        plan = self.plan

        def parents(a, carry):
            m, terms = self.weights(w, i, a)

            def tiles(left, right, change):
                place = self.place(left, right)
                return change + terms(place) * self.rates_of(a, place)

            change = self.over_tiles(w, tiles, self.full((plan.parents, plan.block)))
            self.store(self.x.rates, self.span(i, i + w - 1) + a, over(jnp.sum(change, 1), m))
            return carry

        self.over_parents(parents, int32(0))

    # Down -----------------------------------------------------------------------------------------

    def gained(self, got, starts, w, i, a):
        """What the nonterminals of a span have got."""
        at = self.span(i, i + w - 1) + a
        p = self.load(got, at) + self.load(got, self.plane + at)
        return p + jnp.where(w == self.limit, self.load(starts, a), 0.0)

    def share_rules(self, w, i):
        """Hands what the nonterminals of a span get to rules and pairs: over m, in its place."""
        plan, x = self.plan, self.x

        def tiles(left, right, carry):
            place = self.place(left, right)

            def parents(a, carry):
                total, *change = carry
                m, terms = self.weights(w, i, a)
                p, weight = self.gained(x.got, x.starts, w, i, a), terms(place)
                found = q = weight * over(p, m)[:, None]
                if self.rate:
                    dp = self.gained(x.dgot, x.dstarts, w, i, a)
                    d = self.load(x.rates, self.span(i, i + w - 1) + a)
                    found = weight * over(dp - p * d, m)[:, None] + q * self.rates_of(a, place)
                    change = [change[0] + jnp.sum(found, 0)]
                at = self.program * int32(plan.phrases * plan.cells) + self.rule(a, place)
                self.store(x.out, at, self.load(x.out, at) + found)
                return total + jnp.sum(q, 0), *change

            zero = self.full((plan.block,))
            total, *change = self.over_parents(parents, (zero, *[zero] * self.rate))
            at = self.pair(place) + self.flat[0]
            m = self.load(x.pairs, at)
            if self.rate:
                last = at + int32(2 * plan.cells)
                change = [over(change[0] - total * self.load(x.pairs, last), m)]
            self.barrier()  # until all threads have read what is written over
            self.store(x.pairs, at, over(total, m))
            if self.rate:
                self.store(x.pairs, last, change[0])
            return carry

        self.over_tiles(w, tiles, int32(0))

    def share_cuts(self, w, i):
        """Hands what the pairs of a span get to the parts of all cuts."""
        j = i + w - 1

        def cut(m, carry):
            left, right = self.kinds(m - i + 1), self.kinds(j - m)
            for axis, tiles, others in ((1, left, right), (0, right, left)):

                def give(tile, carry, others=others, axis=axis):
                    self.give(i, m, j, tile, others, axis)
                    return carry

                lax.fori_loop(*tiles, give, int32(0))
            return carry

        lax.fori_loop(i, j, cut, int32(0))

    def give(self, i, m, j, tile, others, axis):
        """What a tile of a left part (axis 1) or right part (axis 0) gets, over all symbols of the
        other part, which are on this axis."""
        plan, x = self.plan, self.x
        spans = (i, m), (m + 1, j)
        own, far = spans if axis == 1 else spans[::-1]
        part = self.symbols(*own, tile)

        def column(ref, at):
            return jnp.expand_dims(self.load(ref, at), axis)

        def row(ref, at):
            return jnp.expand_dims(self.load(ref, at), 1 - axis)

        def beside(tile_beside, carry):
            total, *change = carry
            place = self.place(*((tile, tile_beside) if axis == 1 else (tile_beside, tile)))
            pair, other = self.pair(place) + self.cell, self.symbols(*far, tile_beside)
            e = column(x.parts, self.plane + part) + row(x.parts, self.plane + other)
            weight = power_of_two(e - self.load(x.pairs, pair + int32(plan.cells)))
            weight *= row(x.parts, other)
            q = weight * self.load(x.pairs, pair)
            if self.rate:
                d = column(x.rates, part) + row(x.rates, other)
                more = weight * self.load(x.pairs, pair + int32(2 * plan.cells))
                change = [change[0] + more + q * d]
            return total + q, *change

        zero = self.full(self.cell.shape)
        sums = lax.fori_loop(*others, beside, (zero, *[zero] * self.rate))
        found = self.load(x.parts, part)
        at = part if axis == 1 else self.plane + part
        for ref, total in zip((x.got, x.dgot) if self.rate else (x.got,), sums, strict=True):
            self.store(ref, at, self.load(ref, at) + jnp.sum(total, axis) * found)
