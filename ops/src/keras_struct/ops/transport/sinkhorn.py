"""Entropic transport between queries and keys: its potentials, and attention with its plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_struct.ops import autodiff
from keras_struct.ops.annotations import ArrayLike, Pair, Tensor
from keras_struct.ops.structure import restore_batch
from keras_struct.ops.symbolic import whole
from keras_struct.ops.transport.problem import (
    Problem,
    check_count,
    checked_schedule,
    values_for_keys,
)
from keras_struct.ops.transport.solver import Solver
from keras_struct.ops.transport.tail import Tail, Unrolled

MODES = ("tail", "unrolled", "implicit")


class Dustbin(NamedTuple):
    """A place on each side that takes what matches nothing.

    Attributes:
        query: (D,) or (..., D), the features of the dustbin among the queries.
        key: (D,) or (..., D), those of the dustbin among the keys.
        value: (V,) or (..., V), what a query gets that is sent to the dustbin; None for zeros.
        capacities: Masses of both dustbins: of the one among the queries, which takes keys, and of
            the one among the keys, which takes queries. Positive numbers, or (...,), without a
            gradient.
        support: `"spoke"`: on top of the band, every query reaches the dustbin of the keys and
            every key that of the queries, at linear cost. `"block"`: the band is as wide as that,
            as published: all pairs exist.
    """

    query: Any
    key: Any
    value: Any = None
    capacities: tuple[Any, Any] = (1.0, 1.0)
    support: str = "spoke"


class Sinkhorn(NamedTuple):
    """Potentials of a plan `P_ij = exp(s_ij + rows_i + columns_j)`.

    Attributes:
        rows: f, (..., L1); with a dustbin (..., 1 + L1), that first.
        columns: g, (..., L2); the same.
        residual: (...,), the largest factor, less 1, by which the mass of a row is not what it
            should be; 0 when solved. All columns have theirs, for they were updated last.
    """

    rows: Any
    columns: Any
    residual: Any


@whole(Sinkhorn)
def sinkhorn(
    query: ArrayLike,
    key: ArrayLike,
    lengths: Pair = None,
    epsilon: ArrayLike = 1.0,
    band_width: int | None = None,
    steps: int = 100,
    schedule: Sequence[tuple[float, int]] = (),
    masses: ArrayLike | None = None,
    kl_weights: tuple[ArrayLike | None, ArrayLike | None] = (None, None),
    dustbin: Dustbin | None = None,
    mask: Pair = None,
    implementation: str | None = None,
) -> Sinkhorn:
    """Potentials of entropic transport between queries and keys, each of mass 1.

    The score of a pair is `s_ij = query_i . key_j / (epsilon sqrt(D))`, on all pairs or on the band
    |i - j| <= `band_width`. Each step sets `f_i = -log sum_j exp(s_ij + g_j)`, then
    `g_j = -log sum_i exp(s_ij + f_i)`, in tiles: memory is O((L1 + L2) D) beside one tile, time
    O(steps · L1 · width). Differentiable by autodiff of all steps; `sinkhorn_tail` costs less.

    With as many rows as columns the plan becomes doubly stochastic. With L1 != L2 the masses cannot
    agree: the columns sum to 1, the rows to L2 / L1 in the mean, and `residual` says so.

    Args:
        query: (..., L1, D).
        key: (..., L2, D).
        lengths: Pair of integers (...,), of the queries and of the keys; None for L1 and L2.
        epsilon: Positive number, tensor or variable, () or (...,).
        band_width: Half of the width of the band, or None for all pairs.
        steps: Number of steps, at least 1.
        schedule: Pairs (factor, steps): steps before the others at `factor · epsilon`, each from
            where the one before ended (epsilon scaling, for small epsilon).
        masses: Pair of positive (..., L1) and (..., L2), each None for 1; without a gradient.
        kl_weights: Pair: weight of the Kullback-Leibler divergence of the masses of the rows, and
            of the columns, from `masses`, in units of epsilon (unbalanced transport); None where
            the masses must be met.
        dustbin: `Dustbin`, or None.
        mask: Pair of booleans (..., L1) and (..., L2), each None for all True: a place that is
            False is not part of its sequence, wherever it stands. The result is that without it,
            so the band counts the places that are left.
        implementation: `"pallas_tpu"`, `"pallas_gpu"` (kernels on JAX) or `"triton_gpu"` (on
            PyTorch), `"stored"` (the plans of the batch are kept and scaled: no band, at most 2**24
            pairs) or `"tiled"`; with kernels and with the last nothing of size L1 x L2 exists. By
            default the first that takes the call.

    Returns:
        `Sinkhorn`; the potentials are 0 in the padding, and where nothing can be reached.

    Raises:
        ValueError: For shapes, lengths or numbers that do not fit; and for an epsilon so small that
            rounding decides: float32 tells scores apart up to 1.7e6, float64 up to 9e14. (Values
            that are traced or on an accelerator are not looked at: above that, the result means
            nothing. `sinkhorn_plan` has no such limit.)
        NotImplementedError: For an implementation that does not take this call.

    Example:

    >>> import numpy as np
    >>> from keras_struct import ops
    >>> x = np.random.default_rng(0).normal(size=(1, 6, 4)).astype("float32")
    >>> found = ops.sinkhorn(x, x[:, ::-1].copy(), steps=50)
    >>> print(np.array(found.residual) < 1e-4)
    [ True]

    Source: Cuturi (2013), Sinkhorn distances: lightspeed computation of optimal transport; Chizat
    et al. (2018), Scaling algorithms for unbalanced optimal transport problems, section 4.
    """
    check_count("steps", steps, 1)
    problem = Problem(
        "sinkhorn",
        query,
        key,
        lengths,
        mask,
        epsilon,
        band_width,
        masses,
        kl_weights,
        dustbin,
        implementation,
    )
    solver = Solver(problem.half, steps, checked_schedule(schedule))
    f, g, residual = autodiff.compiled(solver, "report", *problem.sides)
    residual = restore_batch(residual, problem.batch_shape)
    return Sinkhorn(problem.restore(0, f), problem.restore(1, g), residual)


@whole()
def sinkhorn_tail(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    lengths: Pair = None,
    epsilon: ArrayLike = 1.0,
    band_width: int | None = None,
    base_steps: int = 20,
    tail_steps: int = 2,
    gradient: str = "tail",
    schedule: Sequence[tuple[float, int]] = (),
    masses: ArrayLike | None = None,
    kl_weights: tuple[ArrayLike | None, ArrayLike | None] = (None, None),
    dustbin: Dustbin | None = None,
    mask: Pair = None,
    implementation: str | None = None,
) -> Tensor:
    """Attention with a transport plan: `sum_j P_ij value_j`, and a gradient of fixed depth.

    `base_steps` steps of `sinkhorn` are taken under a stopped gradient, then `tail_steps` more from
    there, through which the gradient flows, exactly: no more of the solution is remembered than its
    last potentials. The plan is that after the tail; its rows are not normalised again. Neither the
    forward nor the backward pass stores an array of size L1 x L2: both take tiles of scores, at
    O((base_steps + tail_steps) · L1 · width) time. Only where a batch has no band and at most 2**24
    pairs are plans kept, 64 MiB in float32, and scaled. Second derivatives are autodiff's.

    The gradient of a tail is biased, for the base has none: more so the colder, and on a band.
    Norm of the difference over that of `gradient="unrolled"`, random normal inputs of 16 to 256
    places, by `tail_steps`:

    | inputs | 1 | 2 (default) | 4 | 8 |
    |---|---|---|---|---|
    | epsilon = 1 | 2-15 % | 0.1-3 % | up to 0.1 % | 0 |
    | epsilon = 1, band of 8 | 13-21 % | 5-6 % | 1-4 % | 0-2 % |
    | epsilon = 0.5 | 8-31 % | 2-11 % | 0.2-2 % | up to 0.2 % |
    | epsilon = 0.25 | 26-46 % | 10-23 % | 3-9 % | 1-2 % |
    | epsilon = 0.25, band of 8 | 46-53 % | 21-26 % | 11-12 % | 5 % |
    | epsilon = 0.1 | 64-71 % | 36-42 % | 18-23 % | 7-10 % |

    `sinkhorn_tail_bias` has it for given inputs, `certified_tail_steps` the depth for a tolerance.

    Args:
        query: (..., L1, D).
        key: (..., L2, D).
        value: (..., L2, V).
        lengths: Pair of integers (...,), of the queries and of the keys; None for L1 and L2.
        epsilon: Positive number, tensor or variable, () or (...,); it has a gradient, too.
        band_width: Half of the width of the band |i - j| <= band_width, or None for all pairs.
        base_steps: T, steps under the stopped gradient.
        tail_steps: R, steps with gradient; with 0 the plan is a constant scaling of exp(scores).
        gradient: `"tail"`; `"unrolled"`, autodiff of all steps, which remembers every plan;
            `"implicit"`, the gradient of the solution itself, by as many steps of the adjoint
            recurrence as the base has, at its last plan.
        schedule: See `sinkhorn`; before the base steps.
        masses: See `sinkhorn`.
        kl_weights: See `sinkhorn`.
        dustbin: `Dustbin`, or None.
        mask: See `sinkhorn`.
        implementation: See `sinkhorn`.

    Returns:
        (..., L1, V) in the dtype of the values; 0 in the padding.

    Raises:
        ValueError: See `sinkhorn`.
        NotImplementedError: For an implementation that does not take this call.

    Example:

    >>> import numpy as np
    >>> from keras_struct import ops
    >>> x = np.random.default_rng(0).normal(size=(2, 8, 4)).astype("float32")
    >>> np.array(ops.sinkhorn_tail(x, x, x, band_width=2)).shape
    (2, 8, 4)

    Source: Forde (2026), Block-wise differentiable Sinkhorn attention (tail refinement, one
    reference tile). See recurrence.md of `transport`.
    """
    check_count("base_steps", base_steps, 0)
    check_count("tail_steps", tail_steps, 0)
    if gradient not in MODES:
        raise ValueError(f"Expected a gradient among {MODES}. Received: gradient={gradient!r}")
    checked = checked_schedule(schedule)
    problem = Problem(
        "sinkhorn_tail",
        query,
        key,
        lengths,
        mask,
        epsilon,
        band_width,
        masses,
        kl_weights,
        dustbin,
        implementation,
        value,
    )
    value = values_for_keys(value, key)
    rows, columns, masses, lengths = problem.sides
    inputs = rows, columns, problem.values(value)
    solver = Solver(problem.half, base_steps, checked)
    adjoint_steps = max(1, base_steps) if gradient == "implicit" else None
    tail = Tail(problem.half, tail_steps, adjoint_steps)
    if gradient == "unrolled":
        # TensorFlow's graph optimizer breaks gradients of loops in a branch once plans are large.
        solver = dataclasses.replace(solver, scales=keras.backend.backend() != "tensorflow")
        output = autodiff.compiled(Unrolled(solver, tail), "output", inputs, masses, lengths)
    else:
        stopped = ops.stop_gradient(rows), ops.stop_gradient(columns)
        base = autodiff.compiled(solver, "solve", *stopped, masses, lengths)
        base = map(ops.stop_gradient, base)
        output = autodiff.explicit(tail, inputs, (*base, *masses, *lengths))
    output = problem.restore(0, output)
    if dustbin is not None:
        output = output[..., 1:, :]
    return ops.cast(output, value.dtype)
