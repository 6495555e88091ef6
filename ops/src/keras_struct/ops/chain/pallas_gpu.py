"""Chains on a GPU, by the Pallas kernels of `gpu_sweeps.py` and `gpu_paths.py`: an example for each
program, which goes over its steps in a loop and ends with it."""

import functools

from keras_struct.ops.chain.categorical import CategoricalSpec
from keras_struct.ops.chain.form import Ends, Form
from keras_struct.ops.chain.gpu_plan import Plan, Tape
from keras_struct.ops.gpu import warps_for
from keras_struct.ops.implementation import Paths
from keras_struct.ops.numerics import FORBIDDEN
from keras_struct.ops.pallas_gpu import PallasGPU


class ChainGPU(Paths, PallasGPU):
    """Sweeps over time.

    Attributes:
        block: See `Plan`.
    """

    block: int | None = None

    def rejects(self, call):
        if isinstance(call.spec, CategoricalSpec):
            return "a softmax is one pass over the scores, which XLA makes of `portable`"
        reason = super().rejects(call)
        if reason is not None:
            return reason
        return self.plan(call.spec, call.shapes, dict(call.options).get("states")).too_large()

    def avoids(self, call):
        if self.interpreter is not None:
            return None
        plan = self.plan(call.spec, call.shapes, dict(call.options).get("states"))
        return plan.better_as_products(call.shapes[0][0])

    def plan(self, spec, shapes, states=None):
        return Plan(**Form.facts(spec, shapes, states), block=self.block)

    def cut(self, problem):
        return _Sweep(self, problem)


