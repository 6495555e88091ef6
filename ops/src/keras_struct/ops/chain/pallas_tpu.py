"""Chains on a TPU, by the Pallas kernels of `tpu_sweeps.py`, tile by tile (`tpu_plan.py`)."""

import functools
from typing import Any, NamedTuple

from keras_struct.ops.chain.categorical import CategoricalSpec
from keras_struct.ops.chain.form import Ends
from keras_struct.ops.chain.tpu_plan import MXU_FROM, TURNED_TO, Plan
from keras_struct.ops.exact_sum import two_sum
from keras_struct.ops.numerics import FORBIDDEN
from keras_struct.ops.pallas import in_pieces
from keras_struct.ops.pallas_tpu import (
    LANES,
    MEGABYTE,
    SUBLANES,
    PathsTPU,
    blocks_of,
    numbers_of_block,
    of_block,
    off_lanes,
    on_lanes,
)

MOST_STATES = 128  # of chains whose states are all linked
SAMPLES = 64  # at a time
MEMORY = 100  # megabytes of VMEM that a kernel may take


class Tape(NamedTuple):
    """What the forward sweep leaves behind.

    Attributes:
        heads: Messages before every tile, (blocks, tiles, 2, past, rows, LANES).
        ends: High and low (B, K) of the messages of the last step.
    """

    heads: Any
    ends: tuple


class ChainTPU(PathsTPU):
    """Sweeps over tiles.

    Attributes:
        times: None, or the steps of every tile.
        mxu_from: From this many states on, products are matrix products.
        turned_to: Up to this many states, transitions lie in VMEM by column, too.
    """

    times: int | None = None
    mxu_from: int = MXU_FROM
    turned_to: int = TURNED_TO

    def rejects(self, call):
        if isinstance(call.spec, CategoricalSpec):
            return "a softmax is one pass over the scores, which XLA makes of `portable`"
        reason = super().rejects(call)
        if reason is not None:
            return reason
        if len(call.shapes) > 1 and call.shapes[1][-1] > MOST_STATES:
            return f"all pairs of more than {MOST_STATES} tags do not fit in VMEM"
        if self.plan(call.spec, call.shapes, dict(call.options).get("states")) is None:
            return "what it keeps of one step does not fit in VMEM"
        return None

    def plan(self, spec, shapes, states=None):
        return Plan.of(spec, shapes, states, self.times, self.mxu_from, self.turned_to)

    def cut(self, problem):
        return _Sweep(self, problem)


