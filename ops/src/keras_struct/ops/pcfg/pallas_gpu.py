"""Grammars on a GPU under JAX, by the Pallas kernels of `gpu_sweeps.py`: programs for the spans of
each width of a sentence. Traces and samples are left to `portable`."""

import functools

from keras_struct.ops import scaled
from keras_struct.ops.numerics import FORBIDDEN
from keras_struct.ops.pallas_gpu import PallasGPU
from keras_struct.ops.pcfg.gpu_plan import Plan, Tape
from keras_struct.ops.scaled import EMPTY, Scaled


class PCFGGPU(PallasGPU):
    """Sweeps over the spans of a sentence, by width.

    Attributes:
        sizes: Symbols of a tile, and parents that are worked on at a time (see `gpu_plan.Plan`);
            None for those of the grammar.
        programs: For each sentence; None for as many as fill the device.
    """

    sizes: tuple[int, int] | None = None
    programs: int | None = None

    def rejects(self, call):
        reason = super().rejects(call)
        if reason is not None:
            return reason
        (_, k, s, _), (_, n, _), _ = call.shapes
        return self.plan(k, s - k).too_large(n)

    def plan(self, k, p):
        return Plan(k, p, *(self.sizes or Plan.sizes(k, p)))

    def forward(self, problem, op):
        from jax import numpy as jnp

        run = _Sweep(self, problem)
        plan, n = run.plan, run.n
        terms = jnp.stack(scaled.from_log(problem.potentials[1]), 1)
        empty = jnp.array([0.0, EMPTY], run.dtype)[:, None, None, None]
        parts = jnp.broadcast_to(empty, (run.batch, 2, n, n, plan.symbols))
        at = jnp.arange(n)
        parts = parts.at[:, :, at, at, plan.words : plan.words + plan.p].set(terms)
        state = {"parts": parts, "sums": run.zeros(2, n, n, plan.phrases)}
        found = run("inside", f"inside_{op}", {"rules": run.rules()}, state, op)
        m, e = (run.whole(x)[:, : plan.k] for x in jnp.unstack(found["sums"], axis=1))
        parts = Scaled(m, jnp.where(m > 0, e, EMPTY))
        trees = scaled.times(parts, scaled.from_log(problem.potentials[2]))
        total = scaled.raw_total(trees, 1, jnp.max if op == "max" else jnp.sum)
        return scaled.to_log_pair(total), Tape(found["parts"], found["sums"], tuple(trees))

    def backward(self, problem, tape):
        return self._down(problem, tape)

    def curvature(self, problem, tape, tangents):
        return self._down(problem, tape, tangents)

    def _down(self, problem, tape, tangents=None):
        from jax import numpy as jnp

        run = _Sweep(self, problem)
        plan, n = run.plan, run.n
        shares = tape.shares()
        inputs = {"rules": run.rules(), "parts": tape.parts, "sums": tape.sums}
        state = {
            "got": run.zeros(2, n, n, plan.symbols),
            "out": run.zeros(run.programs, plan.phrases, plan.cells),
        }
        if tangents is not None:
            drules, dterms, droots = tangents
            inputs["drules"] = run.by_tile(drules, 0.0)
            at = jnp.arange(n)
            rates = run.zeros(n, n, plan.symbols)
            rates = rates.at[:, at, at, plan.words : plan.words + plan.p].set(dterms)
            rates = run("tangent", "tangent", inputs, {"rates": rates})["rates"]
            moved = droots + run.whole(rates)[:, : plan.k]
            droots = shares * (moved - (shares * moved).sum(1, keepdims=True))
            inputs |= {"rates": rates, "dstarts": run.of_phrases(droots)}
            state["dgot"] = state["got"]
        rate = tangents is not None
        name = "curvature" if rate else "backward"
        inputs["starts"] = run.of_phrases(shares)
        found = run("down", name, inputs, state, rate, back=True)
        words = jnp.diagonal(found["dgot" if rate else "got"].sum(1), 0, 1, 2)
        words = words[:, plan.words : plan.words + plan.p].swapaxes(1, 2)
        return run.by_symbol(found["out"].sum(1)), words, droots if rate else shares


