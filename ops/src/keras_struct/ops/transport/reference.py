"""Sinkhorn's iterations with whole plans, in NumPy and float64: what the tests compare with."""

import numpy as np


def support_of(lengths, sizes, band_width, spokes=False):
    """Which pairs exist, (B, L1, L2)."""
    i, j = np.arange(sizes[0])[:, None], np.arange(sizes[1])
    inside = (i < lengths[0][:, None, None]) & (j < lengths[1][:, None, None])
    if band_width is None:
        return inside
    near = abs(i - j) <= band_width
    return inside & (near | (spokes & ((i == 0) | (j == 0))))


def step(scores, exists, f, g, masses=(0.0, 0.0), relax=(1.0, 1.0)):
    """One step of both potentials."""
    f = _half(scores + g[:, None], exists, 2, masses[0], relax[0])
    return f, _half(scores + f[:, :, None], exists, 1, masses[1], relax[1])


def _half(logits, exists, axis, mass, relax):
    logits = np.where(exists, logits, -np.inf)
    some = exists.any(axis)
    peak = np.where(some, logits.max(axis, initial=-np.inf), 0.0)
    total = np.exp(logits - np.expand_dims(peak, axis)).sum(axis)
    return np.where(some, relax * (mass - peak - np.log(np.where(some, total, 1.0))), 0.0)


def plan(scores, exists, f, g):
    """(B, L1, L2)."""
    return np.where(exists, np.exp(scores + f[:, :, None] + g[:, None]), 0.0)


def solve(scores, exists, steps, **options):
    """Potentials after `steps` steps from zero."""
    f, g = np.zeros(scores.shape[:2]), np.zeros((scores.shape[0], scores.shape[2]))
    for _ in range(steps):
        f, g = step(scores, exists, f, g, **options)
    return f, g
