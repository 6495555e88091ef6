"""A chart on a GPU: the inside pass, and the way down, by one program for each sentence.

References of a kernel are attributes of `x`; spans are at (triangle, width, start), triangles are
the items and after them the products:

    lengths  (1,), 0 where nothing exists if the kernel goes down
    m, e     items m 2^e, and of products m and -e; nothing is m = 0 and e = EMPTY
    sm, se   scores as numbers, at (scored item, width - 1, start)

Starts are worked on by S at a time, the cuts of their spans by U: arrays are (S,) or (U, S). Spans
that do not exist are neither read nor written. What one thread has stored, others read after a
barrier: before each item or product that may be made of it.
"""

import dataclasses
from typing import Any

from jax import lax
from jax import numpy as jnp
from jax.experimental.pallas import triton

from keras_struct.ops.chart.spec import Spec
from keras_struct.ops.gpu_scaled import normalised
from keras_struct.ops.pallas import power_of_two
from keras_struct.ops.scaled import EMPTY

int32 = jnp.int32


@dataclasses.dataclass(frozen=True)
class Plan:
    """Sizes.

    Attributes:
        spec: `Spec` of the chart.
        n: Widths and starts of the scores.
        starts: S, a power of two.
        cuts: U, a power of two.
    """

    spec: Spec
    n: int
    starts: int
    cuts: int

    @property
    def triangles(self):
        return len(self.spec.items) + len(self.spec.products)

    def product(self, k):
        """The triangle of a product."""
        return len(self.spec.items) + k

    def least_width(self, item):
        """Of an item as a part of a product."""
        return 0 if self.spec.items[item].unit == 0 else 1