class _Sweep:
    """The calls of a kernel on one problem."""

    def __init__(self, kernels, problem):
        from jax import numpy as jnp

        self.kernels, self.problem = kernels, problem
        _, terms, roots = problem.potentials
        self.batch, self.n, p = terms.shape
        self.plan, self.dtype = kernels.plan(roots.shape[1], p), terms.dtype
        self.programs = kernels.programs or self.plan.programs(self.batch, self.n)
        self.lengths = jnp.clip(problem.context[0], 0, self.n).astype("int32")

    def __call__(self, kernel, name, inputs, state, *options, back=False):
        """What a kernel makes of the arrays of `state` in one call, or in one for each width if
        several programs share a sentence."""
        import jax
        from jax import lax
        from jax import numpy as jnp

        from keras_struct.ops.pcfg import gpu_sweeps

        run = functools.partial(
            getattr(gpu_sweeps, kernel),
            self.plan,
            self.n,
            self.programs,
            self.kernels.barrier,
            *options,
        )

        # With a tangent of everything half as many numbers fit in the registers of a thread.
        warps = self.plan.warps * (2 if name == "curvature" else 1)

        def flat(x):
            return x.reshape(x.shape[0], -1)

        inputs = {"lengths": self.lengths[:, None], **{k: flat(x) for k, x in inputs.items()}}
        shapes = {key: x.shape for key, x in state.items()}
        state = {key: flat(x) for key, x in state.items()}
        outputs = {key: jax.ShapeDtypeStruct(x.shape, x.dtype) for key, x in state.items()}
        pairs = self.batch, self.programs * 3 * self.plan.cells
        outputs["pairs"] = jax.ShapeDtypeStruct(pairs, self.dtype)

        def widths(first, last, state):
            bounds = jnp.array([[first, last]], "int32")
            given = {f"given_{key}": state[key] for key in shapes}
            found = self.kernels.call_by_name(
                run,
                f"keras_struct_pcfg_{name}",
                (self.batch, self.programs),
                {"bounds": bounds, **inputs, **given},
                outputs,
                warps=warps,
                aliases={1 + len(inputs) + i: i for i in range(len(shapes))},
            )
            return {key: found[key] for key in shapes}

        if self.programs == 1:
            state = widths(2, self.n + 1, state)
        else:

            def step(k, state):
                w = self.n - k if back else 2 + k
                return widths(w, w + 1, state)

            state = lax.fori_loop(0, self.n - 1, step, state)
        return {key: x.reshape(shapes[key]) for key, x in state.items()}

    def zeros(self, *shape):
        from jax import numpy as jnp

        return jnp.zeros((self.batch, *shape), self.dtype)

    # Rules, tile by tile --------------------------------------------------------------------------

    def places(self):
        """Of symbols among those of a span, as indices of an axis of two and of the next one."""
        from jax import numpy as jnp

        plan = self.plan
        found = jnp.concatenate([jnp.arange(plan.k), plan.words + jnp.arange(plan.p)])
        return found[:, None], found

    def by_tile(self, x, fill):
        """(B, K, S, S) as (B, phrases, cells)."""
        from jax import numpy as jnp

        plan, size = self.plan, x.shape[0]
        every = jnp.full((size, plan.phrases, plan.symbols, plan.symbols), fill, x.dtype)
        every = every.at[(slice(None), slice(plan.k), *self.places())].set(x)
        every = every.reshape(size, plan.phrases, *(plan.tiles, plan.tile) * 2)
        return every.swapaxes(3, 4).reshape(size, plan.phrases, plan.cells)

    def by_symbol(self, x):
        """(B, K, S, S) of (B, phrases, cells)."""
        plan = self.plan
        x = x.reshape(*x.shape[:2], *(plan.tiles,) * 2, *(plan.tile,) * 2).swapaxes(3, 4)
        x = x.reshape(*x.shape[:2], plan.symbols, plan.symbols)
        return x[(slice(None), slice(plan.k), *self.places())]

    def rules(self):
        """(B or 1, 2, phrases, cells)."""
        from jax import numpy as jnp

        x = self.by_tile(self.problem.potentials[0], FORBIDDEN)
        return jnp.stack(scaled.from_log(x), 1)

    def of_phrases(self, x):
        """(B, K) as (B, phrases)."""
        from jax import numpy as jnp

        return jnp.pad(x, [(0, 0), (0, self.plan.phrases - self.plan.k)])

    def whole(self, x):
        """(B, ...) of the whole sentences, of all spans (B, N, N, ...)."""
        from jax import numpy as jnp

        last = jnp.maximum(self.lengths, 1) - 1
        return x[jnp.arange(self.batch), 0, last]
