"""Spanning trees on an NVIDIA GPU under JAX: value and marginals by the Pallas kernels of
`gpu_sweeps.py`, a program for each sentence. Curvature and traces are left to `portable`."""

import functools

from keras_struct.ops.pallas_gpu import PallasGPU
from keras_struct.ops.scaled import EMPTY, Scaled
from keras_struct.ops.spanning_tree.gpu_plan import (
    Plan,
    Tape,
    lines_of,
    too_long,
    warps_for,
    width_of,
)
from keras_struct.ops.spanning_tree.portable import log_partition, weights_of


class SpanningTreeGPU(PallasGPU):
    """Value, maximum and marginals.

    Attributes:
        lines: How many of a sentence are worked on at a time; None for what its warps hold.
    """

    lines: int | None = None

    def rejects(self, call):
        return super().rejects(call) or too_long(call.shapes[0][1])

    def forward(self, problem, op):
        from jax import numpy as jnp

        (arcs,), (lengths,) = problem.potentials, problem.context
        n = arcs.shape[1]
        peaks, found = self._run("forward", problem, lengths, {"pivots": 2 * n}, op)
        active = jnp.arange(n) < lengths[:, None]
        m, e = jnp.split(found["pivots"], 2, 1)
        pivots = Scaled(jnp.where(active, m, 1.0), jnp.where(active, e, 0.0))
        total = log_partition(peaks, pivots)
        return total, Tape.of(total, lengths)

    def backward(self, problem, tape):
        from jax import numpy as jnp

        (arcs,), lengths = problem.potentials, tape.lengths
        batch, n = arcs.shape[:2]
        width = width_of(n)
        outputs = {
            "pivots": 2 * n,
            "swaps": n,
            "choice": n * width,
            "shares": max(1, n * (n - 1) // 2) * width,
        }
        _, found = self._run("backward", problem, lengths, outputs)
        active = jnp.arange(n) < lengths[:, None]
        p = found["m"].reshape(batch, n, width)[:, :, :n]
        return (jnp.where(active[:, :, None] & active[:, None], p, 0.0),)

    def _run(self, name, problem, lengths, outputs, *options):
        """The largest scores of lines (B, N), and what a kernel gives, by name; `outputs` has the
        sizes of more of it."""
        import jax
        from jax import numpy as jnp

        from keras_struct.ops.spanning_tree import gpu_sweeps

        (arcs,) = problem.potentials
        batch, n = arcs.shape[:2]
        warps, width = warps_for(batch, n), width_of(n)
        plan = Plan(width, self.lines or lines_of(n, warps), problem.spec.single_root)
        weights, peaks = weights_of(arcs)

        def lines(x, fill):
            x = jnp.pad(x, [(0, 0), (0, 0), (0, width - n)], constant_values=fill)
            return x.reshape(batch, n * width)

        kinds = {"swaps": "int32"}
        outputs = {"m": n * width, "e": n * width, **outputs}
        found = self.call_by_name(
            functools.partial(getattr(gpu_sweeps, name), plan, n, self, *options),
            f"keras_struct_spanning_tree_{'_'.join([name, *options])}",
            (batch,),
            {
                "lengths": jnp.clip(lengths, 0, n).astype("int32")[:, None],
                "given_m": lines(weights.m, 0.0),
                "given_e": lines(weights.e, EMPTY),
            },
            {
                key: jax.ShapeDtypeStruct((batch, size), kinds.get(key, arcs.dtype))
                for key, size in outputs.items()
            },
            warps=warps,
            aliases={1: 0, 2: 1},
        )
        return peaks, found
