"""The differentiable tail of `sinkhorn_tail` and its adjoint (derivation: recurrence.md)."""

import dataclasses

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.transport.half_steps import HalfSteps
from keras_struct.ops.transport.solver import Solver


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
            fs.append(self.half.rows(sides, gs[-1], fs[-1]))
            gs.append(self.half.columns(sides, fs[-1], gs[-1]))
        return fs, gs

    def output(self, inputs, context):
        rows, columns, values = inputs
        fs, gs = self.refine(inputs, context)
        last = fs[-1], gs[-1]
        return self.half.sums.plan(rows, columns, last, context[-2:]).times(values)

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
        plan = self.half.sums.plan(rows, columns, (f, g), (n1, n2))
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
