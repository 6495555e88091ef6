"""Grammars on a TPU, by the Pallas kernels of `tpu_sweeps.py` and `tpu_paths.py`.

A block of sentences has its whole chart and its rules in VMEM (`tpu_plan.py`).
"""

import functools
from typing import Any, NamedTuple

import numpy as np

from keras_struct.ops import array, scaled
from keras_struct.ops.implementation import Drawing
from keras_struct.ops.noise import flat_places
from keras_struct.ops.numerics import FORBIDDEN
from keras_struct.ops.pallas import in_pieces
from keras_struct.ops.pallas_tpu import (
    LANES,
    MEGABYTE,
    SPARE,
    SUBLANES,
    PallasTPU,
    blocks_of,
    numbers_of_block,
    of_block,
    off_lanes,
    on_lanes,
    room,
)
from keras_struct.ops.pcfg.noise_places import ROOT
from keras_struct.ops.pcfg.tpu_plan import RANGE, Plan, longest
from keras_struct.ops.scaled import Scaled

SAMPLES = 8  # at a time


class Tape(NamedTuple):
    """What inside leaves; every other sweep makes the chart again.

    Attributes:
        trees: Values m, e of all trees with each root, (B, K) each.
    """

    trees: Any

    def shares(self):
        """Of each root, zeros where no tree exists."""
        trees = Scaled(*self.trees)
        whole = scaled.raw_total(trees, 1)
        return scaled.ratio(trees, whole.map(lambda x, _: x[:, None]))


class PCFGTPU(Drawing, PallasTPU):
    """Sweeps over whole charts.

    Attributes:
        sizes: How much is worked on at a time, see `Plan`.
    """

    sizes: tuple[int, int, int] = (8, 4, 16)

    def rejects(self, call):
        reason = super().rejects(call)
        if reason is not None:
            return reason
        (_, k, s, _), (_, n, _), _ = call.shapes
        size, most = Plan(n, k, s - k).largest, room(call.device_kind)
        if size > most:
            words = longest(k, s - k, most)
            enough = f"enough for {words} words" if words else "too few for so many rules"
            return (
                f"its rules and chart would take {size:.0f} MB of VMEM, of which there are {most}: "
                f"{enough}"
            )
        return None

    def forward(self, problem, op):
        from jax import numpy as jnp

        from keras_struct.ops.pcfg import tpu_sweeps

        run = _Sweep(self, problem, "forward")
        found = run(
            functools.partial(tpu_sweeps.forward, run.plan, op),
            f"forward_{op}",
            {},
            {"tops": of_block(run.array(run.blocks, 2, run.plan.phrases, LANES), 1)},
        )
        tops = off_lanes(found["tops"], run.batch)[:, :, : run.plan.k]
        parts = Scaled(tops[:, 0], tops[:, 1])
        trees = scaled.times(parts, scaled.from_log(problem.potentials[2]))
        plus = jnp.max if op == "max" else jnp.sum
        total = scaled.raw_total(trees, 1, plus)
        return scaled.to_log_pair(total), Tape(tuple(trees))

    def backward(self, problem, tape):
        rules, words, _ = self._down("backward", problem, tape)
        return rules, words, tape.shares()

    def curvature(self, problem, tape, tangents):
        return self._down("curvature", problem, tape, tangents)

    def _down(self, sweep, problem, tape, tangents=None):
        from keras_struct.ops.pcfg import tpu_sweeps

        run = _Sweep(self, problem, sweep)
        plan = run.plan
        inputs = {"starts": run.of_roots(tape.shares())}
        outputs = {
            "out": run.array(run.blocks, plan.k, *plan.pairs),
            "out_words": run.array(run.blocks, plan.n * plan.words, LANES),
        }
        if tangents is not None:
            drules, dterms, droots = tangents
            inputs["drules"] = run.on_lanes(run.of_rules(drules, 0.0))
            inputs["dwords"] = run.on_lanes(run.of_words(dterms, 0.0))
            inputs["droots"] = run.of_roots(droots)
            outputs["out_roots"] = run.array(run.blocks, plan.phrases, LANES)
        found = run(
            functools.partial(getattr(tpu_sweeps, sweep), plan),
            sweep,
            inputs,
            {key: of_block(x, 1) for key, x in outputs.items()},
        )
        found = {key: off_lanes(x, run.batch) for key, x in found.items()}
        words = found["out_words"].reshape(run.batch, plan.n, plan.words)[:, :, : plan.p]
        roots = found["out_roots"][:, : plan.k] if tangents is not None else None
        return run.rules_of(found["out"]), words, roots

    def paths(self, problem, tape, draws, count):
        return in_pieces(functools.partial(self._paths, problem, tape), draws, count, SAMPLES)

    def _paths(self, problem, tape, draws, count):
        from jax import numpy as jnp

        from keras_struct.ops.pcfg import tpu_paths

        noisy = draws is not None
        op = "logsumexp" if noisy else "max"
        run = _Sweep(self, problem, "walk")
        plan = run.plan
        words = jnp.stack(draws.key, 2) if noisy else jnp.zeros((run.batch, 1, 2), "int32")
        shares = jnp.broadcast_to(tape.shares()[:, None], (run.batch, count, plan.k))
        logits = jnp.log(jnp.where(shares > 0, shares, 1.0))
        if noisy:
            logits = logits + draws.gumbel(ROOT, flat_places((1, plan.k)), run.dtype.name)
        best = jnp.argmax(jnp.where(shares > 0, logits, FORBIDDEN), 2) + 1
        roots = jnp.where((shares > 0).any(2), best, 0).astype("int32")
        spans = plan.n * (plan.n + 1) // 2
        symbols = run.array(run.blocks, count, spans, LANES, dtype="int32")
        found = run(
            functools.partial(tpu_paths.walk, plan, op, noisy),
            f"walk_{op}",
            {
                "keys": run.of_sample(on_lanes(words[..., None], run.batch)),
                "roots": run.of_sample(on_lanes(roots[:, :, None], run.batch)),
                "numbers": of_block(run.numbers(), 1),
            },
            {"symbols": run.of_sample(symbols)},
            count,
        )
        symbols = off_lanes(found["symbols"], run.batch).swapaxes(0, 1)
        places = _places_of_spans(plan.n)
        return jnp.where(places >= 0, symbols[:, :, np.maximum(places, 0)], 0) - 1