class Chart:
    """One sentence.

    Args:
        plan: `Plan`.
        barrier: `PallasGPU.barrier` of who calls the kernel.
        x: References.
        op: "logsumexp" or "max".
    """

    def __init__(self, plan, barrier, x, op="logsumexp"):
        self.plan, self.spec, self.barrier, self.x, self.op = plan, plan.spec, barrier, x, op
        self.dtype = x.m.dtype
        self.limit = x.lengths[0]
        shape = plan.cuts, plan.starts
        self.cut = lax.broadcasted_iota(int32, shape, 0)
        self.column = lax.broadcasted_iota(int32, shape, 1)
        self.place = lax.broadcasted_iota(int32, (plan.starts,), 0)

    def zeros(self, value=0.0):
        return jnp.full((self.plan.starts,), value, self.dtype)

    def sums(self, value=0.0):
        """What a thread adds up by itself, (U, S)."""
        return jnp.full(self.cut.shape, value, self.dtype)

    # Access ---------------------------------------------------------------------------------------

    def exists(self, width, start):
        return (width >= 0) & (start >= 0) & (start + width <= self.limit)

    def load(self, ref, k, width, start, there=None, other=0.0):
        """Of spans of a triangle; `other` where there is none. `there` says where, if it is known
        already: a mask is a large part of what a cut costs."""
        there = self.exists(width, start) if there is None else there
        index = jnp.full_like(start, k), jnp.broadcast_to(width, start.shape), start
        return triton.load(ref.at[index], mask=there, other=jnp.asarray(other, ref.dtype))

    def number(self, k, width, start, there=None):
        m = self.load(self.x.m, k, width, start, there)
        return m, self.load(self.x.e, k, width, start, there, EMPTY)

    def rate(self, k, width, start, there=None):
        """The tangent of an item or product: 0 of width 0."""
        there = self.exists(width, start) if there is None else there
        return self.load(self.x.d, k, width, start, there & (width > 0))

    def store(self, ref, k, width, first, values, row=0):
        """Of the spans of a width from a start on, those that exist; `row` is that of width 0."""
        start = first + self.place
        at = k, width + row, start
        index = tuple(jnp.broadcast_to(jnp.asarray(n, int32), start.shape) for n in at)
        there = start <= self.limit - width
        triton.store(ref.at[index], values.astype(ref.dtype), mask=there)

    # Loops ----------------------------------------------------------------------------------------

    def each(self, step, back=False):
        """`step(width, first start)` of all spans from width 1 on, from narrow to wide."""
        size = int32(self.plan.starts)

        def width(n, carry):
            w = self.limit - n if back else n + 1

            def starts(n, carry):
                step(w, n * size)
                return carry

            return lax.fori_loop(int32(0), lax.div(self.limit - w + size, size), starts, carry)

        lax.fori_loop(int32(0), self.limit, width, int32(0))

    def over_cuts(self, count, body, carry):
        """`carry = body(numbers of some cuts, carry)`, (U, S) each."""
        size = int32(self.plan.cuts)

        def chunk(n, carry):
            return body(n * size + self.cut, carry)

        chunks = lax.div(jnp.maximum(count, 0) + size - 1, size)
        return lax.fori_loop(int32(0), chunks, chunk, carry)

    # Inside ---------------------------------------------------------------------------------------

    def parts(self, k, w, start, u):
        """Width and start of the left and of the right part of a product's spans, and whether there
        are such parts; u is the width of the left one, not below its least."""
        p = self.spec.products[k]
        v = w - p.gap - u
        there = (v >= self.plan.least_width(p.right)) & (start + w <= self.limit)
        if p.closed:
            there &= (start > 0) | (u == 0)
        return (u, start), (v, start + u + p.gap), there

    def terms(self, k, w, start, u):
        """Numbers of the left and of the right parts of some cuts."""
        p = self.spec.products[k]
        (u, start), (v, begin), there = self.parts(k, w, start, u)
        return self.number(p.left, u, start, there), self.number(p.right, v, begin, there)

    def cuts_of(self, k, w):
        """The least width of a left part, and how many cuts there are."""
        p, plan = self.spec.products[k], self.plan
        u, v = plan.least_width(p.left), plan.least_width(p.right)
        return u, w - p.gap - u - v + 1

    def inside(self):
        """All items and products."""
        x, spec, plan = self.x, self.spec, self.plan
        size = int32(plan.starts)

        def words(n, carry):
            for k, item in enumerate(spec.items):
                one = item.unit == 0
                self.store(x.m, k, 0, n * size, self.zeros(1.0 if one else 0.0))
                self.store(x.e, k, 0, n * size, self.zeros(0.0 if one else EMPTY))
            return carry

        lax.fori_loop(int32(0), lax.div(self.limit + size, size), words, int32(0))
        self.barrier()

        def step(w, first):
            made: dict[int, Any] = {}
            for kind, k in spec.order:
                if kind == "product":
                    m, e = made[k] = self.product(k, w, first)
                    self.store(x.m, plan.product(k), w, first, m)
                    self.store(x.e, plan.product(k), w, first, jnp.where(m > 0, -e, EMPTY))
                    continue
                m, e = self.item(k, w, first, made)
                self.store(x.m, k, w, first, m)
                self.store(x.e, k, w, first, e)
                self.barrier()

        self.each(step)

    def product(self, k, w, first):
        least, count = self.cuts_of(k, w)
        start = first + self.column
        largest = self.op == "max"

        def body(cut, carry):
            m, peak = carry
            (lm, le), (rm, re) = self.terms(k, w, start, least + cut)
            e = le + re
            new = jnp.maximum(peak, e)
            weight = (lm * rm) * power_of_two(e - new)
            before = m * power_of_two(peak - new)
            return jnp.maximum(before, weight) if largest else before + weight, new

        m, peak = self.over_cuts(count, body, (self.sums(), self.sums(2 * EMPTY)))
        e = jnp.max(peak, 0)
        weights = m * power_of_two(peak - e[None])
        m = jnp.max(weights, 0) if largest else jnp.sum(weights, 0)
        return m, jnp.where(m > 0, e, EMPTY)

    def item(self, k, w, first, made):
        item, start = self.spec.items[k], first + self.place
        if item.wraps is None:
            m, e = made[item.product]
        else:
            m, e = self.number(item.wraps, w - 2, start + 1)
        if item.unit == 1:
            m, e = jnp.where(w == 1, 1.0, m), jnp.where(w == 1, 0.0, e)
        if item.scored:
            m = m * self.score(self.x.sm, k, w, start)
            e = jnp.maximum(e + self.score(self.x.se, k, w, start), EMPTY)
        return normalised(m, e)

    def score(self, ref, k, w, start):
        there = self.exists(w, start)
        index = jnp.minimum(start, self.plan.n - 1)
        scored = self.spec.scored.index(k)
        at = jnp.full_like(start, scored), jnp.broadcast_to(w - 1, start.shape), index
        return triton.load(ref.at[at], mask=there, other=jnp.asarray(0.0, ref.dtype))

    # Down -----------------------------------------------------------------------------------------

    def above(self, k, w, first):
        """For each part that item k is of a product: the product, the item of the other part, how
        many spans have it, and a function of numbers of some of them: width and start of the other
        part and of the whole, and whether they exist."""
        plan, start = self.plan, first + self.column
        for j, p in enumerate(self.spec.products):
            widest = self.limit - w - p.gap  # of the other part
            if p.left == k:

                def right(cut, p=p):
                    v = plan.least_width(p.right) + cut
                    there = start + (w + p.gap) + v <= self.limit
                    if p.closed:
                        there &= (start > 0) | (w == 0)
                    return (v, start + w + p.gap), (w + p.gap + v, start), there

                yield j, p.right, widest - first - plan.least_width(p.right) + 1, right
            if p.right == k:

                def left(cut, p=p):
                    u = plan.least_width(p.left) + cut
                    begin = start - u - p.gap
                    there = (begin >= 0) & (start + w <= self.limit)
                    if p.closed:
                        there &= (begin > 0) | (u == 0)
                    return (u, begin), (w + p.gap + u, begin), there

                count = jnp.minimum(widest, first + (plan.starts - 1 - p.gap))
                yield j, p.left, count - plan.least_width(p.left) + 1, left

    def down(self, begin, gather, divide, outs):
        """From the whole span to its parts, with some numbers for each span.

        Args:
            begin: What the goal gets, for each number.
            gather: `gather(item, w, first)` gives what an item gets as part of products.
            divide: `divide(product, w, first, values)` keeps what products get.
            outs: References to what scored items get, for each number, or None.
        """
        x, spec = self.x, self.spec

        def step(w, first):
            into: dict[int, list] = {}
            start = first + self.place
            for kind, k in reversed(spec.order):
                if kind == "product":
                    divide(k, w, first, into[k])
                    self.barrier()
                    continue
                item = spec.items[k]
                values = gather(k, w, first)
                if k == spec.goal:
                    whole = (start == 0) & (w == self.limit)
                    values = [
                        v + jnp.where(whole, s, 0.0) for v, s in zip(values, begin, strict=True)
                    ]
                if k == spec.wrapped:
                    values = [
                        v + self.load(x.wrapped, n, w + 2, start - 1) for n, v in enumerate(values)
                    ]
                if item.scored:
                    for ref, v in zip(outs, values, strict=True):
                        if ref is not None:
                            self.store(ref, spec.scored.index(k), w, first, v, row=-1)
                if item.product is None:
                    for n, v in enumerate(values):
                        self.store(x.wrapped, n, w, first, v)
                    self.barrier()
                elif item.product in into:
                    into[item.product] = [
                        a + b for a, b in zip(into[item.product], values, strict=True)
                    ]
                else:
                    into[item.product] = values

        self.each(step, back=True)
