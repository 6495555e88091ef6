"""The tangents of both passes, compiled by Numba (see `native_plan.py`)."""

import numpy as np

from keras_struct.ops.chart.native_cuts import (
    add_scores,
    begin,
    dot,
    dot_of_sums,
    exponentiate,
    find_ends,
    find_inner,
    mean_of,
    put,
    read_items,
    total_of,
)
from keras_struct.ops.chart.native_outside import divide, uses_of, wider
from keras_struct.ops.chart.native_plan import (
    ONE,
    PRODUCT,
    ZERO,
    U,
    by_start,
    by_width,
    cuts_of,
    made_of,
    row_of,
)
from keras_struct.ops.compiled import compiled, inlined, reordered
from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE


@compiled
def curvature(plan, span, lengths, all_x, all_z, slopes, values, dscores, products):
    size, steps = plan.size, U(len(plan.number))
    y, dx, dy = np.empty(all_x.shape[1]), np.empty(all_x.shape[1]), np.empty(all_x.shape[1])
    got, dgot, dv = np.empty_like(y), np.empty_like(y), np.empty_like(y)
    q, r, dz = np.empty(all_z.shape[1]), np.empty(all_z.shape[1]), np.empty(all_z.shape[1])
    dq, dr, spare = np.empty_like(q), np.empty_like(r), np.empty(products.shape[1])
    into, dinto = np.empty((len(plan.left), size)), np.empty((len(plan.left), size))
    t, v = np.empty(size), np.empty(size)
    for b in range(U(span[0]), U(span[1])):
        n, x, z, slope, scaled = lengths[b], all_x[b], all_z[b], slopes[b, 0], slopes[b, 1] > 0.0
        if n == ZERO or values[b] <= INFEASIBLE:
            continue
        find_ends(plan, n, x, y)
        begin(plan, n, dv, dy, 0.0, 0.0)
        begin(plan, n, dx, dy, 0.0, 0.0)
        for w in range(ONE, n + ONE):
            for step in range(steps):
                k = plan.number[step]
                if plan.is_item[step]:
                    made = made_of(plan, k, w, n)
                    find_inner(made, dv, dz, 0.0, 0.0, v)
                    add_scores(made, plan.places[k, w - ONE], dscores[b], 0.0, v)
                    put(size, k, w, made.spans, v, dv, dy)
                    if scaled:
                        for i in range(made.spans):
                            v[i] *= x[by_start(size, k, i, w)]
                    put(size, k, w, made.spans, v, dx, dy)
                else:
                    row = row_of(plan, k, w, n)
                    if scaled:
                        find_rates_of_weights(row, x, y, z, slope, dx, dy, dz)
                    else:
                        find_rates_of_logs(row, x, y, z, dx, dy, dz, t)
        q[:], r[:] = (0.0, 0.0) if scaled else (FORBIDDEN, FORBIDDEN)
        got[:], dgot[:], dq[:], dr[:] = 0.0, 0.0, 0.0, 0.0
        got[by_width(size, plan.goal, n, ZERO)] = 1.0
        for down in range(n):
            w = n - down
            into[:], dinto[:] = 0.0, 0.0
            for back in range(ONE, steps + ONE):
                k = plan.number[steps - back]
                if plan.is_item[steps - back]:
                    made, places = made_of(plan, k, w, n), plan.places[k, w - ONE]
                    product = made.source if made.of == PRODUCT else ZERO
                    tables = plan, k, w, n, x, y, q, r, dx, dy, dq, dr
                    if scaled:
                        gather_rates_of_weights(*tables, dv, got, dgot)
                    else:
                        gather_rates_of_logs(*tables, got, dgot, t)
                    read_items(made, places, got, spare, into[product])
                    read_items(made, places, dgot, products[b], dinto[product])
                else:
                    row, p, dp = row_of(plan, k, w, n), into[k], dinto[k]
                    divide(row, z, scaled, slope, p, q, r, t)
                    divide_rates(row, z, scaled, slope, p, dp, dz, dq, dr, t)


