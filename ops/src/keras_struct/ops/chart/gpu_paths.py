"""The best structure of a chart on a GPU, or a sample: a program has one sample of one sentence.

`used` (n, 1 + places) is how many spans are used, and what they are, as numbers
`(item (N + 1) + width) (N + 1) + start`, the whole first: those whose parts are yet to be found are
the end of the list.

    keys  (2, n) of every sample
"""

from jax import lax
from jax import numpy as jnp
from jax.experimental import pallas as pl

from keras_struct.ops.chart.gpu_chart import Chart, int32
from keras_struct.ops.chart.spec import NOISE_STRIDE
from keras_struct.ops.gpu import power
from keras_struct.ops.noise import Draws
from keras_struct.ops.pallas import power_of_two


def walk(plan, barrier, op, noisy, x):
    """Which spans are used."""
    n = pl.program_id(1)
    draws = Draws((x.keys[0, n], x.keys[1, n])) if noisy else None
    chart = Walk(plan, barrier, x, op, draws)
    x.used[n, 1] = chart.code(plan.spec.goal, chart.limit, int32(0))
    barrier()

    def going_on(carry):
        done, count = carry
        return done < count

    def step(carry):
        done, count = carry
        parts = chart.parts_of(x.used[n, 1 + done])
        for part in parts:
            # Beyond the end if there is none: a part that comes next takes its place.
            x.used[n, 1 + count] = part
            count = count + (part >= 0).astype(int32)
        barrier()
        return done + 1, count

    start = int32(0), (chart.limit > 0).astype(int32)
    _, count = lax.while_loop(going_on, step, start)
    x.used[n, 0] = count


class Walk(Chart):
    """`draws` is the noise of the sample, None for the best structure."""

    def __init__(self, plan, barrier, x, op, draws):
        super().__init__(plan, barrier, x, op)
        self.draws = draws
        self.cut = lax.broadcasted_iota(int32, (power(plan.n + 1),), 0)

    def code(self, k, width, start):
        size = self.plan.n + 1
        return (k * size + width) * size + start

    def parts_of(self, code):
        """Codes of the two parts of a span, or of what it wraps; -1 where there is none."""
        size = int32(self.plan.n + 1)
        line, i = lax.div(code, size), lax.rem(code, size)
        k, w = lax.div(line, size), lax.rem(line, size)
        none = jnp.minimum(code, int32(-1))  # a branch may give no constant

        def of(item):
            def wrapped():
                inner = self.code(item.wraps, w - 2, i + 1)
                return jnp.where(w > 2, inner, none), none

            def cut():
                return self.cut_of(item.product, w, i)

            found = cut if item.wraps is None else wrapped
            if item.unit != 1:
                return found
            return lambda: lax.cond(w == 1, lambda: (none, none), found)

        return lax.switch(k, [of(item) for item in self.spec.items])

    def cut_of(self, j, w, i):
        """Codes of the parts of a product, whose cut is the best one, or drawn."""
        p, u = self.spec.products[j], self.cut
        start = jnp.full_like(u, i)
        (lm, le), (rm, re) = self.terms(j, w, start, u)
        whole = self.load(self.x.e, self.plan.product(j), w, start)
        share = (lm * rm) * power_of_two((le + re) + whole)
        if self.draws is not None:
            # The largest share times weight is that of the largest log-share with noise.
            places = w * NOISE_STRIDE + start + u + p.gap
            share = share * jnp.exp(self.draws.gumbel(j, places, share.dtype.name))
        best = lax.argmax(share, 0, int32)
        v = w - p.gap - best
        left, right = self.code(p.left, best, i), self.code(p.right, v, i + best + p.gap)
        return jnp.where(best > 0, left, -1), jnp.where(v > 0, right, -1)
