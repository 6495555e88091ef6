"""The best structure of a chart, or samples, from the whole span down to its parts.

The place of m of a product is taken by one more than the place where a used span is cut, which is
where its right part starts; by 0 of spans that are not used. References, beside those of
`tpu_sweeps.py`:

    keys     (2, 1, LANES) of a sample
    noise    (products, places, LANES) weights of the places of one width, without a logarithm:
             the largest share times weight is that of the largest log-share with noise
"""

from jax import lax
from jax import numpy as jnp
from jax.experimental import pallas as pl

from keras_struct.ops.chart.spec import NOISE_STRIDE
from keras_struct.ops.chart.tpu_sweeps import Chart, clear_out, fill, tree
from keras_struct.ops.noise import Draws
from keras_struct.ops.pallas_tpu import LANES, SUBLANES


def walk(plan, op, noisy, x):
    """Which spans of scored items are used, of one sample after the other."""
    chart = Chart(plan, x, "walk", op)
    spec, dtype = plan.spec, x.m.dtype

    @pl.when(pl.program_id(1) == 0)
    def _():
        chart.inside(True)
        if noisy:  # behind the last place, too
            for k in range(len(spec.products)):
                fill(x.noise.at[k], 0.0)

    clear_out(x)

    def draw(w):
        """The noise of a width."""
        draws = Draws((x.keys[0, :, :], x.keys[1, :, :]))

        def places(n, _):
            first = pl.multiple_of(n * SUBLANES, SUBLANES)
            place = first + lax.broadcasted_iota(jnp.int32, (SUBLANES, LANES), 0)
            for k in range(len(spec.products)):
                gumbel = draws.gumbel(k, w * NOISE_STRIDE + place, dtype.name)
                x.noise[k, pl.ds(first, SUBLANES), :] = jnp.exp(gumbel)

        lax.fori_loop(0, (chart.limit >> 3) + 1, places, None)

    def gather(k, w, first):
        """1 for each span that is a part of a used one, else 0."""
        used = chart.zeros()
        for p, is_left, first_cut, count in chart.above(k, w, first):
            place = (chart.starts(first) + (w + p.gap + 1 if is_left else 1)).astype(dtype)

            def term(places, carry, place=place):
                found = [jnp.where(x.m[at, :] == place, 1.0, 0.0) for _, at in places]
                return (tree(jnp.maximum, [*carry, *found]),)

            (used,) = chart.cuts(first_cut, count, (used,), term)
        return [used]

    def divide(k, w, first, values):
        p, whole = spec.products[k], x.e[chart.at(plan.product(k), w, first), :]
        rows = lax.broadcasted_iota(jnp.int32, (plan.starts, LANES), 0)

        def term(places, carry):
            found = [carry]
            for left, right, place in places:
                share = x.m[left, :] * x.m[right, :]
                share = share * chart.power((x.e[left, :] + x.e[right, :]) + whole)
                if noisy:
                    share = share * x.noise[k, place, :]
                found.append((share, (rows + (place.start + 1)).astype(dtype)))
            return tree(_better, found)

        lefts, rights, count = chart.cuts_of(k, w, first)
        here = first + plan.least_width(p.left) + p.gap

        def line(n):
            return [here + n + c for c in range(plan.cuts)]

        _, place = chart.cuts([lefts, rights, line], count, (chart.zeros(), chart.zeros()), term)
        x.m[chart.at(plan.product(k), w, first), :] = jnp.where(values[0] > 0, place, 0.0)

    chart.down([1.0], gather, divide, [x.out], begin=draw if noisy else None)


def _better(one, other):
    """The better of two cuts, the first one of equals."""
    later = other[0] > one[0]
    return jnp.where(later, other[0], one[0]), jnp.where(later, other[1], one[1])
