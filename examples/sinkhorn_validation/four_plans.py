"""The cotangent of the scores from four plans, and from one plan and a field of modifiers."""

import time

import keras
import numpy as np
from keras import ops as K

from keras_struct.ops.testing import fast
from sinkhorn_validation.problem import Problem, largest, refine

TITLE = "Four plans against one reference plan (R = 2, potentials given, whole plans)"
HEADER = (
    "L",
    "four plans, ms",
    "one plan, ms",
    "times faster",
    "plan storage, four : one",
    "max abs difference",
    "orbit, max log error",
)


def four_plans(scores, f1, f2, g0, g1, g2, cotangent, value):
    """As published without the orbit: every plan is an exponential of its own."""

    def plan(f, g):
        return K.exp(scores + f[:, :, None] + g[:, None])

    plans = {"22": plan(f2, g2), "21": plan(f2, g1), "11": plan(f1, g1), "10": plan(f1, g0)}
    gradient = K.matmul(cotangent, K.transpose(value, (0, 2, 1)))
    weighted = plans["22"] * gradient
    dg2 = K.sum(weighted, 1)
    df2 = K.sum(weighted, 2) - K.matmul(plans["22"], dg2[..., None])[..., 0]
    dg1 = -K.matmul(K.transpose(plans["21"], (0, 2, 1)), df2[..., None])[..., 0]
    df1 = -K.matmul(plans["11"], dg1[..., None])[..., 0]
    return (
        weighted
        - plans["22"] * dg2[:, None]
        - plans["21"] * df2[:, :, None]
        - plans["11"] * dg1[:, None]
        - plans["10"] * df1[:, :, None]
    )


def one_plan(scores, f1, f2, g0, g1, g2, cotangent, value):
    """One plan; the others are it, with rows and columns rescaled."""
    plan = K.exp(scores + f2[:, :, None] + g2[:, None])
    back = K.transpose(plan, (0, 2, 1))
    gradient = K.matmul(cotangent, K.transpose(value, (0, 2, 1)))
    weighted = plan * gradient
    row = K.exp(f1 - f2)
    column, first = K.exp(g1 - g2), K.exp(g0 - g2)
    dg2 = K.sum(weighted, 1)
    df2 = K.sum(weighted, 2) - K.matmul(plan, dg2[..., None])[..., 0]
    dg1 = -column * K.matmul(back, df2[..., None])[..., 0]
    df1 = -row * K.matmul(plan, (column * dg1)[..., None])[..., 0]
    modifier = (
        gradient
        - dg2[:, None]
        - df2[:, :, None] * column[:, None]
        - row[:, :, None] * (column * dg1)[:, None]
        - (row * df1)[:, :, None] * first[:, None]
    )
    return plan * modifier


def rows(smoke=False):
    for length in (32,) if smoke else (256, 512, 1024, 2048):
        problem = Problem(length=length, band_width=length, depth=64)
        query, key, value, cotangent = problem.arrays()
        scores = problem.scores(query, key)
        fs, gs = refine(scores, K.zeros_like(scores[:, 0]), problem.base_steps + 2)
        inputs = (scores, *fs[-2:], *gs[-3:], cotangent, value)
        direct, tiled = fast(four_plans), fast(one_plan)
        difference = largest([direct(*inputs) - tiled(*inputs)])
        times = _milliseconds((direct, tiled), inputs, 3 if smoke else 15)
        yield (
            length,
            f"{times[0]:.1f}",
            f"{times[1]:.1f}",
            f"{times[0] / times[1]:.2f}",
            "4 : 1",
            difference,
            _orbit_error(scores, fs, gs),
        )


def _milliseconds(functions, inputs, repeats):
    """Medians, taken in turns."""
    taken: list[list[float]] = [[] for _ in functions]
    for _ in range(repeats):
        for function, times in zip(functions, taken, strict=True):
            start = time.perf_counter()
            keras.ops.convert_to_numpy(function(*inputs))
            times.append(time.perf_counter() - start)
    return [1e3 * float(np.median(times)) for times in taken]


def _orbit_error(scores, fs, gs):
    """The largest error of the logarithm of any plan, made from the last one."""
    last = scores + fs[-1][:, :, None] + gs[-1][:, None]
    pairs = [*zip(fs, gs[:-1], strict=True), *zip(fs, gs[1:], strict=True)]
    return largest(
        scores
        + f[:, :, None]
        + g[:, None]
        - (last + (f - fs[-1])[:, :, None] + (g - gs[-1])[:, None])
        for f, g in pairs
    )