class _Sweep:
    """The call of a kernel on one problem."""

    def __init__(self, kernels, problem, sweep):
        from jax import numpy as jnp

        self.kernels, self.problem, self.sweep = kernels, problem, sweep
        _, terms, roots = problem.potentials
        self.batch, n, p = terms.shape
        self.plan = Plan(n, roots.shape[1], p, *kernels.sizes)
        self.blocks, self.dtype = blocks_of(self.batch), terms.dtype
        lengths = jnp.clip(problem.context[0], 0, n).astype("int32")
        self.lengths = on_lanes(lengths[:, None], self.batch)

    def __call__(self, kernel, name, inputs, outputs, samples=1):
        plan = self.plan
        rules, terms, _ = self.problem.potentials
        given = {
            "limits": numbers_of_block(self.lengths.max(2)),
            "lengths": of_block(self.lengths, 1),
            "words": self.numbers_of(self.of_words(terms, FORBIDDEN)),
            **self.rules(rules),
            **inputs,
        }
        names = {"spans": ["m", "e", "sm", "se"], "pairs": ["pm", "pe", "po"], "phrases": []}
        if self.sweep in ("backward", "curvature"):
            names["spans"] += ["p"]
            names["phrases"] += ["over", "less"]
        if self.sweep == "curvature":
            names["spans"] += ["d", "dp"]
            names["pairs"] += ["pd"]
            names["phrases"] += ["dover"]
        shapes = {"spans": plan.spans, "pairs": plan.pairs, "phrases": (plan.phrases, LANES)}
        scratch = {key: self.array(*shapes[kind]) for kind in names for key in names[kind]}
        return self.kernels.call_by_name(
            kernel,
            f"keras_struct_pcfg_{name}",
            (self.blocks, samples),
            given,
            outputs,
            {**scratch, "zeros": self.array(SUBLANES, LANES)},
            memory=round((plan.megabytes(self.sweep) + SPARE) * MEGABYTE),
        )

    def array(self, *shape, dtype=None):
        import jax

        return jax.ShapeDtypeStruct(shape, dtype or self.dtype)

    def of_sample(self, x):
        """Triple of an array whose second axis are samples."""
        zeros = (0,) * (len(x.shape) - 2)
        return x, (None, None, *x.shape[2:]), lambda n, i: (n, i, *zeros)

    def numbers_of(self, x):
        """Triple of the weights m, e of log-scores (B or 1, ...)."""
        from jax import numpy as jnp

        return of_block(on_lanes(jnp.stack(scaled.from_log(x), 1), self.batch), 1)

    def rules(self, log_rules):
        """Rules, with one exponent where those of all sentences of a block are near each other."""
        from jax import numpy as jnp

        rules = scaled.from_log(self.of_rules(log_rules, FORBIDDEN))
        exists = rules.m > 0
        top = rules.e.max((1, 2), keepdims=True)
        near = jnp.where(exists, rules.e >= top - RANGE, True).all((1, 2))
        flags = on_lanes(near.astype("int32")[:, None], self.batch, 1).min(2)
        near = jnp.broadcast_to(flags, (self.blocks, LANES)).reshape(-1)[: near.shape[0]]
        change = jnp.where(exists & (near[:, None, None] > 0), rules.e - top, 0.0)
        pair = jnp.stack([rules.m * array.power_of_two(change), rules.e - change], 1)
        return {
            "flags": numbers_of_block(flags),
            "top": self.on_lanes(top[:, 0]),
            "rules": self.on_lanes(pair),
        }

    def on_lanes(self, x):
        return of_block(on_lanes(x, self.batch), 1)

    def of_words(self, terms, fill):
        """(B, N words) for (B, N, P)."""
        from jax import numpy as jnp

        plan = self.plan
        more = [(0, 0), (0, 0), (0, plan.words - plan.p)]
        x = jnp.pad(terms, more, constant_values=fill)
        return x.reshape(x.shape[0], plan.n * plan.words)

    def of_roots(self, x):
        """Triple of (B, phrases) for (B, K)."""
        from jax import numpy as jnp

        return self.on_lanes(jnp.pad(x, [(0, 0), (0, self.plan.phrases - self.plan.k)]))

    def of_rules(self, rules, fill):
        """(B or 1, K, pairs) for (B or 1, K, S, S)."""
        from jax import numpy as jnp

        plan = self.plan
        symbols = {True: slice(plan.k, None), False: slice(plan.k)}
        parts, at = [], 0
        for (left, right), kind in plan.kinds.items():
            x = rules[:, :, symbols[left], symbols[right]]
            more = kind.tile * kind.tiles - x.shape[2], kind.rows - x.shape[3]
            x = jnp.pad(x, [(0, 0), (0, 0), (0, more[0]), (0, more[1])], constant_values=fill)
            x = x.reshape(*x.shape[:2], kind.stop - kind.start)
            before = [(0, 0), (0, 0), (kind.start - at, 0)]
            parts.append(jnp.pad(x, before, constant_values=fill))
            at = kind.stop
        behind = [(0, 0), (0, 0), (0, plan.pairs[0] - at)]
        return jnp.pad(jnp.concatenate(parts, 2), behind, constant_values=fill)

    def rules_of(self, x):
        """(B, K, S, S) for (B, K, pairs)."""
        from jax import numpy as jnp

        plan = self.plan

        def of_kind(left, right):
            kind = plan.kinds[left, right]
            part = x[:, :, kind.start : kind.stop].reshape(*x.shape[:2], -1, kind.rows)
            return part[:, :, : kind.size, : plan.p if right else plan.k]

        rows = [
            jnp.concatenate([of_kind(left, right) for right in (False, True)], 3)
            for left in (False, True)
        ]
        return jnp.concatenate(rows, 2)

    def numbers(self):
        """The number of every pair on all lanes, (blocks, pairs, LANES)."""
        from jax import numpy as jnp

        plan = self.plan
        s = plan.k + plan.p
        every = np.broadcast_to(np.arange(s * s).reshape(s, s), (1, plan.k, s, s))
        numbers = self.of_rules(jnp.asarray(every[:, :1].astype(self.dtype)), 0.0)[0, 0]
        return jnp.broadcast_to(numbers[None, :, None], (self.blocks, numbers.shape[0], LANES))


def _places_of_spans(n):
    """(N, N): where the span of these words is among all spans; -1 if there is none."""
    places = np.full((n, n), -1)
    every = [(i, i + w) for w in range(n) for i in range(n - w)]
    places[tuple(zip(*every, strict=True))] = np.arange(len(every))
    return places
