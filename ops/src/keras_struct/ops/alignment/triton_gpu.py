"""Alignments on an NVIDIA GPU under PyTorch, by the Triton kernels of `triton_sweeps.py`."""

import functools
from typing import Any, NamedTuple

from keras_struct.ops.alignment import events
from keras_struct.ops.alignment.layout import Layout, unedge
from keras_struct.ops.alignment.paths import END
from keras_struct.ops.alignment.run import Run
from keras_struct.ops.alignment.triton_plan import Plan, Sizes
from keras_struct.ops.implementation import Paths
from keras_struct.ops.messages import join, log_sum, log_weights
from keras_struct.ops.noise import flat_places, perturbed
from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE
from keras_struct.ops.triton import TritonGPU, keys_of

PATHS = 32  # that a program walks at once
TIMES = 128  # nodes of a time that a program looks at at once


class Tape(NamedTuple):
    """What the forward sweep leaves behind.

    Attributes:
        messages: All of them, (B, strips, times, rows, S, 2, lanes), see `triton_plan.py`.
        ends: High and low (B, E) of the log-weight of every way to end, see `Run.all_ends`.
    """

    messages: Any
    ends: tuple


class AlignmentTriton(Paths, TritonGPU):
    """Sweeps by strips.

    Attributes:
        sizes: None, or those of strips and tiles for every call.
    """

    sizes: Sizes | None = None

    def rejects(self, call):
        if call.spec.jumps:
            return "a transposition may come from any earlier row, and a strip knows the last ones"
        return super().rejects(call)

    def cut(self, problem):
        return _Sweep(self, problem)


