"""The implementation for small plans: the plan is kept, each exponential taken once.

Ten steps scale the rows and columns of one stored plan (recurrence.md, "Small plans are stored").
"""

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.structure import time_mask
from keras_struct.ops.transport.half_steps import repeated
from keras_struct.ops.transport.solver import plain_steps
from keras_struct.ops.transport.tiled import Tiled, TiledPlan
from keras_struct.ops.transport.tiles import (
    BLOCK,
    apply_band,
    products,
    stored_band,
    transposed,
    within,
)

LARGEST_PLAN = 2**24  # pairs of a batch, 64 MiB in float32
# Steps from one stored plan, and the largest change of a potential for which they are taken.
CHUNK, LARGEST = 10, 30.0
LEAST = 5  # steps for which a stored plan pays
SMALLEST = 1e-30  # sum of a row that is still exact


class Stored(Tiled):
    """Keeps the plan, and scales it where the masses must be met."""

    @staticmethod
    def rejects(call):
        if call.option("band_width") is not None and call.option("spokes"):
            return "a plan on a band with a dustbin is not stored: it has rows of all pairs"
        batch, rows, columns = (call.shapes[i][axis] for i, axis in ((0, 0), (0, 1), (1, 1)))
        if None in (batch, rows, columns):
            return f"the size of the plan is not known: {batch} x {rows} x {columns}"
        pairs, width = batch * rows * columns, call.option("band_width")
        if width is not None:
            pairs = batch * (rows + columns) * (BLOCK + 2 * width)
        if pairs > LARGEST_PLAN:
            return f"the plans of the batch have {pairs:,} pairs, more than {LARGEST_PLAN:,}"
        return None

    @staticmethod
    def avoids(call):
        if call.option("band_width") is not None and call.backend in ("jax", "tensorflow"):
            return "a plan on a band is not stored under a compiler: its tiles are small"
        return None

    def plan(self, rows, columns, potentials, lengths):
        if self.support.band_width is not None:
            return StoredBand(self.support, rows, columns, potentials, lengths)
        return StoredPlan(rows, columns, potentials, lengths)

    def steps(self, solver, sides, start, number):
        scales = solver.half.relax == (1.0, 1.0) and number >= LEAST
        if not scales or not array.branches(sides[0]):
            return plain_steps(solver, sides, start, number)
        # The first step brings the plan to scale, the last one the potentials to where all end.
        chunks, rest = divmod(number - 2, CHUNK)
        found = plain_steps(solver, sides, start, 1)
        found = repeated(lambda x: _scaled_steps(solver, sides, x, CHUNK), found, chunks)
        if rest:
            found = _scaled_steps(solver, sides, found, rest)
        return plain_steps(solver, sides, found, 1)


class StoredPlan:
    """A plan with all its pairs; products as `TiledPlan` has them.

    Attributes:
        matrix: (B, L1, L2).
    """

    def __init__(self, rows, columns, potentials, lengths):
        self.rows, self.columns = rows, columns
        f, g = within(potentials, lengths)
        logits = products(rows, columns) + f[:, :, None] + g[:, None]
        self.matrix = array.exp_or_zero(logits)

    def times(self, values):
        return array.matmul(self.matrix, values)

    def transposed_times(self, values):
        return array.matmul(transposed(self.matrix), values)

    def modulated(self, left, right):
        matrix = self.matrix * products(left, right)
        return array.matmul(matrix, self.columns), array.matmul(transposed(matrix), self.rows)


class StoredBand(TiledPlan):
    """A plan on a band, kept by rows and by columns."""

    def __init__(self, support, rows, columns, potentials, lengths):
        super().__init__(support, rows, columns, potentials, lengths)
        self.by_rows = stored_band(support, *self.here, lengths)
        self.by_columns = stored_band(support, *self.there, lengths[::-1])

    def times(self, values):
        return apply_band(self.support, self.by_rows, values, ops.shape(self.here[0])[1])

    def transposed_times(self, values):
        return apply_band(self.support, self.by_columns, values, ops.shape(self.there[0])[1])


def _scaled_steps(solver, sides, start, number):
    """Steps that scale the rows and columns of one stored plan: u = a / P v, v = b / P' u.

    Where a factor gets too large for that, the steps are taken in logarithms.
    """
    rows, columns, masses, lengths = sides
    f, g = start
    plan = solver.half.sums.plan(rows, columns, start, lengths)
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
        v = v / ops.mean(v, axis=1, keepdims=True)  # as `Solver.step` centres g
        u, rows_fine = factors(0, plan.times(v[..., None])[..., 0])
        v, columns_fine = factors(1, plan.transposed_times(u[..., None])[..., 0])
        return u, v, ops.logical_and(fine, ops.logical_and(rows_fine, columns_fine))

    first = ops.ones_like(f), ops.ones_like(g), ops.convert_to_tensor(True)
    u, v, fine = repeated(step, first, number)
    moves = array.log(u), array.log(v)
    for move in moves:
        fine = ops.logical_and(fine, ops.all(ops.abs(move) < LARGEST))
    return ops.cond(
        fine,
        lambda: (f + moves[0], g + moves[1]),
        lambda: plain_steps(solver, sides, start, number),
    )