class _Sweep(Ends):
    """One problem, cut into tiles, and the calls of the kernels on it."""

    def __init__(self, kernels, problem):
        from jax import numpy as jnp

        super().__init__(kernels.plan, problem)
        self.kernels = kernels
        self.blocks = blocks_of(self.batch)
        lengths = jnp.clip(self.lengths, 0, self.plan.steps).astype("int32")
        self.on_lanes = on_lanes(lengths[:, None], self.batch)
        long = on_lanes(lengths[:, None], self.batch, self.plan.steps)  # where there is no example
        self.limits = jnp.concatenate([long.min(2), self.on_lanes.max(2)], 1)

    def call(self, kernel, name, inputs, outputs, scratch, back=False):
        """A kernel on all tiles; references by name. Inputs and outputs are triples."""
        inputs = {
            "limits": numbers_of_block(self.limits),
            "lengths": of_block(self.on_lanes),
            **inputs,
        }
        if back:
            inputs, outputs = (
                {key: self._reversed(x) for key, x in named.items()} for named in (inputs, outputs)
            )
        return self.kernels.call_by_name(
            kernel,
            f"keras_struct_chain_{name}",
            (self.blocks, self.plan.tiles),
            inputs,
            outputs,
            scratch,
            memory=MEMORY * MEGABYTE,
        )

    def _reversed(self, triple):
        x, block, index, *buffers = triple
        return x, block, lambda n, c: index(n, self.plan.tiles - 1 - c), *buffers

    def of_tile(self, x):
        """Triple of an array whose second axis are tiles."""
        zeros = (0,) * (len(x.shape) - 2)
        return x, (None, None, *x.shape[2:]), lambda n, c: (n, c, *zeros)

    def of_times(self, x):
        """Triple of an array whose second axis are steps."""
        zeros = (0,) * (len(x.shape) - 2)
        return x, (None, self.plan.times, *x.shape[2:]), lambda n, c: (n, c, *zeros)

    def of_pairs(self, x):
        if self.plan.links == "over_time":
            return self.of_times(x)
        return *of_block(x), 1

    # What kernels have in common ------------------------------------------------------------------

    def potentials(self):
        named = self._laid_out(self.problem.potentials, "", FORBIDDEN)
        if self.plan.matrices:
            named["matrices"] = of_block(self.matrices())
        return named

    def matrices(self):
        """Weights of transitions (see `tpu_scaled.py`), to and from, (blocks, 2, rows, rows)."""
        from jax import numpy as jnp

        links = self.problem.potentials[1][0, 0]
        high, low = two_sum(links, -links.max(0, keepdims=True))
        weights = jnp.exp(high)
        weights = weights + weights * low
        more = self.plan.rows - self.plan.states
        weights = jnp.pad(weights, [(0, more), (0, more)], constant_values=1.0)
        both = jnp.stack([weights.T, weights])
        return jnp.broadcast_to(both, (self.blocks, *both.shape))

    def _laid_out(self, potentials, prefix, fill):
        """Triples of the potentials, or of their tangents."""
        scores, *links = potentials
        named = {f"{prefix}scores": self.of_times(self.plan.scores(scores, self.batch, fill))}
        if links:
            pairs = self.plan.pairs_of(links[0], self.batch)
            named[f"{prefix}links"] = self.of_pairs(pairs)
        return named

    def marginals(self):
        named = {"dscores": self.of_times(self.array(*self.plan.scores_shape(self.batch)))}
        if self.plan.links:
            named["dlinks"] = self.of_pairs(self.array(*self.plan.pairs_shape(self.batch)))
        return named

    def collected(self, found):
        """Marginals in the shapes of the potentials, with all examples."""
        parts = [self.plan.of_scores(found["dscores"], self.batch)]
        if self.plan.links:
            parts.append(self.plan.of_pairs(found["dlinks"], self.batch))
        shapes = [(self.batch, *x.shape[1:]) for x in self.problem.potentials]
        return tuple(x.reshape(shape) for x, shape in zip(parts, shapes, strict=True))

    def heads(self, count):
        plan = self.plan
        inner = (*count, plan.past, plan.rows, LANES)
        return self.of_tile(self.array(self.blocks, plan.tiles, *inner))

    def messages(self, op, keep=False):
        """Scratch of a tile that is run forward."""
        from keras_struct.ops.chain import tpu_sweeps

        plan, of = self.plan, self.array
        named = {"g": of(2, plan.past + plan.times, plan.front + plan.rows, LANES)}
        if plan.links:
            named["f"] = of(2, plan.times, plan.rows, LANES)
            named["cells"] = of(plan.pairs if op == "logsumexp" else SUBLANES, LANES)
        if plan.terms > 1:
            times = plan.times if keep else 1
            named["shares"] = of(times, plan.terms, plan.rows, LANES)
        if keep and plan.links:
            named["planes"] = of(3, plan.times, plan.rows, LANES)
        if tpu_sweeps.scales(plan, op):
            named["e"] = of(plan.pairs, LANES)
            named |= dict.fromkeys(("into", "least", "sums"), of(plan.rows, LANES))
            named["a"] = of(plan.times + 1, plan.rows, LANES)
            named["s"] = of(plan.times, plan.rows, LANES)
            named["offsets"] = of(plan.times + 1, SUBLANES, LANES)
        return named

    def messages_back(self, *names):
        from keras_struct.ops.chain import tpu_sweeps

        scaled = ["e"] if tpu_sweeps.scales(self.plan, "logsumexp") else []
        return {
            **self.messages("logsumexp", keep=True),
            **self.turned("links", *names, *scaled),
        }

    def turned(self, *names):
        """Links by column, where VMEM has room for them."""
        if not self.plan.turned:
            return {}
        return {f"{name}_turned": self.array(self.plan.pairs, LANES) for name in names}

    def queue(self):
        return self.array(self.plan.past + self.plan.times, self.plan.rows, LANES)

    def moved(self):
        plan = self.plan
        if not plan.moves:
            return {}
        moved = self.array(2, plan.terms, plan.rows + plan.front, LANES)
        return {"moved": moved, "mass": self.array(1, LANES)}

    def tangents(self):
        plan = self.plan
        named = {"dg": self.array(plan.past + plan.times, plan.front + plan.rows, LANES)}
        if plan.links:
            named["df"] = self.array(plan.times, plan.rows, LANES)
        return named

    def states(self, x):
        """(B, K) as (blocks, rows, LANES)."""
        from jax import numpy as jnp

        pad = [(0, 0), (0, self.plan.rows - self.plan.states)]
        return of_block(on_lanes(jnp.pad(x, pad), self.batch))

    # Sweeps ---------------------------------------------------------------------------------------

    def forward(self, op):
        from keras_struct.ops.chain import tpu_sweeps

        plan = self.plan
        found = self.call(
            functools.partial(tpu_sweeps.forward, plan, op),
            f"forward_{op}",
            self.potentials(),
            {
                "heads": self.heads((2,)),
                "ends": of_block(self.array(self.blocks, 2, plan.rows, LANES)),
            },
            self.messages(op),
        )
        ends = off_lanes(found["ends"], self.batch)[..., : plan.states]
        return Tape(found["heads"], (ends[:, 0], ends[:, 1]))

    def backward(self, tape):
        from keras_struct.ops.chain import tpu_sweeps

        found = self.call(
            functools.partial(tpu_sweeps.backward, self.plan, "logsumexp"),
            "backward",
            {
                **self.potentials(),
                "heads": self.of_tile(tape.heads),
                "final": self.states(self.shares(tape)),
            },
            self.marginals(),
            {**self.messages_back(), "q": self.queue(), **self.moved()},
            back=True,
        )
        return self.collected(found)

    def curvature(self, tape, tangents):
        from keras_struct.ops.chain import tpu_sweeps

        plan = self.plan
        inputs = {
            **self.potentials(),
            **self._laid_out(tangents, "t", 0.0),
            "heads": self.of_tile(tape.heads),
        }
        scratch = {**self.messages("logsumexp", keep=True), **self.tangents()}
        back = {**self.messages_back("tlinks"), **self.tangents()}
        found = self.call(
            functools.partial(tpu_sweeps.tangent, plan, "logsumexp"),
            "tangent",
            inputs,
            {
                "theads": self.heads(()),
                "tends": of_block(self.array(self.blocks, plan.rows, LANES)),
            },
            {**scratch, "mean": self.array(1, LANES)},
        )
        final = self.shares(tape)
        rates = off_lanes(found["tends"], self.batch)[:, : plan.states]
        dfinal = final * (rates - (final * rates).sum(1, keepdims=True))
        inputs |= {
            "theads": self.of_tile(found["theads"]),
            "final": self.states(final),
            "dfinal": self.states(dfinal),
        }
        found = self.call(
            functools.partial(tpu_sweeps.curvature, plan, "logsumexp"),
            "curvature",
            inputs,
            self.marginals(),
            {**back, "q": self.queue(), "dq": self.queue(), **self.moved()},
            back=True,
        )
        return self.collected(found)

    # Paths ----------------------------------------------------------------------------------------

    def paths(self, tape, draws, count):
        """Events (n, B, ...) of the best path, or of samples."""
        return in_pieces(functools.partial(self._paths, tape), draws, count, SAMPLES)

    def _paths(self, tape, draws, count):
        from jax import numpy as jnp

        from keras_struct.ops.chain import tpu_paths

        plan, noisy = self.plan, draws is not None
        op = "logsumexp" if noisy else "max"
        keys = jnp.stack(draws.key, 1) if noisy else jnp.zeros((self.batch, 2, count), "int32")
        samples = keys.shape[2]
        outputs = {"states": (self.blocks, plan.tiles * plan.times, samples, LANES)}
        if plan.links and plan.terms > 1:
            outputs["spans"] = outputs["states"]
        scratch = {**self.messages(op), **self.turned("links")}
        scratch |= {"node": self.array(2, samples, LANES, dtype="int32")}
        if plan.terms > 1:
            scratch["ways"] = self.array(plan.terms, plan.rows, LANES)
            scratch["picked"] = self.array(1, LANES)
        found = self.call(
            functools.partial(tpu_paths.walk, plan, op, noisy),
            f"walk_{op}",
            {
                **self.potentials(),
                "heads": self.of_tile(tape.heads),
                "last": of_block(on_lanes(self.last(tape, draws, count), self.batch)),
                "keys": of_block(on_lanes(keys, self.batch)),
            },
            {key: self.of_times(self.array(*x, dtype="int32")) for key, x in outputs.items()},
            scratch,
            back=True,
        )
        # (B, steps, n) as (n, B, steps)
        paths = [off_lanes(x, self.batch)[:, : plan.steps] for x in found.values()]
        paths = [jnp.moveaxis(x, 2, 0) for x in paths]
        return self.events(*paths)