class _Sweep(Ends):
    """One problem, and the calls of the kernels on it."""

    def __init__(self, kernels, problem):
        from jax import numpy as jnp

        super().__init__(kernels.plan, problem)
        self.kernels = kernels
        self.clipped = jnp.clip(self.lengths, 0, self.plan.steps).astype("int32")

    def call(self, kernel, name, inputs, outputs, *options, grid=(), warps=None):
        from keras_struct.ops.chain import gpu_paths, gpu_sweeps

        module = gpu_paths if kernel == "walk" else gpu_sweeps
        run = functools.partial(getattr(module, kernel), self.plan, self.kernels.barrier, *options)
        inputs = {"lengths": self.clipped[:, None], **inputs}
        return self.kernels.call_by_name(
            run,
            f"keras_struct_chain_{name}",
            (self.batch, *grid),
            inputs,
            outputs,
            warps=warps or self.plan.warps,
        )

    # Arrays in and out ----------------------------------------------------------------------------

    def potentials(self):
        return self._laid_out(self.problem.potentials, "", FORBIDDEN)

    def _laid_out(self, potentials, prefix, fill):
        """The potentials, or their tangents; `fill` stands where there is no state or way."""
        from jax import numpy as jnp

        plan = self.plan
        scores, *links = potentials
        if plan.moves:
            scores = scores.swapaxes(2, 3)
        elif scores.ndim == 3:
            scores = scores[:, :, None]
        more = [(0, 0), (0, 0), (0, plan.ways - plan.terms), (0, plan.rows - plan.states)]
        if plan.alike:
            scores, more = scores[..., 0], more[:3]
        named = {f"{prefix}scores": jnp.pad(scores, more, constant_values=fill)}
        if links:
            pairs = links[0].reshape(links[0].shape[0], -1, *links[0].shape[-2:])
            more = [(0, 0)] * 2 + [(0, plan.rows - plan.states)] * 2
            if plan.links == "shared":
                pairs = jnp.pad(pairs, more)[:, 0]
            else:
                pairs = jnp.pad(pairs, [(0, 0), (0, plan.steps - pairs.shape[1]), *more[2:]])
            named[f"{prefix}links"] = pairs
        return named

    def marginals(self, planes):
        """What comes out: marginals, and the ring that holds those of some steps."""
        plan = self.plan
        inner = (plan.ways,) if plan.alike else (plan.ways, plan.rows)
        named = {"dscores": self.array(self.batch, plan.steps, *inner)}
        if plan.links:
            times = (plan.steps,) if plan.links == "over_time" else ()
            named["dlinks"] = self.array(self.batch, *times, plan.rows, plan.rows)
        if plan.tile:
            named["work"] = self.array(self.batch, 5, plan.rows)
        if plan.ways > 1:
            ring = self.batch, planes, plan.slots, plan.ways, plan.rows
            named["ring"] = self.array(*ring)
        return named

    def collected(self, found):
        """Marginals in the shapes of the potentials, with all examples."""
        plan = self.plan
        scores = self._of_times(found["dscores"], self.clipped)
        if plan.alike:
            scores = scores[..., : plan.terms]
        else:
            scores = scores[..., : plan.terms, : plan.states]
            scores = scores.swapaxes(2, 3) if plan.moves else scores
        parts = [scores]
        if plan.links:
            links = found["dlinks"][..., : plan.states, : plan.states]
            if plan.links == "over_time":
                links = self._of_times(links, self.clipped - 1)[:, : plan.steps - 1]
            parts.append(links)
        shapes = [(self.batch, *x.shape[1:]) for x in self.problem.potentials]
        return tuple(x.reshape(shape) for x, shape in zip(parts, shapes, strict=True))

    def _of_times(self, x, lengths, nothing=0):
        """What a kernel has written: nothing after the last step."""
        from jax import numpy as jnp

        valid = jnp.arange(x.shape[1], dtype="int32")[None] < lengths[:, None]
        return jnp.where(valid.reshape(*valid.shape, *(1,) * (x.ndim - 2)), x, nothing)

    def states(self, x):
        """(B, K) as (B, rows)."""
        from jax import numpy as jnp

        return jnp.pad(x, [(0, 0), (0, self.plan.rows - self.plan.states)])

    # Sweeps ---------------------------------------------------------------------------------------

    def forward(self, op):
        plan = self.plan
        outputs = {
            "g": self.array(self.batch, 2, plan.steps + 1, plan.rows),
            "ends": self.array(self.batch, 2, plan.rows),
        }
        found = self.call("forward", f"forward_{op}", self.potentials(), outputs, op)
        ends = found["ends"][..., : plan.states]
        return Tape(found["g"], (ends[:, 0], ends[:, 1]))

    def backward(self, tape):
        inputs = {**self.potentials(), "g": tape.g, "final": self.states(self.shares(tape))}
        return self.collected(self.call("backward", "backward", inputs, self.marginals(1)))

    def curvature(self, tape, tangents):
        plan = self.plan
        inputs = {**self.potentials(), **self._laid_out(tangents, "t", 0.0), "g": tape.g}
        outputs = {
            "dg": self.array(self.batch, plan.steps + 1, plan.rows),
            "tends": self.array(self.batch, plan.rows),
        }
        if plan.tile:
            outputs["work"] = self.array(self.batch, 5, plan.rows)
        if plan.ways > 1:
            outputs["gained"] = self.array(self.batch, 2, plan.steps + 1)
        found = self.call("tangent", "tangent", inputs, outputs)
        final, rates = self.shares(tape), found.pop("tends")[:, : plan.states]
        dfinal = final * (rates - (final * rates).sum(1, keepdims=True))
        found.pop("work", None)
        inputs |= found
        inputs |= {"final": self.states(final), "dfinal": self.states(dfinal)}
        return self.collected(self.call("curvature", "curvature", inputs, self.marginals(2)))

    def paths(self, tape, draws, count):
        """Events (n, B, ...) of the best path, or of samples."""
        from jax import numpy as jnp

        plan, noisy = self.plan, draws is not None
        op = "logsumexp" if noisy else "max"
        keys = jnp.stack(draws.key, 1) if noisy else jnp.zeros((self.batch, 2, count), "int32")
        last = self.last(tape, draws, count)
        inputs = {**self.potentials(), "g": tape.g, "last": last, "keys": keys}
        path = self.array(self.batch, count, plan.steps, dtype="int32")
        outputs = {"states": path}
        if plan.links and plan.ways > 1:
            outputs["spans"] = path
        warps = warps_for(plan.rows * plan.ways)
        found = self.call(
            "walk", f"walk_{op}", inputs, outputs, op, noisy, grid=(count,), warps=warps
        )
        # (B, n, steps) as (n, B, steps)
        times = jnp.arange(plan.steps, dtype="int32")[None, None]
        inside = times < self.clipped[:, None, None]
        return self.events(*(jnp.where(inside, x, -1).swapaxes(0, 1) for x in found.values()))
