"""Charts on a TPU, by the Pallas kernels of `tpu_sweeps.py` and `tpu_paths.py`.

A block of sentences has its whole chart in VMEM (`tpu_plan.py`).
"""

import functools

from keras_struct.ops import scaled
from keras_struct.ops.chart.tpu_plan import Plan, longest
from keras_struct.ops.implementation import Drawing
from keras_struct.ops.numerics import FORBIDDEN
from keras_struct.ops.pallas import Total, in_pieces
from keras_struct.ops.pallas_tpu import (
    LANES,
    MEGABYTE,
    SPARE,
    PallasTPU,
    blocks_of,
    numbers_of_block,
    of_block,
    off_lanes,
    on_lanes,
    room,
)

SAMPLES = 8  # at a time


class ChartTPU(Drawing, PallasTPU):
    """Sweeps over whole charts.

    Attributes:
        sizes: How many starts and how many cuts are worked on at a time.
    """

    sizes: tuple[int, int] = (16, 8)

    def plan(self, chart, n):
        return Plan(chart, n, *self.sizes)

    def rejects(self, call):
        reason = super().rejects(call)
        if reason is not None:
            return reason
        chart = call.spec.chart
        if any(product.scored for product in chart.products):
            return "it has no scores of splits"
        size, most = self.plan(chart, call.shapes[0][1]).largest, room(call.device_kind)
        if size > most:
            return (
                f"its chart would take {size:.0f} MB of VMEM, of which there are {most}: enough "
                f"for {longest(chart, most)} positions"
            )
        return None

    def forward(self, problem, op):
        from keras_struct.ops.chart import tpu_sweeps

        run = _Sweep(self, problem, "forward", problem.context[0])
        found = run(
            functools.partial(tpu_sweeps.forward, run.plan, op),
            f"forward_{op}",
            {},
            {"goal": of_block(run.array(run.blocks, 2, 1, LANES), 1)},
        )
        goal = off_lanes(found["goal"], run.batch)[:, :, 0]
        high, low = scaled.to_log_pair(scaled.Scaled(goal[:, 0], goal[:, 1]))
        return (high, low), Total(high)

    def backward(self, problem, tape):
        return self._down("backward", problem, tape)

    def curvature(self, problem, tape, tangents):
        return self._down("curvature", problem, tape, tangents)

    def _down(self, sweep, problem, tape, tangents=None):
        from keras_struct.ops.chart import tpu_sweeps

        run = _Sweep(self, problem, sweep, tape.existing(problem.context[0]))
        inputs = {} if tangents is None else {"tscores": run.of_scores(tangents, 0.0)}
        found = run(
            functools.partial(getattr(tpu_sweeps, sweep), run.plan),
            sweep,
            inputs,
            {"out": of_block(run.array(*run.plan.scores(run.blocks)), 1)},
        )
        items = run.items(found["out"])
        return problem.spec.by_part(items, [])

    def paths(self, problem, tape, draws, count):
        return in_pieces(functools.partial(self._paths, problem, tape), draws, count, SAMPLES)

    def _paths(self, problem, tape, draws, count):
        import jax
        from jax import numpy as jnp

        from keras_struct.ops.chart import tpu_paths

        noisy = draws is not None
        op = "logsumexp" if noisy else "max"
        run = _Sweep(self, problem, "walk", tape.existing(problem.context[0]))
        words = jnp.stack(draws.key, 2) if noisy else jnp.zeros((run.batch, 1, 2), "int32")
        keys = on_lanes(words[..., None], run.batch)
        found = run(
            functools.partial(tpu_paths.walk, run.plan, op, noisy),
            f"walk_{op}",
            {"keys": run.of_sample(keys)},
            {"out": run.of_sample(run.array(*run.plan.scores(run.blocks, count)))},
            {"noise": run.array(*run.plan.noise)} if noisy else {},
            count,
        )
        spec = problem.spec

        def event(used):
            parts = spec.by_part([(x > 0).astype("int32") for x in run.items(used)], [])
            return spec.event(parts)

        return jax.vmap(event, 1)(found["out"])


class _Sweep:
    """The call of a kernel on one problem."""

    def __init__(self, kernels, problem, sweep, lengths):
        from jax import numpy as jnp

        self.kernels, self.problem, self.sweep = kernels, problem, sweep
        scores = problem.potentials[0]
        self.plan = kernels.plan(problem.spec.chart, scores.shape[1])
        self.batch = lengths.shape[0]
        self.blocks, self.dtype = blocks_of(self.batch), scores.dtype
        lengths = jnp.clip(lengths, 0, self.plan.n).astype("int32")
        self.lengths = on_lanes(lengths[:, None], self.batch)

    def __call__(self, kernel, name, inputs, outputs, more=(), samples=1):
        inputs = {
            "limits": numbers_of_block(self.lengths.max(2)),
            "lengths": of_block(self.lengths, 1),
            "scores": self.of_scores(self.problem.potentials, FORBIDDEN),
            **inputs,
        }
        planes = self.plan.planes(self.sweep)
        scratch = {key: self.array(*self.plan.plane(count)) for key, count in planes.items()}
        scratch["ahead"] = self.array(self.plan.cuts * self.plan.starts, LANES)
        scratch |= dict(more)
        return self.kernels.call_by_name(
            kernel,
            f"keras_struct_chart_{name}",
            (self.blocks, samples),
            inputs,
            outputs,
            scratch,
            memory=round((self.plan.megabytes(self.sweep) + SPARE) * MEGABYTE),
        )

    def array(self, *shape, dtype=None):
        import jax

        return jax.ShapeDtypeStruct(shape, dtype or self.dtype)

    def of_sample(self, x):
        """Triple of an array whose second axis are samples."""
        zeros = (0,) * (len(x.shape) - 2)
        return x, (None, None, *x.shape[2:]), lambda n, i: (n, i, *zeros)

    def of_scores(self, potentials, fill):
        """Triple of the scores of scored items by width."""
        from jax import numpy as jnp

        plan = self.plan
        items, _ = self.problem.spec.by_width(potentials)
        x = jnp.stack([on_lanes(item, self.batch, fill) for item in items], 1)
        more = [(0, 0), (0, 0), (0, 0), (0, plan.columns - plan.n), (0, 0)]
        return of_block(jnp.pad(x, more, constant_values=fill), 1)

    def items(self, x):
        """(blocks, items, widths, starts, LANES) as a list of (B, widths, starts)."""
        return list(off_lanes(x[:, :, :, : self.plan.n], self.batch).swapaxes(0, 1))
