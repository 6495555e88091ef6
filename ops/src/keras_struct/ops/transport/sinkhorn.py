"""Sinkhorn's iterations and the tail-refinement gradient."""

import dataclasses
import math
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_struct.ops import array, autodiff
from keras_struct.ops.numerics import compute_dtype
from keras_struct.ops.structure import (
    as_lengths,
    as_potential,
    batch_of,
    check_rank,
    concrete,
    flatten_batch,
    restore_batch,
    time_mask,
)
from keras_struct.ops.transport.tiles import Plan, Support, apply_plan, log_sums

MODES = ("tail", "unrolled", "implicit")
BLOCK = 128
KEPT = 2**24  # pairs of a batch whose plans are stored, 64 MiB in float32
# Steps from one stored plan, and the largest change of a potential for which they are taken.
CHUNK, LARGEST = 10, 30.0
LEAST = 5  # steps for which a stored plan pays
SMALLEST = 1e-30  # sum of a row that is still exact
# Scores of up to that many pairs, 1 MiB, are one tile: compilers then keep them over all steps.
WHOLE = 2**18


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


def sinkhorn(
    query,
    key,
    lengths=None,
    epsilon=1.0,
    band_width=None,
    steps=100,
    schedule=(),
    masses=None,
    kl_weights=(None, None),
    dustbin=None,
):
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

    Returns:
        `Sinkhorn`; the potentials are 0 in the padding, and where nothing can be reached.

    Raises:
        ValueError: For shapes, lengths or numbers that do not fit.

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
    problem = Problem(query, key, lengths, epsilon, band_width, masses, kl_weights, dustbin)
    solver = Solver(problem.half, steps, _checked_schedule(schedule))
    found = autodiff.compiled(solver, "report", *problem.sides)
    return Sinkhorn(*(restore_batch(x, problem.batch_shape) for x in found))


