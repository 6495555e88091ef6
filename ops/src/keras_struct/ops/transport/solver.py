"""Sinkhorn's iterations: potentials after so many steps, their history and its adjoint."""

import dataclasses

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.structure import time_mask
from keras_struct.ops.transport.half_steps import HalfSteps, repeated


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
            start = f / factor, g / factor
            take = self.half.sums.steps if self.scales else plain_steps
            f, g = take(self, sides, start, number)
            f, g = f * factor, g * factor
        return f, g

    def step(self, sides, f, g):
        """g that the step starts from, and f and g after it."""
        g = self._centred(sides[3], g)
        f = self.half.rows(sides, g, f)
        return g, f, self.half.columns(sides, f, g)

    def _centred(self, lengths, g):
        """The plan stays if a number moves from g to f: both stay small when L1 != L2."""
        if self.half.relax != (1.0, 1.0):
            return g
        valid = ops.cast(time_mask(lengths[1], ops.shape(g)[1]), g.dtype)
        count = ops.maximum(ops.sum(valid, axis=1, keepdims=True), 1.0)
        return (g - ops.sum(g * valid, axis=1, keepdims=True) / count) * valid

    def history(self, rows, columns, masses, lengths):
        """What `step` gives, of all `steps`, (T, B, ...) each."""
        f, g = ops.zeros_like(rows[..., 0]), ops.zeros_like(columns[..., 0])
        sides = rows, columns, masses, lengths

        def step(carry, x):
            found = self.step(sides, *carry)
            return found[1:], found

        times = ops.arange(self.steps, dtype="int32")
        return array.scan(step, (f, g), (times,), (g, f, g))[1]

    def vjp(self, rows, columns, masses, lengths, df, dg):
        """Cotangents of rows and columns, for those of f and g after `steps` steps.

        The plan of each step is made again, from the potentials of `history`.
        """
        mass, other_mass = masses
        relax, other_relax = self.half.relax
        plan_of = self.half.sums.plan

        def step(carry, x):
            df, dg, drows, dcolumns = carry
            start, f, g = x
            # Through g: its weights are those of the sums that it was made of.
            plan = plan_of(rows, columns, (f, g / other_relax - other_mass), lengths)
            dg = (other_relax * dg)[..., None]
            sums = plan.times(array.concatenate([dg, dg * columns], 2))
            df, drows = df - sums[..., 0], drows - sums[..., 1:]
            dcolumns = dcolumns - dg * plan.transposed_times(rows)
            # Through f.
            plan = plan_of(rows, columns, (f / relax - mass, start), lengths)
            df = (relax * df)[..., None]
            sums = plan.transposed_times(array.concatenate([df, df * rows], 2))
            dcolumns = dcolumns - sums[..., 1:]
            drows = drows - df * plan.times(columns)
            dg = self._centred(lengths, -sums[..., 0])
            return (ops.zeros_like(df[..., 0]), dg, drows, dcolumns), ()

        start = df, dg, ops.zeros_like(rows), ops.zeros_like(columns)
        history = self.history(rows, columns, masses, lengths)
        return array.scan(step, start, history, (), reverse=True)[0][2:]

    def report(self, rows, columns, masses, lengths):
        """Potentials and residual."""
        f, g = self.solve(rows, columns, masses, lengths)
        # The sum of a row of the plan, over what the next step wants it to be.
        drift = (f - self.half.rows((rows, columns, masses, lengths), g, f)) / self.half.relax[0]
        return f, g, array.max(ops.abs(array.exp(drift) - 1.0), 1)


def plain_steps(solver, sides, start, number):
    """f and g after a number of steps in logarithms."""
    return repeated(lambda carry: solver.step(sides, *carry)[1:], start, number)
