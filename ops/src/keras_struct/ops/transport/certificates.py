"""What the tail's gradient omits, how fast the steps contract, and the orbit of their plans."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_struct.ops import array, autodiff
from keras_struct.ops.annotations import ArrayLike, Pair, Tensor
from keras_struct.ops.structure import as_potential, time_mask
from keras_struct.ops.transport.problem import Problem, check_count, values_for_keys
from keras_struct.ops.transport.reference import support_of
from keras_struct.ops.transport.sinkhorn import Dustbin
from keras_struct.ops.transport.solver import Solver
from keras_struct.ops.transport.tail import Tail
from keras_struct.ops.validation import concrete


class TailBias(NamedTuple):
    """What `sinkhorn_tail` omits of a gradient; with a dustbin its place stands first everywhere.

    Attributes:
        query: (..., L1, D), to add to the gradient of the queries: the sum is that of all steps.
        key: (..., L2, D), the same for the keys.
        rows: (..., L1), the cotangent of the stopped f: 0 but for a tail of no steps.
        columns: (..., L2), the cotangent of the stopped g.
    """

    query: Any
    key: Any
    rows: Any
    columns: Any


class CertifiedTail(NamedTuple):
    """A depth of the tail that was found to be enough.

    Attributes:
        tail_steps: The least depth whose bias is within the tolerance, or None.
        biases: The largest absolute value of the bias at depth 0, 1, ..., as far as was looked.
    """

    tail_steps: int | None
    biases: tuple[float, ...]


class Contraction(NamedTuple):
    """Factors by which a step shrinks the distance from the fixed point, (..., blocks), in float64.

    The distance is the oscillation `max - min` of the difference of g from it (Hilbert's metric).

    Attributes:
        exact: From the projective diameter of the block; 0 for a block without any pair.
        bound: From the range of its scores alone; never less.
    """

    exact: Any
    bound: Any


class SinkhornOrbit(NamedTuple):
    """Potentials of every half-step; each plan is another one with rows and columns rescaled.

    Attributes:
        rows: (..., T, L1): f after step 1 ... T.
        columns: (..., T + 1, L2): g before step 1 and after each, in the gauge of f: the plan after
            the half-step of f has `columns[t - 1]`, that after the step `columns[t]`.
    """

    rows: Any
    columns: Any


def sinkhorn_tail_bias(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    cotangent: ArrayLike | Callable[[Tensor], ArrayLike],
    lengths: Pair = None,
    epsilon: ArrayLike = 1.0,
    band_width: int | None = None,
    base_steps: int = 20,
    tail_steps: int = 2,
    masses: ArrayLike | None = None,
    kl_weights: tuple[ArrayLike | None, ArrayLike | None] = (None, None),
    dustbin: Dustbin | None = None,
    mask: Pair = None,
    implementation: str | None = None,
) -> TailBias:
    """The part of a gradient that `sinkhorn_tail` omits, exactly: the bias of its stopped base.

    The reverse pass of the tail ends with the cotangents of the stopped potentials. One
    vector-Jacobian product of the base with them is all that `gradient="unrolled"` has and
    `gradient="tail"` has not. It is taken in tiles: O(base_steps · L1 · width) time, and
    O(base_steps · (L1 + L2)) memory for the potentials of every step.

    Args:
        query: (..., L1, D).
        key: (..., L2, D).
        value: (..., L2, V).
        cotangent: (..., L1, V), the gradient of a loss with respect to the output; or a function
            that has it for an output.
        lengths: See `sinkhorn_tail`, as all that follow. The base has no schedule: steps at another
            epsilon have other plans.
        epsilon: See `sinkhorn_tail`.
        band_width: See `sinkhorn_tail`.
        base_steps: See `sinkhorn_tail`.
        tail_steps: See `sinkhorn_tail`.
        masses: See `sinkhorn_tail`.
        kl_weights: See `sinkhorn_tail`.
        dustbin: See `sinkhorn_tail`.
        mask: See `sinkhorn_tail`.
        implementation: See `sinkhorn_tail`.

    Returns:
        `TailBias`.

    Raises:
        ValueError: For shapes, lengths or numbers that do not fit.

    Example:

    >>> import numpy as np
    >>> from keras_struct import ops
    >>> x = np.random.default_rng(0).normal(size=(1, 8, 4)).astype("float32")
    >>> norms = [
    ...     abs(np.array(ops.sinkhorn_tail_bias(x, x, x, 2 * x, tail_steps=r).query)).max()
    ...     for r in (0, 2, 4)
    ... ]
    >>> print(norms[0] > norms[1] > norms[2])
    True

    Source: Forde (2026), Block-wise differentiable Sinkhorn attention, proposition 5.
    """
    check_count("base_steps", base_steps, 0)
    check_count("tail_steps", tail_steps, 0)
    problem = Problem(
        "sinkhorn_tail_bias",
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
    solver, tail = Solver(problem.half, base_steps), Tail(problem.half, tail_steps)
    context = (*autodiff.compiled(solver, "solve", *problem.sides), *masses, *lengths)
    if callable(cotangent):
        output = autodiff.compiled(tail, "output", inputs, context)
        output = problem.restore(0, output)
        cotangent = cotangent(output if dustbin is None else output[..., 1:, :])
    cotangent = problem.cotangent(cotangent, value.shape[-1])
    df, dg = autodiff.compiled(tail, "adjoint", inputs, context, cotangent)[1]
    drows, dcolumns = ops.zeros_like(rows), ops.zeros_like(columns)
    if base_steps:
        drows, dcolumns = autodiff.compiled(solver, "vjp", *problem.sides, df, dg)
    found = drows * problem.scale, dcolumns, df, dg
    return TailBias(*(problem.restore(i % 2, x) for i, x in enumerate(found)))


def certified_tail_steps(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    cotangent: ArrayLike | Callable[[Tensor], ArrayLike],
    tolerance: float,
    max_tail_steps: int = 8,
    **options: Any,
) -> CertifiedTail:
    """The least depth of the tail whose gradient is within a tolerance of that of all steps.

    Args:
        query: (..., L1, D).
        key: (..., L2, D).
        value: (..., L2, V).
        cotangent: (..., L1, V) or a function of the output, see `sinkhorn_tail_bias`.
        tolerance: Positive number, for the largest absolute value of the bias of queries and keys.
        max_tail_steps: The greatest depth to look at.
        **options: `lengths`, `epsilon`, `band_width`, `base_steps`, `masses`, `kl_weights`,
            `dustbin`, `mask` and `implementation` of `sinkhorn_tail`.

    Returns:
        `CertifiedTail`. It holds for these inputs: look again now and then in training.

    Raises:
        ValueError: For a tolerance that is not positive, and as `sinkhorn_tail_bias` does.

    Example:

    >>> import numpy as np
    >>> from keras_struct import ops
    >>> x = np.random.default_rng(0).normal(size=(1, 8, 4)).astype("float32")
    >>> found = ops.certified_tail_steps(x, x, x, lambda y: 2 * y, tolerance=1e-2, epsilon=2.0)
    >>> print(found.tail_steps, found.biases[-1] <= 1e-2 < found.biases[-2])
    2 True

    Source: Forde (2026), Block-wise differentiable Sinkhorn attention, corollary 2.
    """
    if not tolerance > 0:
        raise ValueError(f"Expected a tolerance > 0. Received: tolerance={tolerance}")
    check_count("max_tail_steps", max_tail_steps, 0)
    biases: list[float] = []
    for steps in range(max_tail_steps + 1):
        found = sinkhorn_tail_bias(query, key, value, cotangent, tail_steps=steps, **options)
        biases.append(max(_largest(found.query), _largest(found.key)))
        if biases[-1] <= tolerance:
            return CertifiedTail(steps, tuple(biases))
    return CertifiedTail(None, tuple(biases))


def _largest(x):
    return float(abs(ops.convert_to_numpy(x)).max(initial=0.0))


def sinkhorn_contraction(
    query: ArrayLike,
    key: ArrayLike,
    lengths: Pair = None,
    epsilon: ArrayLike = 1.0,
    band_width: int | None = None,
    block_rows: int | None = None,
    kl_weights: tuple[ArrayLike | None, ArrayLike | None] = (None, None),
    dustbin: Dustbin | None = None,
    mask: Pair = None,
) -> Contraction:
    """How fast the steps converge, block by block: a certificate after Birkhoff and Hopf.

    Two half-steps shrink the oscillation of an error of g by `tanh(D / 4)^2` at least, where D, the
    projective diameter of the positive matrix exp(s), is the largest
    `s_ij + s_kl - s_il - s_kj`; weights of the divergence multiply it by `w / (1 + w)` each. D is
    at most twice the range of the scores. Holds for a block of pairs that all exist: of
    `block_rows` rows, with the columns that all of them reach. It says something of the whole
    problem only where one block is the whole problem, without a band.

    Args:
        query: (..., L1, D), not traced.
        key: (..., L2, D), not traced.
        lengths: See `sinkhorn`, as all that follow.
        epsilon: See `sinkhorn`.
        band_width: See `sinkhorn`.
        block_rows: Rows of a block, at least 1; None for all.
        kl_weights: See `sinkhorn`.
        dustbin: See `sinkhorn`; its row and its column are in the first block, and its column in
            all.
        mask: See `sinkhorn`; blocks are of the places that there are.

    Returns:
        `Contraction`, NumPy arrays (..., blocks). The time is O(block_rows · L1 · width).

    Raises:
        ValueError: For shapes, lengths or numbers that do not fit, or traced inputs.

    Example:

    >>> import numpy as np
    >>> from keras_struct import ops
    >>> x = np.random.default_rng(0).normal(size=(1, 8, 4)).astype("float32")
    >>> found = ops.sinkhorn_contraction(x, x, epsilon=2.0)
    >>> print((found.exact <= found.bound).all(), found.exact.shape)
    True (1, 1)

    Source: Forde (2026), Block-wise differentiable Sinkhorn attention, proposition 4; Birkhoff
    (1957), Extensions of Jentzsch's theorem.
    """
    if block_rows is not None:
        check_count("block_rows", block_rows, 1)
    problem = Problem(
        "sinkhorn_contraction",
        query,
        key,
        lengths,
        mask,
        epsilon,
        band_width,
        None,
        kl_weights,
        dustbin,
    )
    rows, columns, _, counts = map(_concrete, problem.sides)
    size = max(1, block_rows or rows.shape[1])
    support, shape = problem.half.sums.support, (rows.shape[1], columns.shape[1])
    exists = support_of(counts, shape, support.band_width, support.spokes)
    relax = problem.half.relax[0] * problem.half.relax[1]
    found = [
        [
            _contraction(x[i : i + size] @ y.T, pairs[i : i + size])
            for i in range(0, max(1, shape[0]), size)
        ]
        for x, y, pairs in zip(rows, columns, exists, strict=True)
    ]
    result = relax * np.asarray(found, "float64").reshape(len(found), -1, 2)
    result = result.reshape((*problem.batch_shape, *result.shape[1:]))
    return Contraction(result[..., 0], result[..., 1])


def _contraction(scores, exists):
    """Factors of the block of rows with any pair and of the columns that all of these have."""
    rows = exists.any(1)
    scores = scores[rows][:, exists[rows].all(0)] if rows.any() else scores[:0]
    if not scores.size:
        return 0.0, 0.0
    diameter = max(np.ptp(scores - row, axis=1).max() for row in scores)
    return np.tanh(diameter / 4) ** 2, np.tanh(np.ptp(scores) / 2) ** 2


def _concrete(x):
    if isinstance(x, tuple):
        return tuple(map(_concrete, x))
    values = concrete(x)
    if values is None:
        raise ValueError(f"Expected concrete queries, keys and lengths. Received: {x}")
    return np.asarray(values, "float64" if values.dtype.kind != "i" else values.dtype)


def sinkhorn_orbit(
    query: ArrayLike,
    key: ArrayLike,
    lengths: Pair = None,
    epsilon: ArrayLike = 1.0,
    band_width: int | None = None,
    steps: int = 20,
    masses: ArrayLike | None = None,
    kl_weights: tuple[ArrayLike | None, ArrayLike | None] = (None, None),
    dustbin: Dustbin | None = None,
    mask: Pair = None,
    implementation: str | None = None,
) -> SinkhornOrbit:
    """Potentials of every half-step of `sinkhorn` (without a schedule), for `rescaled_plan`.

    Args:
        query: (..., L1, D).
        key: (..., L2, D).
        lengths: See `sinkhorn`, as all that follow.
        epsilon: See `sinkhorn`.
        band_width: See `sinkhorn`.
        steps: T, at least 1.
        masses: See `sinkhorn`.
        kl_weights: See `sinkhorn`.
        dustbin: See `sinkhorn`.
        mask: See `sinkhorn`.
        implementation: See `sinkhorn`.

    Returns:
        `SinkhornOrbit`.

    Raises:
        ValueError: For shapes, lengths or numbers that do not fit.

    Example:

    >>> import numpy as np
    >>> from keras_struct import ops
    >>> x = np.random.default_rng(0).normal(size=(1, 6, 4)).astype("float32")
    >>> orbit = ops.sinkhorn_orbit(x, x, steps=3)
    >>> [tuple(p.shape) for p in orbit]
    [(1, 3, 6), (1, 4, 6)]

    Source: Forde (2026), Block-wise differentiable Sinkhorn attention, propositions 6 and 7.
    """
    check_count("steps", steps, 1)
    problem = Problem(
        "sinkhorn_orbit",
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
    solver = Solver(problem.half, steps)
    _, f, g = (
        array.transpose(x, (1, 0, 2)) for x in autodiff.compiled(solver, "history", *problem.sides)
    )
    g = ops.concatenate([ops.zeros_like(g[:, :1]), g], axis=1)
    if problem.half.relax == (1.0, 1.0):
        # Each step started from g less its mean: the sum of the means turns all to one gauge.
        valid = ops.cast(time_mask(problem.sides[3][1], ops.shape(g)[2]), g.dtype)[:, None]
        means = ops.sum(g[:, :-1] * valid, axis=2) / ops.maximum(ops.sum(valid, axis=2), 1.0)
        until = ops.triu(ops.ones((steps, steps), dtype=means.dtype))  # cumsum in every dtype
        gauge = array.matmul(means, until)[..., None]
        rows = ops.cast(time_mask(problem.sides[3][0], ops.shape(f)[2]), f.dtype)[:, None]
        f = f - gauge * rows
        g = ops.concatenate([g[:, :1], g[:, 1:] + gauge * valid], axis=1)
    found = [problem.restore(i, array.transpose(x, (0, 2, 1))) for i, x in enumerate((f, g))]
    return SinkhornOrbit(*(ops.swapaxes(x, -1, -2) for x in found))


def rescaled_plan(plan: ArrayLike, potentials: Any, others: Any) -> Tensor:
    """The plan of other potentials, from a plan of the same scores: `P_ij exp(df_i + dg_j)`.

    Args:
        plan: (..., L1, L2), or the tile of some of its rows and columns.
        potentials: Pair (..., L1) and (..., L2) that the plan was made with.
        others: The pair of the plan that is wanted, in the same gauge.

    Returns:
        (..., L1, L2).

    Example:

    >>> import numpy as np
    >>> from keras_struct import ops
    >>> x = np.random.default_rng(0).normal(size=(1, 6, 6)).astype("float32")
    >>> orbit = ops.sinkhorn_orbit(x, x, steps=4)
    >>> last, first = ((orbit.rows[:, t], orbit.columns[:, t + 1]) for t in (3, 0))
    >>> plan = ops.sinkhorn_tail(x, x, np.eye(6, dtype="float32")[None], base_steps=2)
    >>> early = ops.rescaled_plan(plan, last, first)
    >>> print(np.allclose(np.array(early).sum(1), 1.0, atol=1e-5))  # as after every step
    True

    Source: Forde (2026), Block-wise differentiable Sinkhorn attention, proposition 6.
    """
    plan = as_potential("plan", plan)
    (f, g), (other_f, other_g) = (
        [as_potential("potentials", x) for x in pair] for pair in (potentials, others)
    )
    return plan * array.exp(other_f - f)[..., :, None] * array.exp(other_g - g)[..., None, :]
