"""The plan itself, from scores that are stored: for maps that somebody looks at, and any mask."""

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE, clean, compute_dtype
from keras_struct.ops.structure import (
    as_lengths,
    as_potential,
    as_temperature,
    batch_of,
    check_rank,
    flatten_batch,
    restore_batch,
    time_mask,
)
from keras_struct.ops.transport.half_steps import HalfSteps
from keras_struct.ops.transport.problem import check_count, pair, relaxations
from keras_struct.ops.transport.solver import Solver
from keras_struct.ops.transport.tail import Tail
from keras_struct.ops.transport.tiled import Tiled
from keras_struct.ops.transport.tiles import Support


def sinkhorn_plan(
    scores,
    lengths=None,
    temperature=1.0,
    base_steps=20,
    tail_steps=2,
    kl_weights=(None, None),
):
    """The transport plan of stored scores, each row and column of mass 1: an attention map.

    `sinkhorn_tail` for scores of any origin and any mask, with the plan as output: `base_steps`
    steps under a stopped gradient, then `tail_steps` with gradient. Memory is O(tail_steps · L1 ·
    L2). Derivatives of any order are autodiff's.

    Args:
        scores: (..., L1, L2); minus infinity for a pair that must not be.
        lengths: Pair of integers (...,), of the rows and of the columns; None for L1 and L2.
        temperature: Positive number, tensor or variable, () or (...,), that divides the scores.
        base_steps: See `sinkhorn_tail`, as all that follow.
        tail_steps: See `sinkhorn_tail`.
        kl_weights: See `sinkhorn_tail`.

    Returns:
        (..., L1, L2) in the dtype of the scores; 0 in the padding and for what must not be.

    Raises:
        ValueError: For shapes, lengths or numbers that do not fit, or a temperature of 0, where the
            plan would be that of a linear program.

    Example:

    >>> import numpy as np
    >>> from keras_struct import ops
    >>> scores = np.array([[4.0, 1.0], [2.0, 1.0]], "float32")
    >>> print(np.array(ops.sinkhorn_plan(scores)).round(2))
    [[0.73 0.27]
     [0.27 0.73]]

    Source: Cuturi (2013), Sinkhorn distances; Forde (2026), Block-wise differentiable Sinkhorn
    attention.
    """
    check_count("base_steps", base_steps, 0)
    check_count("tail_steps", tail_steps, 0)
    scores = as_potential("scores", scores)
    check_rank("scores", scores, 2, "L1, L2")
    batch_shape, dtype = batch_of(scores, 2), compute_dtype(scores.dtype)
    if isinstance(temperature, (int, float)) and temperature == 0:
        raise ValueError("Expected a temperature > 0. Received: temperature=0")
    temperature = as_temperature(temperature, batch_shape, dtype)
    sizes = ops.shape(scores)[-2:]
    lengths = [
        as_lengths(f"lengths of {name}", n, batch_shape, size)
        for name, n, size in zip(("rows", "columns"), pair("lengths", lengths), sizes, strict=True)
    ]
    row, column = (time_mask(n, size) for n, size in zip(lengths, sizes, strict=True))
    exists = ops.logical_and(row[:, :, None], column[:, None])
    flat = ops.cast(flatten_batch(scores, 2), dtype)
    flat = clean(flat, exists, temperature)
    exists = ops.logical_and(exists, flat > INFEASIBLE)
    flat = array.where(exists, flat, ops.full_like(flat, FORBIDDEN))
    half = WholeHalfSteps(Tiled(Support(None)), relaxations(kl_weights))
    sides = flat, array.transpose(flat, (0, 2, 1))
    masses = ops.zeros_like(flat[:, :, 0]), ops.zeros_like(flat[:, 0])
    rows, columns = map(ops.stop_gradient, sides)
    base = Solver(half, base_steps).solve(rows, columns, masses, lengths)
    context = (*map(ops.stop_gradient, base), *masses, *lengths)
    fs, gs = Tail(half, tail_steps).refine((*sides, None), context)
    logits = array.where(exists, flat + fs[-1][:, :, None] + gs[-1][:, None], flat)
    plan = array.where(exists, array.exp(logits), ops.zeros_like(flat))
    return ops.cast(restore_batch(plan, batch_shape), scores.dtype)


class WholeHalfSteps(HalfSteps):
    """Half-steps whose rows and columns are the scores and their transpose, all in one tile."""

    def rows(self, sides, g):
        return _half(sides[0], g, self.relax[0], sides[2][0])

    def columns(self, sides, f):
        return _half(sides[1], f, self.relax[1], sides[2][1])


def _half(scores, other, relax, mass):
    some = ops.max(scores, axis=2) > INFEASIBLE
    sums = array.logsumexp(scores + other[:, None], 2)
    return array.where(some, relax * (mass - sums), ops.zeros_like(sums))
