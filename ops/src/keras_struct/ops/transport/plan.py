"""The plan itself, from scores that are stored: for maps that somebody looks at, and any mask."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

from keras import ops

from keras_struct.ops import array, autodiff
from keras_struct.ops.annotations import ArrayLike, Pair
from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE, clean, compute_dtype
from keras_struct.ops.structure import (
    as_potential,
    as_temperature,
    batch_of,
    check_rank,
    flatten_batch,
    restore_batch,
)
from keras_struct.ops.transport.matching import has_plan
from keras_struct.ops.transport.places import there_are
from keras_struct.ops.transport.problem import check_count, pair, relaxations
from keras_struct.ops.transport.reduced import CHUNK, CHUNKS, Reduced, residual_of
from keras_struct.ops.validation import Checks, concrete

WARNED = 1e-2  # residual above which a plan is not what was asked for


class SinkhornPlan(NamedTuple):
    """A plan, and how far from solved it is.

    Attributes:
        plan: (..., L1, L2).
        residual: (...,), as of `Sinkhorn`, over the rows that have any pair; no gradient.
    """

    plan: Any
    residual: Any


def sinkhorn_plan(
    scores: ArrayLike,
    lengths: Pair = None,
    temperature: ArrayLike = 1.0,
    base_steps: int | None = None,
    tail_steps: int = 2,
    kl_weights: tuple[ArrayLike | None, ArrayLike | None] = (None, None),
    mask: Pair = None,
    return_residual: bool = False,
) -> Any:
    """The transport plan of stored scores, each row and column of mass 1: an attention map.

    `sinkhorn_tail` for scores of any origin and any mask, with the plan as output: a base under a
    stopped gradient, then `tail_steps` with gradient. Columns are updated last and have their mass;
    rows have theirs once the steps have converged. Memory is O(tail_steps · L1 · L2). Derivatives
    of any order are autodiff's.

    By default the base takes as many steps as it needs: the temperature is lowered to the one that
    was asked for, halved every 10 steps, and steps go on until the masses of the rows are met to
    1e-3, 1,000 steps at most (100 where PyTorch traces). Scores take up the potentials, so a plan
    is as exact at 1e-6 as at 1.
    Where masses are off by more than 1e-2 all the same (few `base_steps`, or a mask that allows no
    plan, such as two rows that share their only column), a `RuntimeWarning` says so and why; not
    inside a compiled function or on an accelerator: `return_residual` does everywhere.

    With L1 != L2 the masses cannot agree: columns sum to 1, rows to L2 / L1, and the residual says
    so. A row or a column without any pair is no part of the problem, and 0.

    Args:
        scores: (..., L1, L2); minus infinity for a pair that must not be.
        lengths: Pair of integers (...,), of the rows and of the columns; None for L1 and L2.
        temperature: Positive number, tensor or variable, () or (...,), that divides the scores.
        base_steps: Number of steps of the base, at the temperature itself; None for as many as
            needed.
        tail_steps: See `sinkhorn_tail`.
        kl_weights: See `sinkhorn_tail`.
        mask: Pair of booleans (..., L1) and (..., L2), each None for all True: rows and columns
            that are False are no part of the problem, wherever they stand.
        return_residual: Whether to return a `SinkhornPlan`.

    Returns:
        (..., L1, L2) in the dtype of the scores; 0 in the padding and for what must not be. Or a
        `SinkhornPlan` of it and its residual.

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
    if base_steps is not None:
        check_count("base_steps", base_steps, 0)
    check_count("tail_steps", tail_steps, 0)
    scores = as_potential("scores", scores)
    check_rank("scores", scores, 2, "L1, L2")
    batch_shape, dtype = batch_of(scores, 2), compute_dtype(scores.dtype)
    if isinstance(temperature, (int, float)) and temperature == 0:
        raise ValueError("Expected a temperature > 0. Received: temperature=0")
    checks = Checks()
    temperature = as_temperature(temperature, batch_shape, dtype, checks)
    row, column = (
        there_are(name, size, n, kept, batch_shape, checks)
        for name, size, n, kept in zip(
            ("rows", "columns"),
            ops.shape(scores)[-2:],
            pair("lengths", lengths),
            pair("mask", mask),
            strict=True,
        )
    )
    checks.run()
    reduced = Reduced(relaxations(kl_weights), base_steps)
    flat = ops.cast(flatten_batch(scores, 2), dtype)
    if 0 in flat.shape[1:]:
        plan, residual = flat, ops.sum(flat, axis=(1, 2))
    else:
        flat = clean(flat, ops.logical_and(row[:, :, None], column[:, None]), 0.0, temperature)
        exists = ops.logical_and(
            ops.logical_and(row[:, :, None], column[:, None]), flat > INFEASIBLE
        )
        flat = array.where(exists, flat, ops.full_like(flat, FORBIDDEN))
        plan, residual = _plan(reduced, flat, exists, tail_steps)
    plan = ops.cast(restore_batch(plan, batch_shape), scores.dtype)
    if not return_residual:
        return plan
    return SinkhornPlan(plan, restore_batch(residual, batch_shape))


def _plan(reduced, scores, exists, tail_steps):
    """The plan (B, L1, L2) and its residual; warns where that is large."""
    stopped = ops.stop_gradient(scores)
    base, *up = map(ops.stop_gradient, autodiff.compiled(reduced, "solve", stopped))
    scores = base + (scores - stopped)  # the gradient of the scores, the numbers of the base
    f, g = map(ops.zeros_like, up)
    for _ in range(tail_steps):
        f = reduced.rows(scores, up, g)
        g = reduced.columns(scores, up, f)
    logits = array.where(exists, scores + f[:, :, None] + g[:, None], scores)
    plan = array.where(exists, array.exp(logits), ops.zeros_like(scores))
    drift = ops.stop_gradient(reduced.drift(base, up, f, g))
    if array.platform(scores) == "cpu":  # no value is waited for
        _warn(concrete(reduced.even(base, drift)), exists, reduced)
    return plan, residual_of(base, drift)


def _warn(residuals, exists, reduced):
    """Say that masses are not met, where it is known."""
    if residuals is None or not residuals.size or not residuals.max() > WARNED:
        return
    worst = int(residuals.argmax())
    steps, why = CHUNK * CHUNKS, "a higher temperature meets it sooner"
    if reduced.steps is not None:
        steps, why = reduced.steps, "take more base_steps (None: as many as needed)"
    if reduced.relax == (1.0, 1.0) and not _any_plan(ops.convert_to_numpy(exists[worst])):
        why = "no plan has these masses under this mask"
    warnings.warn(
        f"sinkhorn_plan: the mass of a row is off by {residuals[worst]:.2g} of itself after "
        f"{steps} steps (example {worst}): {why}",
        RuntimeWarning,
        stacklevel=4,
    )


def _any_plan(exists):
    rows, columns = exists.any(1).sum(), exists.any(0).sum()
    return rows != columns or has_plan(exists)  # with L1 != L2 only the ratio is asked for
