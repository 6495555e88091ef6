"""The Pallas kernels of chains for GPUs: a program goes over the steps of one example.

Beside the references of `gpu_step.py`:

    ends, tends      (2, rows) messages of the last step, (rows,) their tangents
    final, dfinal    (rows,) probabilities of the last state, and their tangents
    dscores, dlinks  what goes out, like scores and links
    tscores, tlinks  the tangents that come in
    ring             (planes, slots, ways, rows) probabilities of the ways at the last times
    dg               (steps + 1, rows) tangents of g, less what all paths have gained by then
    gained           (2, steps + 1) that, as a pair
    work             (5, rows), see `gpu_tiles.py`, for links in tiles

The forward sweep leaves g, and all others make f and the weights of a step again from there.
"""

from jax import numpy as jnp

from keras_struct.ops.chain.gpu_step import Step, int32, load
from keras_struct.ops.chain.gpu_tiles import (
    back_by_tiles,
    no_links,
    rates_by_tiles,
    sum_by_tiles,
)
from keras_struct.ops.exact_sum import two_sum
from keras_struct.ops.numerics import FORBIDDEN


def forward(plan, barrier, op, x):
    """To messages before every step, and those of the last one."""
    step = Step(plan, barrier, x, op)
    g = step.start()
    step.write(x.g, int32(0), g)
    barrier()

    def body(t, carry):
        f, _ = step.enter(t, carry[0])
        g = sum_by_tiles(step, t, f) if plan.tile else step.link(t, f)
        step.write(x.g, t + 1, g)
        if plan.tile or not step.one_way:
            barrier()
        return g, f

    _, (high, low) = step.over(body, (g, _before_all(step)))
    x.ends[0, :], x.ends[1, :] = high, low


def _before_all(step):
    """The ends of an example without steps."""
    high = jnp.where(step.states == 0, 0.0, FORBIDDEN).astype(step.x.scores.dtype)
    return high, jnp.zeros_like(high)


def backward(plan, barrier, x):
    """Marginals of scores and links."""
    step = Step(plan, barrier, x)
    final = x.final[:]

    def body(t, carry):
        q, links = carry
        f, shares = step.enter(t, step.read(x.g, t))
        p = q
        if plan.tile:
            p = back_by_tiles(step, t, f, q) + step.ended(t, final)
        elif plan.links:
            weights, total = step.weights(t, f)
            pair = weights * (q[None] / total)
            p = jnp.sum(pair, 1) + step.ended(t, final)
            links = _pairs(step, t, links, pair)
        if step.one_way:
            step.give(t, p)
            return p, links
        used = _every_path(plan, shares * p[None])
        step.give(t, used)
        return step.into(t, used), links

    q = step.vector(0.0) if plan.links else final
    _, links = step.over(body, (q, _no_pairs(step)), back=True)
    if plan.links == "shared" and not plan.tile:
        x.dlinks[:, :] = links


def _every_path(plan, used):
    """With moves, every path moves once at every step: no rounding adds up over time."""
    if not plan.moves:
        return used
    total = jnp.sum(jnp.sum(used, 0))
    return used / jnp.maximum(total, jnp.asarray(0.5, used.dtype))


def _no_pairs(step):
    if step.plan.tile:
        no_links(step)
    if step.table is None:
        return int32(0)
    return jnp.zeros_like(step.table)


def _pairs(step, t, links, pair):
    """Sums of the marginals of links, or those of a time."""
    if step.plan.links == "shared":
        return links + pair
    step.x.dlinks[t, :, :] = pair
    return links


def tangent(plan, barrier, x):
    """Tangents of the messages before every step, and of those of the last one."""
    step = Step(plan, barrier, x)
    zero = step.vector(0.0)
    x.dg[0, :] = zero
    if step.one_way:
        none = int32(0), int32(0)
    else:
        none = (jnp.zeros((), zero.dtype),) * 2
        x.gained[0, 0], x.gained[1, 0] = none
        barrier()

    def body(t, carry):
        dg, gained, _ = carry
        f, shares = step.enter(t, step.read(x.g, t))
        df, _ = _rates(step, t, shares, dg, gained)
        dg = df
        if plan.tile:
            dg = rates_by_tiles(step, t, f, df)
        elif plan.links:
            weights, total = step.weights(t, f)
            gains = df[:, None] + step.links(x.tlinks, t)
            dg = jnp.sum(weights * gains, 0) / jnp.squeeze(total, 0)
        # What all prefixes gain alike changes no weight, but would grow with time.
        gain = jnp.sum(step.filtered(f) * df)
        dg = dg - gain
        x.dg[t + 1, :] = dg
        if not step.one_way:
            high, error = two_sum(gained[0], gain)
            gained = high, gained[1] + error
            x.gained[0, t + 1], x.gained[1, t + 1] = gained
            barrier()
        return dg, gained, df

    _, _, df = step.over(body, (zero, none, zero))
    x.tends[:] = df


def _rates(step, t, shares, dg, gained):
    """Tangents of the messages of a step, and those of its ways."""
    x = step.x
    score = step.score(x.tscores, t)
    if step.one_way:
        return dg + score, None
    time, place, exists = step.source(t)
    rates = load(x.dg, (time, place), exists, 0.0) + score
    if not step.plan.moves:
        plane = jnp.zeros_like(time)
        high, low = (load(x.gained, (plane + n, time), exists, 0.0) for n in range(2))
        rates = rates + ((high - gained[0]) + (low - gained[1]))
    return jnp.sum(shares * rates, 0), rates


def curvature(plan, barrier, x):
    """Tangents of the marginals, after `tangent`."""
    step = Step(plan, barrier, x)
    final, dfinal = x.final[:], x.dfinal[:]

    def body(t, carry):
        q, dq, links = carry
        f, shares = step.enter(t, step.read(x.g, t))
        if step.one_way:
            df, rates = _rates(step, t, None, x.dg[t, :], None)
        else:
            df, rates = _rates(step, t, shares, None, (x.gained[0, t], x.gained[1, t]))
        p, dp = q, dq
        if plan.tile:
            p, dp = back_by_tiles(step, t, f, q, (df, dq))
            p, dp = p + step.ended(t, final), dp + step.ended(t, dfinal)
        elif plan.links:
            weights, total = step.weights(t, f)
            gains = df[:, None] + step.links(x.tlinks, t)
            mean = jnp.sum(weights * gains, 0, keepdims=True) / total
            pair = weights * (q[None] / total)
            dpair = weights * (dq[None] / total) + pair * (gains - mean)
            p = jnp.sum(pair, 1) + step.ended(t, final)
            dp = jnp.sum(dpair, 1) + step.ended(t, dfinal)
            links = _pairs(step, t, links, dpair)
        if step.one_way:
            step.give(t, dp)
            return p, dp, links
        used = _every_path(plan, shares * p[None])
        dused = shares * dp[None] + used * (rates - df[None])
        step.give(t, dused)
        return step.into(t, used), step.into(t, dused, 1), links

    q, dq = (step.vector(0.0),) * 2 if plan.links else (final, dfinal)
    _, _, links = step.over(body, (q, dq, _no_pairs(step)), back=True)
    if plan.links == "shared" and not plan.tile:
        x.dlinks[:, :] = links
