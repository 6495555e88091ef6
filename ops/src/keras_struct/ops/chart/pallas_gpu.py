"""Charts on a GPU, by the Pallas kernels of `gpu_sweeps.py` and `gpu_paths.py`: a program for each
sentence, whose chart is the tape."""

import functools
from typing import Any, NamedTuple

from keras_struct.ops import scaled
from keras_struct.ops.chart.gpu_limits import WholeCharts
from keras_struct.ops.gpu import power
from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE
from keras_struct.ops.pallas_gpu import PallasGPU


class Tape(NamedTuple):
    """What the forward sweep leaves behind.

    Attributes:
        m: Of items and products at (width, start), (B, triangles, N + 1, N + 1).
        e: Exponents of items, and of products times -1.
        lengths: (B,), 0 where nothing exists.
    """

    m: Any
    e: Any
    lengths: Any


class ChartGPU(WholeCharts, PallasGPU):
    """Sweeps over whole charts.

    Attributes:
        sizes: How many starts and how many cuts are worked on at a time.
        warps: Of a program.
    """

    sizes: tuple[int, int] = (32, 16)
    warps: int = 4

    def plan(self, chart, n):
        from keras_struct.ops.chart.gpu_chart import Plan

        return Plan(chart, n, *self.sizes)

    def forward(self, problem, op):
        from jax import numpy as jnp

        run = _Sweep(self, problem, problem.context[0])
        found = run("forward", f"forward_{op}", {}, {"m": run.chart(), "e": run.chart()}, op)
        m, e = found["m"], found["e"]
        some = run.lengths > 0
        number = []
        for x, alone in ((m, 1.0), (e, 0.0)):
            whole = jnp.take_along_axis(x[:, run.plan.spec.goal, :, 0], run.lengths[:, None], 1)
            number.append(jnp.where(some, whole[:, 0], alone))
        high, low = scaled.to_log_pair(scaled.Scaled(*number))
        return (high, low), Tape(m, e, jnp.where(high > INFEASIBLE, run.lengths, 0))

    def backward(self, problem, tape):
        return self._down("backward", problem, tape)

    def curvature(self, problem, tape, tangents):
        return self._down("curvature", problem, tape, tangents)

    def _down(self, sweep, problem, tape, tangents=None):
        run = _Sweep(self, problem, tape.lengths)
        inputs = {"m": tape.m, "e": tape.e}
        products, size = len(run.plan.spec.products), run.plan.n + 1
        outputs = {
            "q": run.array(run.batch, products, size, size),
            "out": run.array(run.batch, len(run.plan.spec.scored), run.plan.n, run.plan.n),
        }
        if tangents is not None:
            inputs["tscores"] = run.by_width(tangents)
            outputs |= {"dq": outputs["q"], "d": run.chart()}
        if run.plan.spec.wrapped is not None:
            outputs["wrapped"] = run.array(run.batch, 1 + (tangents is not None), size, size)
        found = run(sweep, sweep, inputs, outputs)
        return problem.spec.by_part(run.items(found["out"]), [])

    def paths(self, problem, tape, draws, count):
        import jax
        from jax import numpy as jnp

        noisy = draws is not None
        op = "logsumexp" if noisy else "max"
        run = _Sweep(self, problem, tape.lengths)
        plan, spec = run.plan, problem.spec
        keys = jnp.stack(draws.key, 1) if noisy else jnp.zeros((run.batch, 2, count), "int32")
        places = 2 * plan.n + 4
        found = run(
            "walk",
            f"walk_{op}",
            {"m": tape.m, "e": tape.e, "keys": keys},
            {"used": run.array(run.batch, count, 1 + places, dtype="int32")},
            op,
            noisy,
            grid=(count,),
            warps=max(1, min(4, power(plan.n + 1) // 64)),
        )["used"]
        number, codes = found[..., :1], found[..., 1:]
        codes = jnp.where(jnp.arange(places, dtype="int32") < number, codes, -1)
        scored = plan.spec.scored

        def event(codes):
            """Of the codes (B, places) of a sample."""
            size = plan.n + 1
            k, w, i = codes // (size * size), codes // size % size, codes % size
            used = []
            for item in scored:
                at = jnp.where((codes >= 0) & (k == item), (w - 1) * plan.n + i, plan.n**2)
                empty = jnp.zeros((run.batch, plan.n**2), "int32")
                rows = jnp.arange(run.batch)[:, None]
                full = empty.at[rows, at].set(1, mode="drop")
                used.append(full.reshape(run.batch, plan.n, plan.n))
            return spec.event(spec.by_part(used, []))

        return jax.vmap(event, 1)(codes)


class _Sweep:
    """The call of a kernel on one problem."""

    def __init__(self, kernels, problem, lengths):
        from jax import numpy as jnp

        self.kernels, self.problem = kernels, problem
        scores = problem.potentials[0]
        self.plan = kernels.plan(problem.spec.chart, scores.shape[1])
        self.batch, self.dtype = lengths.shape[0], scores.dtype
        self.lengths = jnp.clip(lengths, 0, self.plan.n).astype("int32")

    def __call__(self, kernel, name, inputs, outputs, *options, grid=(), warps=None):
        from keras_struct.ops.chart import gpu_paths, gpu_sweeps

        module = gpu_paths if kernel == "walk" else gpu_sweeps
        run = functools.partial(getattr(module, kernel), self.plan, self.kernels.barrier, *options)
        inputs = {"lengths": self.lengths[:, None], **inputs}
        if kernel == "forward":
            number = scaled.from_log(self.by_width(self.problem.potentials, FORBIDDEN))
            inputs |= {"sm": number.m, "se": number.e}
        return self.kernels.call_by_name(
            run,
            f"keras_struct_chart_{name}",
            (self.batch, *grid),
            inputs,
            outputs,
            warps=warps or self.kernels.warps,
        )

    def array(self, *shape, dtype=None):
        import jax

        return jax.ShapeDtypeStruct(shape, dtype or self.dtype)

    def chart(self):
        size = self.plan.n + 1
        return self.array(self.batch, self.plan.triangles, size, size)

    def by_width(self, potentials, fill=0.0):
        """(B, items, widths, starts) of scored items; `fill` where there is no span."""
        from jax import numpy as jnp

        items, _ = self.problem.spec.by_width(potentials)
        x = jnp.stack(items, 1)
        return jnp.where(self.spans(), x, fill)

    def spans(self):
        """Whether a span by width and start exists, (B, 1, N, N)."""
        from jax import numpy as jnp

        places = jnp.arange(self.plan.n, dtype="int32")
        return (places[:, None] + places < self.lengths[:, None, None])[:, None]

    def items(self, x):
        """(B, items, widths, starts) as a list of (B, widths, starts)."""
        from jax import numpy as jnp

        x = jnp.where(self.spans(), x, 0)
        return [x[:, k] for k in range(x.shape[1])]
