"""The Pallas kernels of charts for GPUs (see `gpu_chart.py`).

q, dq    at (product, width, start): probabilities over m of products, and their tangents
d        tangents of the logarithms of items and products
wrapped  (numbers, width, start) what spans that wrap another one get
out      (scored item, width - 1, start) what scored spans get
tscores  tangents of the scores, like those
"""

from jax import numpy as jnp

from keras_struct.ops.chart.gpu_chart import Chart
from keras_struct.ops.gpu_scaled import over
from keras_struct.ops.pallas import power_of_two
from keras_struct.ops.scaled import EMPTY


def forward(plan, barrier, op, x):
    """All items and products: the tape."""
    Chart(plan, barrier, x, op).inside()


def backward(plan, barrier, x):
    """Probabilities of scored items."""
    chart = Chart(plan, barrier, x)

    def gather(k, w, first):
        (p,) = _gathered(chart, k, w, first, False)
        return [p]

    def divide(k, w, first, values):
        m = chart.load(x.m, plan.product(k), w, first + chart.place)
        chart.store(x.q, k, w, first, over(values[0], m))

    chart.down([1.0], gather, divide, [x.out])


def curvature(plan, barrier, x):
    """The derivative of these along tangents of the scores."""
    chart = Chart(plan, barrier, x)
    tangents(chart)
    barrier()

    def gather(k, w, first):
        return _gathered(chart, k, w, first, True)

    def divide(k, w, first, values):
        at = plan.product(k), w, first + chart.place
        m, d = chart.load(x.m, *at), chart.rate(*at)
        p, dp = values
        chart.store(x.q, k, w, first, over(p, m))
        chart.store(x.dq, k, w, first, over(dp - p * d, m))

    chart.down([1.0, 0.0], gather, divide, [None, x.out])


def _gathered(chart, k, w, first, rates):
    """What an item gets as part of products: its probability, and with `rates` its tangent."""
    x, plan = chart.x, chart.plan
    start = first + chart.place
    m, e = chart.number(k, w, start)
    sums = [chart.sums()] * (2 if rates else 1)
    for j, other, count, cut_at in chart.above(k, w, first):

        def body(cut, sums, j=j, other=other, cut_at=cut_at):
            part, whole, there = cut_at(cut)
            om, oe = chart.number(other, *part, there)
            minus = chart.load(x.e, plan.product(j), *whole, there, EMPTY)
            q = chart.load(x.q, j, *whole, there)
            share = om * power_of_two((e[None] + oe) + minus)
            found = [sums[0] + share * q]
            if rates:
                dq = chart.load(x.dq, j, *whole, there)
                rate = dq + q * chart.rate(other, *part, there)
                found.append(sums[1] + share * rate)
            return found

        sums = chart.over_cuts(count, body, sums)
    if not rates:
        return [jnp.sum(sums[0], 0) * m]
    p, dp = (jnp.sum(x, 0) for x in sums)
    return [p * m, (dp + p * chart.rate(k, w, start)) * m]


def tangents(chart):
    """Tangents of the logarithms of products and items."""
    x, spec, plan = chart.x, chart.spec, chart.plan

    def step(w, first):
        start = first + chart.place
        made = {}
        for kind, k in spec.order:
            if kind == "product":
                made[k] = rate_of(k, w, first)
                chart.store(x.d, plan.product(k), w, first, made[k])
                continue
            item = spec.items[k]
            if item.wraps is None:
                rate = made[item.product]
            else:
                rate = chart.rate(item.wraps, w - 2, start + 1)
            if item.unit == 1:
                rate = jnp.where(w == 1, 0.0, rate)
            if item.scored:
                rate = rate + chart.score(x.tscores, k, w, start)
            chart.store(x.d, k, w, first, rate)
            chart.barrier()

    def rate_of(k, w, first):
        p, start = spec.products[k], first + chart.column
        at = plan.product(k), w, first + chart.place
        m, minus = chart.load(x.m, *at), chart.load(x.e, *at, other=EMPTY)
        least, count = chart.cuts_of(k, w)

        def body(cut, total):
            (lm, le), (rm, re) = chart.terms(k, w, start, least + cut)
            left, right, there = chart.parts(k, w, start, least + cut)
            rate = chart.rate(p.left, *left, there)
            rate = rate + chart.rate(p.right, *right, there)
            share = (lm * rm) * power_of_two((le + re) + minus[None])
            return total + share * rate

        return over(jnp.sum(chart.over_cuts(count, body, chart.sums()), 0), m)

    chart.each(step)