def sinkhorn_tail(
    query,
    key,
    value,
    lengths=None,
    epsilon=1.0,
    band_width=None,
    base_steps=20,
    tail_steps=2,
    gradient="tail",
    schedule=(),
    masses=None,
    kl_weights=(None, None),
    dustbin=None,
):
    """Attention with a transport plan: `sum_j P_ij value_j`, and a gradient of fixed depth.

    `base_steps` steps of `sinkhorn` are taken under a stopped gradient, then `tail_steps` more from
    there, through which the gradient flows, exactly: no more of the solution is remembered than its
    last potentials. The plan is that after the tail; its rows are not normalised again. Neither the
    forward nor the backward pass stores an array of size L1 x L2: both take tiles of scores, at
    O((base_steps + tail_steps) · L1 · width) time. Only where a batch has no band and at most 2**24
    pairs are plans kept, 64 MiB in float32, and scaled. Second derivatives are autodiff's.

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

    Returns:
        (..., L1, V) in the dtype of the values; 0 in the padding.

    Raises:
        ValueError: For shapes, lengths or numbers that do not fit.

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
    schedule = _checked_schedule(schedule)
    problem = Problem(query, key, lengths, epsilon, band_width, masses, kl_weights, dustbin)
    value = values_for_keys(value, key)
    rows, columns, masses, lengths = problem.sides
    inputs = rows, columns, problem.values(value)
    solver = Solver(problem.half, base_steps, schedule)
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
    if dustbin is not None:
        output = output[:, 1:]
    return ops.cast(restore_batch(output, problem.batch_shape), value.dtype)


class Problem:
    """Checked arguments, with a flat batch, in the dtype of the arithmetic.

    Attributes:
        half: `HalfSteps`.
        scale: Of the features of the rows, 1 / (epsilon sqrt(D)).
        sides: Features of the rows, over epsilon sqrt(D), and of the columns; log-masses of both;
            lengths of both.
        batch_shape: The user's batch axes.
    """

    def __init__(self, query, key, lengths, epsilon, band_width, masses, kl_weights, dustbin):
        query, key = as_potential("query", query), as_potential("key", key)
        check_rank("query", query, 2, "L1, D")
        check_rank("key", key, 2, "L2, D")
        self.batch_shape, depth = batch_of(query, 2), query.shape[-1]
        if key.shape[-1] != depth or tuple(key.shape[:-2]) != tuple(query.shape[:-2]):
            raise ValueError(
                "Expected queries and keys of equal size and batch axes. Received: shapes of "
                f"query={tuple(query.shape)}, key={tuple(key.shape)}"
            )
        if band_width is not None:
            check_count("band_width", band_width, 0)
        if isinstance(epsilon, (int, float)) and not 0 < epsilon < float("inf"):
            raise ValueError(f"Expected a finite epsilon > 0. Received: epsilon={epsilon}")
        self.dtype = compute_dtype(query.dtype)
        if not isinstance(epsilon, (int, float)):
            epsilon = ops.cast(ops.convert_to_tensor(epsilon), self.dtype)
        epsilon = ops.convert_to_tensor(epsilon, dtype=self.dtype)
        if len(epsilon.shape):
            epsilon = ops.reshape(ops.broadcast_to(epsilon, self.batch_shape), (-1, 1, 1))
        sizes = ops.shape(query)[-2], ops.shape(key)[-2]
        names = "query", "key"
        lengths = [
            as_lengths(f"lengths of {name}", n, self.batch_shape, size)
            for name, n, size in zip(names, pair("lengths", lengths), sizes, strict=True)
        ]
        masses = [
            self._log_masses(name, x, size)
            for name, x, size in zip(names, pair("masses", masses), sizes, strict=True)
        ]
        # What the padding holds, NaN included, must not reach a product.
        rows, columns = (
            _without_padding(ops.cast(flatten_batch(x, 2), self.dtype), n)
            for x, n in zip((query, key), lengths, strict=True)
        )
        self.dustbin, spokes = dustbin, False
        if dustbin is not None:
            if dustbin.support not in ("spoke", "block"):
                raise ValueError(
                    "Expected a support among ('spoke', 'block'). "
                    f"Received: dustbin.support={dustbin.support!r}"
                )
            spokes = dustbin.support == "spoke"
            band_width = band_width if spokes else None
            rows, columns = self._before(dustbin.query, rows), self._before(dustbin.key, columns)
            lengths = [n + 1 for n in lengths]
            capacities = pair("dustbin.capacities", dustbin.capacities)
            masses = [
                ops.concatenate([self._log_capacity(c) + ops.zeros_like(x[:, :1]), x], axis=1)
                for c, x in zip(capacities, masses, strict=True)
            ]
        size, other = rows.shape[1], columns.shape[1]
        known = isinstance(size, int) and isinstance(other, int) and size > 0
        block = min(BLOCK, size) if known else BLOCK
        if known and band_width is None:
            block = min(block, max(8, WHOLE // other)) if size * other > WHOLE else size
        known = known and isinstance(rows.shape[0], int)
        kept = known and band_width is None and rows.shape[0] * size * other <= KEPT
        support = Support(band_width, block, spokes, kept)
        self.half = HalfSteps(support, relaxations(kl_weights))
        self.scale = 1.0 / (epsilon * math.sqrt(depth))
        self.sides = rows * self.scale, columns, tuple(masses), tuple(lengths)

    def values(self, value):
        """Values without padding, behind that of the dustbin."""
        value = ops.cast(flatten_batch(value, 2), self.dtype)
        lengths = self.sides[3][1]
        if self.dustbin is None:
            return _without_padding(value, lengths)
        value = _without_padding(value, lengths - 1)
        first = self.dustbin.value
        return self._before(ops.zeros_like(value[0, 0]) if first is None else first, value)

    def cotangent(self, cotangent, size):
        """(..., L1, V), without padding, with zeros for the dustbin."""
        cotangent = as_potential("cotangent", cotangent)
        rows, first = self.sides[0].shape[1], int(self.dustbin is not None)
        wanted = (*self.batch_shape, rows - first, size)
        if tuple(cotangent.shape) != tuple(wanted):
            raise ValueError(
                f"Expected a cotangent of shape {wanted}. Received: shape={tuple(cotangent.shape)}"
            )
        cotangent = ops.cast(flatten_batch(cotangent, 2), self.dtype)
        cotangent = _without_padding(cotangent, self.sides[3][0] - first)
        return array.pad(cotangent, [(0, 0), (first, 0), (0, 0)], 0)

    def _before(self, token, x):
        """A token (D,) or (..., D) in front of the others."""
        token = ops.convert_to_tensor(token, dtype=self.dtype)
        size = x.shape[-1]
        if token.shape[-1] != size:
            raise ValueError(
                f"Expected features of size {size} for the dustbin. "
                f"Received: shape={tuple(token.shape)}"
            )
        if len(token.shape) > 1:
            token = ops.reshape(token, (-1, 1, size))
        return ops.concatenate([ops.zeros_like(x[:, :1]) + token, x], axis=1)

    def _log_capacity(self, capacity):
        number = isinstance(capacity, (int, float))
        capacity = capacity if number else ops.convert_to_tensor(capacity, dtype=self.dtype)
        values = capacity if number else concrete(capacity)
        if values is not None and not np.all((values > 0) & (values < float("inf"))):
            raise ValueError(f"Expected finite capacities > 0. Received: {values}")
        if number:
            return math.log(capacity)
        capacity = ops.broadcast_to(ops.stop_gradient(capacity), self.batch_shape)
        return array.log(ops.reshape(capacity, (-1, 1)))

    def _log_masses(self, name, mass, size):
        if mass is None:
            return flatten_batch(ops.zeros((*self.batch_shape, size), dtype=self.dtype), 1)
        mass = ops.cast(as_potential(f"masses of {name}", mass), self.dtype)
        values = concrete(mass)
        if values is not None and not (values > 0).all():
            raise ValueError(f"Expected masses > 0. Received: masses of {name}={values}")
        mass = ops.broadcast_to(ops.stop_gradient(mass), (*self.batch_shape, size))
        return array.log(flatten_batch(mass, 1))


def values_for_keys(value, key):
    """The values as a tensor, one for each key, or an error."""
    value, key = as_potential("value", value), as_potential("key", key)
    check_rank("value", value, 2, "L2, V")
    if tuple(value.shape[:-1]) != tuple(key.shape[:-1]):
        raise ValueError(
            f"Expected as many values as keys. Received: shapes of key={tuple(key.shape)}, "
            f"value={tuple(value.shape)}"
        )
    return value


def pair(name, x):
    x = (None, None) if x is None else tuple(x)
    if len(x) != 2:
        raise ValueError(f"Expected a pair. Received: {name}={x}")
    return x


def relaxations(kl_weights):
    """`relax` of `HalfSteps`."""
    return tuple(map(_relaxation, pair("kl_weights", kl_weights)))


def _relaxation(weight):
    if weight is None:
        return 1.0
    if not isinstance(weight, (int, float)) or not 0 < weight < float("inf"):
        raise ValueError(f"Expected finite kl_weights > 0, or None. Received: {weight!r}")
    return weight / (1.0 + weight)


def _checked_schedule(schedule):
    for factor, steps in schedule:
        check_count("steps of the schedule", steps, 1)
        if not 0 < factor < float("inf"):
            raise ValueError(f"Expected factors > 0. Received: schedule={schedule}")
    return tuple(schedule)


def _without_padding(x, lengths):
    return array.where(time_mask(lengths, ops.shape(x)[1])[..., None], x, ops.zeros_like(x))


def check_count(name, value, least):
    if not isinstance(value, int) or value < least:
        raise ValueError(f"Expected an integer >= {least}. Received: {name}={value}")


@dataclasses.dataclass(frozen=True)
class HalfSteps:
    """The two updates, `f = relax · (log mass - log sum_j exp(s + g))` and the same of g.

    Attributes:
        support: `Support`.
        relax: Of the rows and of the columns, in (0, 1]; 1 where the masses must be met.
    """

    support: Support
    relax: tuple[float, float] = (1.0, 1.0)

    def rows(self, sides, g):
        rows, columns, masses, lengths = sides
        sums = log_sums(self.support, rows, columns, g, lengths)
        return _step(self.relax[0], masses[0], sums, lengths[0])

    def columns(self, sides, f):
        rows, columns, masses, lengths = sides
        sums = log_sums(self.support, columns, rows, f, lengths[::-1])
        return _step(self.relax[1], masses[1], sums, lengths[1])


def _step(relax, mass, sums, lengths):
    valid = time_mask(lengths, ops.shape(sums)[1])
    return array.where(valid, relax * (mass - sums), ops.zeros_like(sums))


def _repeated(step, carry, number):
    """The carry after `step(carry)`, a number of times."""
    if not number:
        return carry
    times = ops.arange(number, dtype="int32")
    return array.scan(lambda carry, x: (step(carry), ()), carry, (times,), ())[0]


@dataclasses.dataclass(frozen=True)
class Solver:
    """Potentials after the steps of a schedule and `steps` more, from zero.

    Attributes:
        half: `HalfSteps`.
        steps: How many.
        schedule: Pairs of a factor of epsilon and a number of steps.
        scales: Whether steps may scale a stored plan.
    """

    half: HalfSteps
    steps: int
    schedule: tuple[tuple[float, int], ...] = ()
    scales: bool = True

    def solve(self, rows, columns, masses, lengths):
        f, g = ops.zeros_like(rows[..., 0]), ops.zeros_like(columns[..., 0])
        for factor, number in (*self.schedule, (1.0, self.steps)):
            sides = rows / factor, columns, masses, lengths
            f, g = self._steps(sides, (f / factor, g / factor), number)
            f, g = f * factor, g * factor
        return f, g

    def _steps(self, sides, start, number):
        """f and g after a number of steps."""
        scales = self.scales and self.half.support.kept and self.half.relax == (1.0, 1.0)
        if not scales or number < LEAST or not array.branches(sides[0]):
            return self._plain_steps(sides, start, number)
        # The first step brings the plan to scale, the last one the potentials to where all end.
        chunks, rest = divmod(number - 2, CHUNK)
        found = self._plain_steps(sides, start, 1)
        found = _repeated(lambda x: self._scaled_steps(sides, x, CHUNK), found, chunks)
        if rest:
            found = self._scaled_steps(sides, found, rest)
        return self._plain_steps(sides, found, 1)

    def _plain_steps(self, sides, start, number):
        return _repeated(lambda carry: self._step(sides, carry[1])[1:], start, number)

    def _scaled_steps(self, sides, start, number):
        """Steps that scale the rows and columns of one stored plan: u = a / P v, v = b / P' u.

        Where a factor gets too large for that, the steps are taken in logarithms.
        """
        rows, columns, masses, lengths = sides
        f, g = start
        plan = Plan(self.half.support, rows, columns, start, lengths)
        masses = tuple(map(array.exp, masses))
        valid = tuple(
            ops.logical_and(time_mask(n, ops.shape(x)[1]), (other > 0)[:, None])
            for n, other, x in zip(lengths, lengths[::-1], (f, g), strict=True)
        )

        def factors(side, sums):
            """Those of rows or columns with these sums, and whether none is too small."""
            fits = sums > SMALLEST
            scaled = ops.logical_and(valid[side], fits)
            new = masses[side] / array.where(scaled, sums, masses[side])
            return new, ops.all(ops.logical_or(fits, ops.logical_not(valid[side])))

        def step(carry):
            _, v, fine = carry
            v = v / ops.mean(v, axis=1, keepdims=True)  # as `_centred`
            u, rows_fine = factors(0, plan.times(v[..., None])[..., 0])
            v, columns_fine = factors(1, plan.transposed_times(u[..., None])[..., 0])
            return u, v, ops.logical_and(fine, ops.logical_and(rows_fine, columns_fine))

        first = ops.ones_like(f), ops.ones_like(g), ops.convert_to_tensor(True)
        u, v, fine = _repeated(step, first, number)
        moves = array.log(u), array.log(v)
        for move in moves:
            fine = ops.logical_and(fine, ops.all(ops.abs(move) < LARGEST))
        return ops.cond(
            fine,
            lambda: (f + moves[0], g + moves[1]),
            lambda: self._plain_steps(sides, start, number),
        )

    def _step(self, sides, g):
        """g that the step starts from, and f and g after it."""
        g = self._centred(sides[3], g)
        f = self.half.rows(sides, g)
        return g, f, self.half.columns(sides, f)

    def _centred(self, lengths, g):
        """The plan stays if a number moves from g to f: both stay small when L1 != L2."""
        if self.half.relax != (1.0, 1.0):
            return g
        valid = ops.cast(time_mask(lengths[1], ops.shape(g)[1]), g.dtype)
        count = ops.maximum(ops.sum(valid, axis=1, keepdims=True), 1.0)
        return (g - ops.sum(g * valid, axis=1, keepdims=True) / count) * valid

    def history(self, rows, columns, masses, lengths):
        """What `_step` gives, of all `steps`, (T, B, ...) each."""
        f, g = ops.zeros_like(rows[..., 0]), ops.zeros_like(columns[..., 0])
        sides = rows, columns, masses, lengths

        def step(carry, x):
            found = self._step(sides, carry[0])
            return (found[2],), found

        times = ops.arange(self.steps, dtype="int32")
        return array.scan(step, (g,), (times,), (g, f, g))[1]

    def vjp(self, rows, columns, masses, lengths, df, dg):
        """Cotangents of rows and columns, for those of f and g after `steps` steps.

        The plan of each step is made in tiles again, from the potentials of `history`.
        """
        support, (mass, other_mass) = self.half.support, masses
        relax, other_relax = self.half.relax
        there = lengths[::-1]

        def step(carry, x):
            df, dg, drows, dcolumns = carry
            start, f, g = x
            # Through g: its weights are those of the sums that it was made of.
            f_g, dg = (f, g / other_relax - other_mass), (other_relax * dg)[..., None]
            sums = apply_plan(
                support, rows, columns, f_g, array.concatenate([dg, dg * columns], 2), lengths
            )
            df, drows = df - sums[..., 0], drows - sums[..., 1:]
            dcolumns = dcolumns - dg * apply_plan(support, columns, rows, f_g[::-1], rows, there)
            # Through f.
            f_g, df = (f / relax - mass, start), (relax * df)[..., None]
            sums = apply_plan(
                support, columns, rows, f_g[::-1], array.concatenate([df, df * rows], 2), there
            )
            dcolumns = dcolumns - sums[..., 1:]
            drows = drows - df * apply_plan(support, rows, columns, f_g, columns, lengths)
            dg = self._centred(lengths, -sums[..., 0])
            return (ops.zeros_like(df[..., 0]), dg, drows, dcolumns), ()

        start = df, dg, ops.zeros_like(rows), ops.zeros_like(columns)
        history = self.history(rows, columns, masses, lengths)
        return array.scan(step, start, history, (), reverse=True)[0][2:]

    def report(self, rows, columns, masses, lengths):
        """Potentials and residual."""
        f, g = self.solve(rows, columns, masses, lengths)
        # The sum of a row of the plan, over what the next step wants it to be.
        drift = (f - self.half.rows((rows, columns, masses, lengths), g)) / self.half.relax[0]
        return f, g, ops.max(ops.abs(array.exp(drift) - 1.0), axis=1)


@dataclasses.dataclass(frozen=True)
class Tail:
    """R steps from stopped potentials, and the plan applied; with their exact adjoint.

    Inputs are the rows, the columns and the values; context is the stopped f and g, the log-masses
    of both sides and both lengths.

    Attributes:
        half: `HalfSteps`.
        steps: R.
        adjoint_steps: Steps of the adjoint recurrence at the last plan (the implicit gradient);
            None for those of the tail itself.
    """

    half: HalfSteps
    steps: int
    adjoint_steps: int | None = None

    def refine(self, inputs, context):
        """f and g of every step, those of the start first."""
        rows, columns, _ = inputs
        f, g, *masses, n1, n2 = context
        sides = rows, columns, masses, (n1, n2)
        fs, gs = [f], [g]
        for _ in range(self.steps):
            fs.append(self.half.rows(sides, gs[-1]))
            gs.append(self.half.columns(sides, fs[-1]))
        return fs, gs

    def output(self, inputs, context):
        rows, columns, values = inputs
        fs, gs = self.refine(inputs, context)
        last = fs[-1], gs[-1]
        return Plan(self.half.support, rows, columns, last, context[-2:]).times(values)

    def vjp(self, inputs, context, cotangent):
        """Cotangents of the rows, columns and values."""
        return self.adjoint(inputs, context, cotangent)[0]

    def adjoint(self, inputs, context, cotangent):
        """What `vjp` gives, and the cotangents of the stopped f and g."""
        rows, columns, values = inputs
        mass, other_mass, n1, n2 = context[2:]
        relax, other_relax = self.half.relax
        fs, gs = self.refine(inputs, context)
        f, g = fs[-1], gs[-1]
        plan = Plan(self.half.support, rows, columns, (f, g), (n1, n2))
        output, dvalues = plan.times(values), plan.transposed_times(cotangent)
        df, dg = ops.sum(cotangent * output, axis=-1), ops.sum(values * dvalues, axis=-1)
        left, right = [cotangent], [values]
        if self.adjoint_steps is not None:
            steps = ops.arange(self.adjoint_steps, dtype="int32")
            row_factor = array.exp(f / relax - mass - f) * relax
            column_factor = array.exp(g / other_relax - other_mass - g) * other_relax

            def step(carry, x):
                df, dg, row, column = carry
                weight = column_factor * dg
                df = df - plan.times(weight[..., None])[..., 0]
                other = row_factor * df
                dg = -plan.transposed_times(other[..., None])[..., 0]
                return (ops.zeros_like(df), dg, row + other, column + weight), ()

            start = df, dg, ops.zeros_like(df), ops.zeros_like(dg)
            (df, dg, row, column), _ = array.scan(step, start, (steps,), ())
            # All plans are one, so the steps add up to one factor for each side.
            left += [-row[..., None], -ops.ones_like(row)[..., None]]
            right += [ops.ones_like(column)[..., None], column[..., None]]
            fs, gs = fs[:1], gs[:1]
        # A plan of other potentials is the last one with its rows and columns scaled.
        for r in range(len(gs) - 1, 0, -1):
            # Through g of step r: its weights are those of the sums that it was made of.
            weight = array.exp(gs[r] / other_relax - other_mass - g) * other_relax * dg
            left.append(-array.exp(fs[r] - f)[..., None])
            right.append(weight[..., None])
            sums = plan.times(right[-1])
            df = df + (sums * left[-1])[..., 0]
            # Through f of step r.
            weight = array.exp(fs[r] / relax - mass - f) * relax * df
            left.append(-weight[..., None])
            right.append(array.exp(gs[r - 1] - g)[..., None])
            sums = plan.transposed_times(left[-1])
            df, dg = ops.zeros_like(df), (sums * right[-1])[..., 0]
        left, right = array.concatenate(left, -1), array.concatenate(right, -1)
        drows, dcolumns = plan.modulated(left, right)
        return (drows, dcolumns, dvalues), (df, dg)


@dataclasses.dataclass(frozen=True)
class Unrolled:
    """Base and tail without a stopped gradient."""

    solver: Solver
    tail: Tail

    def output(self, inputs, masses, lengths):
        rows, columns, _ = inputs
        base = self.solver.solve(rows, columns, masses, lengths)
        return self.tail.output(inputs, (*base, *masses, *lengths))