class _Sweep:
    """One problem, and the launches of the kernels on it."""

    def __init__(self, kernels, problem):
        import torch

        self.kernels, self.problem, self.spec = kernels, problem, problem.spec
        first, second = problem.context[:2]
        self.batch = first.shape[0]
        self.rows, self.columns = problem.potentials[0].shape[1:]
        self.potentials = tuple(x.contiguous() for x in problem.potentials)
        like = self.potentials[0]
        self.new = functools.partial(torch.empty, dtype=like.dtype, device=like.device)
        self.zeros = functools.partial(torch.zeros, dtype=like.dtype, device=like.device)
        clipped = first.clamp(0, self.rows), second.clamp(0, self.columns)
        self.lengths = torch.stack(clipped, 1).to(torch.int32).contiguous()
        self.sizes = kernels.sizes or Sizes.of(self.spec, self.batch, self.rows, self.columns)
        wide = like.dtype == torch.float64
        approximate = not (wide or kernels.interpreter)
        shapes = [x.shape for x in self.potentials]
        self.plan = Plan.of(self.spec, shapes, self.batch, self.sizes, approximate, wide)
        self.strips = self.rows // self.plan.height + 1
        self.times = self.columns + self.plan.lanes

    def tape_shape(self, *parts):
        plan = self.plan
        inner = plan.rows, plan.states, *parts, plan.lanes
        return self.batch, self.strips, self.times, *inner

    def run(self, name, *arguments, back=False, **constants):
        """A kernel on all pairs: in one launch, or wave by wave of tiles."""
        sizes = self.rows, self.columns, self.strips
        warps = max(1, self.plan.lanes // 32)
        launch = functools.partial(
            self.kernels.launch, "alignment.triton_sweeps", name, warps=warps, PLAN=self.plan
        )
        if not self.plan.tiled:
            launch((self.batch,), *arguments, *sizes, 0, 0, 0, **constants)
            return
        tiles = -(-self.times // self.sizes.times)
        waves = range(2 * (self.strips - 1) + tiles)
        for wave in reversed(waves) if back else waves:
            lowest = max(0, -((tiles - 1 - wave) // 2))
            highest = min(self.strips - 1, wave // 2)
            grid = self.batch, highest - lowest + 1
            launch(grid, *arguments, *sizes, lowest, wave, self.sizes.times, **constants)

    def forward(self, op):
        tape = self.new(self.tape_shape(2))
        self.run(
            "forward",
            self.potentials,
            self.potentials,
            self.lengths,
            tape,
            tape,
            tape,
            tape,
            HARD=op == "max",
            RATE=False,
        )
        return Tape(tape, self.ends(tape, op))

    def total(self, tape, op):
        """The log-partition, or the largest score, as a pair (B,)."""
        high, low = tape.ends
        peak, rest, _, _ = log_sum(high, low, 0.0, 1, op)
        return peak[:, 0], rest[:, 0]

    def ends(self, tape, op):
        import torch

        if self.spec.end == "corner":
            last = self.at_corner(tape)
            return last[:, :, 0], last[:, :, 1]
        run = Run(self.problem)
        steps = 1 + self.rows + self.columns
        found = self.new((self.batch, 2, steps))
        self.kernels.launch(
            "alignment.triton_paths",
            "ends",
            (self.batch, steps),
            tape,
            self.lengths,
            found,
            self.rows,
            self.columns,
            self.strips,
            HARD=op == "max",
            BLOCK=2 if self.spec.end == "border" else TIMES,
            PLAN=self.plan,
        )
        missing = self.zeros((self.batch, 2, 1 + run.steps - steps + 1))
        missing[:, 0] = FORBIDDEN
        if self.spec.empty:
            missing[:, 0, -1] = 0.0
        high, low = torch.cat([found, missing], 2).unbind(1)
        return high, low

    def at_corner(self, tape):
        """What a tape has where all paths end, (B, S, ...)."""
        import torch

        i, j = self.lengths.long().unbind(1)
        k, lane, row = self.plan.split(i)
        examples = torch.arange(self.batch, device=i.device)
        return tape[examples, k, j + lane, row, ..., lane]

    def end_weights(self, tape):
        """Of the states in the corner their shares, else high and low of the log-partition."""
        import torch

        if self.spec.end == "corner":
            return Run(self.problem).shares(tape.ends).contiguous()
        high, low = tape.ends
        peak, rest, _, _ = log_sum(high, low, 0.0, 1, "logsumexp")
        peak, rest = join(peak, rest)
        return torch.cat([torch.where(peak > INFEASIBLE, peak, 0.0), rest], 1).contiguous()

    def backward(self, tape, tangents=None):
        """Marginals, or with tangents those of the marginals."""
        rate = tangents is not None
        messages, plan = tape.messages, self.plan
        parts = 2 if rate else 1
        tangents = tuple(x.contiguous() for x in tangents) if rate else self.potentials
        ends, rates, moved = self.end_weights(tape), messages, messages
        if rate:
            rates, moved = self.new(self.tape_shape()), self.zeros((self.batch, self.strips))
            arguments = self.potentials, tangents, self.lengths, messages, rates, ends, moved
            self.run("forward", *arguments, HARD=False, RATE=True)
            moved = moved.sum(1)
        edges = self.zeros((self.batch, self.strips, plan.leaving(parts), self.columns + 1))
        carries = edges
        if plan.tiled:
            carries = self.zeros((self.batch, self.strips, plan.carry(parts), plan.lanes))
        sums = [self.zeros(self.sums_shape(c)) for c in range(plan.channels)]
        self.run(
            "backward",
            self.potentials,
            tangents,
            self.lengths,
            messages,
            rates,
            ends,
            moved,
            edges,
            carries,
            tuple(sums),
            back=True,
            RATE=rate,
        )
        return tuple(map(self.collected, range(plan.channels), sums))

    def curvature(self, tape, tangents):
        return self.backward(tape, tangents)

    def sums_shape(self, channel):
        rows, columns = self.rows, self.columns
        inner = {
            "cell": (rows, columns),
            "node": (rows + 1, columns + 1),
            "row": (rows + 1,),
            "column": (self.strips, columns + 1),
            "scalar": (self.strips,),
        }
        return self.batch, *inner[self.plan.kind(channel)]

    def collected(self, channel, x):
        """A marginal in the shape of its potential, per example; the border reads the first row or
        column."""
        kind = self.plan.kind(channel)
        if kind == "node":
            return unedge(unedge(x, 1), 2)
        if kind == "row":
            return unedge(x[:, :, None], 1)
        if kind == "column":
            return unedge(x.sum(1)[:, None], 2)
        return x.sum(1)[:, None, None] if kind == "scalar" else x

    # Paths ----------------------------------------------------------------------------------------

    def paths(self, tape, draws, count):
        """Events (n, B, ...) of the best path, or of samples."""
        import torch

        noisy = draws is not None
        keys = keys_of(draws, self.lengths, count)
        nodes = self.ends_of_paths(tape, draws, count, keys).contiguous()
        layout = Layout(self.rows, self.columns, self.spec.by_rows)
        places = torch.full(
            (layout.steps + 1, count, self.batch), -1, dtype=torch.int32, device=keys.device
        )
        self.kernels.launch(
            "alignment.triton_paths",
            "walk",
            (-(-self.batch * count // PATHS),),
            self.potentials,
            tape.messages,
            nodes,
            keys,
            places,
            self.batch,
            count,
            self.rows,
            self.columns,
            self.strips,
            NOISY=noisy,
            BLOCK=PATHS,
            PLAN=self.plan,
            warps=1,
        )
        event = events.encode(self.spec, layout, places.flatten(1))
        return event.reshape(count, self.batch, *event.shape[1:])

    def ends_of_paths(self, tape, draws, count, keys):
        """i, j and state (B, n, 3) of the last nodes of paths; -1 where there is none."""
        import torch

        run = Run(self.problem)
        logits = log_weights(run.shares(tape.ends))[:, None]
        places = flat_places((1, logits.shape[2]))
        chosen = perturbed(logits, draws, END, places).argmax(2)
        if self.spec.end == "corner":
            first, second = (x[:, None].expand(-1, count) for x in self.lengths.unbind(1))
            return torch.stack([first, second, chosen.to(torch.int32)], 2)
        pairs = torch.stack([x.gather(1, chosen) for x in tape.ends], 2)
        times = torch.where(chosen > run.steps, -1, chosen).to(torch.int32)
        nodes = torch.empty_like(times[:, :, None].expand(-1, -1, 3).contiguous())
        self.kernels.launch(
            "alignment.triton_paths",
            "last_nodes",
            (self.batch, count),
            tape.messages,
            self.lengths,
            times.contiguous(),
            pairs.contiguous(),
            keys,
            nodes,
            self.rows,
            self.columns,
            self.strips,
            NOISY=draws is not None,
            BLOCK=TIMES,
            PLAN=self.plan,
        )
        return nodes