@reordered
def find_rates_of_weights(row, x, y, z, slope, dx, dy, dz):
    """Rates of the logarithms of a product."""
    by = np.exp(-slope * row.gap)
    for i in range(row.spans):
        left, right, cuts = cuts_of(row, i)
        rate = dot_of_sums(x, dx, left, y, dy, right, cuts)
        dz[row.here + i] = by * rate / z[row.here + i] if z[row.here + i] > 0.0 else 0.0


@compiled
def find_rates_of_logs(row, x, y, z, dx, dy, dz, t):
    """The same in log space, where dx and dy are rates of logarithms."""
    for i in range(row.spans):
        left, right, cuts = cuts_of(row, i)
        exponentiate(x, left, y, right, cuts, -z[row.here + i], t)
        dz[row.here + i] = mean_of(t, dx, left, dy, right, cuts)


@compiled
def divide_rates(row, z, scaled, slope, p, dp, dz, dq, dr, v):
    """The rates of `divide`."""
    by = np.exp(-slope * row.gap)
    for i in range(row.spans):
        total = z[row.here + i]
        if scaled:
            v[i] = by * (dp[i] - p[i] * dz[row.here + i]) / total if total > 0.0 else 0.0
        else:
            v[i] = dp[i] / p[i] - dz[row.here + i] if p[i] > 0.0 else 0.0
    put(row.size, row.product, row.width, row.spans, v, dq, dr)


@reordered
def gather_rates_of_weights(plan, k, v, n, x, y, q, r, dx, dy, dq, dr, dv, got, dgot):
    """As `gather_weights`, and the rates of it all; dv are those of the logarithms of items."""
    for p in range(U(len(plan.left))):
        if k == plan.left[p]:
            gather_side_rates(plan, k, p, True, v, n, x, dx, q, dq, x, dv, got, dgot)
        if k == plan.right[p]:
            gather_side_rates(plan, k, p, False, v, n, y, dy, r, dr, x, dv, got, dgot)


@compiled
def gather_rates_of_logs(plan, k, v, n, x, y, q, r, dx, dy, dq, dr, got, dgot, t):
    """The same in log space, where dx are the rates of logarithms."""
    for p in range(U(len(plan.left))):
        if k == plan.left[p]:
            gather_side_rates_of_logs(plan, k, p, True, v, n, x, dx, q, dq, x, dx, got, dgot, t)
        if k == plan.right[p]:
            gather_side_rates_of_logs(plan, k, p, False, v, n, y, dy, r, dr, x, dx, got, dgot, t)


@inlined
def gather_side_rates(plan, k, p, on_left, v, n, a, da, b, db, x, dv, got, dgot):
    here, use = by_width(plan.size, k, v, ZERO), uses_of(plan, p, on_left, v, n)
    for i in range(use.start, use.stop):
        others, wholes, count = wider(use, plan.size, p, on_left, i, v, n)
        total = dot(a, others, b, wholes, count)
        rate = dot_of_sums(a, da, others, b, db, wholes, count)
        own = by_start(plan.size, k, i, v)
        got[here + i] += total * x[own]
        dgot[here + i] += (rate + dv[own] * total) * x[own]


@inlined
def gather_side_rates_of_logs(plan, k, p, on_left, v, n, a, da, b, db, x, dx, got, dgot, t):
    here, use = by_width(plan.size, k, v, ZERO), uses_of(plan, p, on_left, v, n)
    for i in range(use.start, use.stop):
        others, wholes, count = wider(use, plan.size, p, on_left, i, v, n)
        own = by_start(plan.size, k, i, v)
        exponentiate(a, others, b, wholes, count, x[own], t)
        total, rate = total_of(t, count), mean_of(t, da, others, db, wholes, count)
        got[here + i] += total
        dgot[here + i] += rate + dx[own] * total
