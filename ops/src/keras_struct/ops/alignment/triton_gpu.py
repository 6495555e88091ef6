"""Alignments on an NVIDIA GPU under PyTorch, by the Triton kernels of `triton_sweeps.py`."""

import functools

from keras_struct.ops.alignment import events, gpu_tape
from keras_struct.ops.alignment.gpu_plan import PATHS, Cut, Sizes
from keras_struct.ops.alignment.gpu_tape import Tape
from keras_struct.ops.alignment.layout import Layout
from keras_struct.ops.implementation import Paths
from keras_struct.ops.numerics import INFEASIBLE
from keras_struct.ops.triton import TritonGPU, keys_of

BITS = {"float32": 24, "float64": 53}  # digits of a number


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
        self.cut = Cut.of(problem, kernels.sizes, not kernels.interpreter)
        self.plan, self.strips = self.cut.plan, self.cut.strips

    def run(self, name, *arguments, back=False, **constants):
        """A kernel on all pairs: in one launch, or wave by wave of tiles."""
        cut, sizes = self.cut, (self.rows, self.columns, self.strips)
        launch = functools.partial(
            self.kernels.launch, "alignment.triton_sweeps", name, warps=cut.warps, PLAN=self.plan
        )
        if not self.plan.tiled:
            launch((self.batch,), *arguments, *sizes, 0, 0, 0, **constants)
            return
        for wave in reversed(range(cut.waves)) if back else range(cut.waves):
            lowest = max(0, -((cut.tiles - 1 - wave) // 2))
            highest = min(self.strips - 1, wave // 2)
            grid = self.batch, highest - lowest + 1
            launch(grid, *arguments, *sizes, lowest, wave, cut.size, **constants)

    def forward(self, op):
        tape = self.new((self.batch, *self.cut.tape(2)))
        split, bits = op == "logsumexp", BITS[str(tape.dtype).removeprefix("torch.")] - 1
        whole = self.in_range(bits) if split else self.lengths
        for ones in (1.5 * 2.0**bits, 0.0) if split else (0.0,):
            self.run(
                "forward",
                self.potentials,
                self.potentials,
                self.lengths,
                whole,
                tape,
                tape,
                tape,
                tape,
                HARD=not split,
                RATE=False,
                SPLIT=split,
                ONES=ones,
            )
        return Tape(tape, self.ends(tape, op))

    def in_range(self, bits):
        """Whether sums of whole numbers along a path have no rounding error, (B,)."""
        import torch

        most = self.zeros((self.batch,))
        for x in filter(torch.Tensor.numel, self.potentials):
            most = most.maximum(x.abs().masked_fill(x <= INFEASIBLE, 0.0).amax((1, 2)))
        return ((self.rows + self.columns) * (most + 4.0) <= 2.0**bits).to(self.lengths.dtype)

    def total(self, tape, op):
        return gpu_tape.total(tape, op)

    def ends(self, messages, op):
        if self.spec.end == "corner":
            return gpu_tape.at_corner(self.cut, messages, self.lengths.long())
        steps = 1 + self.rows + self.columns
        found = self.new((self.batch, 2, steps))
        self.kernels.launch(
            "alignment.triton_paths",
            "ends",
            (self.batch, steps),
            messages,
            self.lengths,
            found,
            self.rows,
            self.columns,
            self.strips,
            HARD=op == "max",
            BLOCK=self.cut.block_of_ends,
            warps=self.cut.warps_of_ends,
            PLAN=self.plan,
        )
        return gpu_tape.all_ends(self.problem, found)

    def backward(self, tape, tangents=None):
        """Marginals, or with tangents those of the marginals."""
        rate = tangents is not None
        messages, plan = tape.messages, self.plan
        parts = 2 if rate else 1
        tangents = tuple(x.contiguous() for x in tangents) if rate else self.potentials
        ends = gpu_tape.end_weights(self.problem, tape).contiguous()
        rates, moved = messages, messages
        if rate:
            rates = self.new((self.batch, *self.cut.tape()))
            moved = self.zeros((self.batch, self.strips))
            lengths = self.lengths, self.lengths
            arguments = self.potentials, tangents, *lengths, messages, rates, ends, moved
            self.run("forward", *arguments, HARD=False, RATE=True, SPLIT=False, ONES=0.0)
            moved = moved.sum(1)
        edges = self.zeros((self.batch, *self.cut.edges(parts)))
        carries = edges
        if plan.tiled:
            carries = self.zeros((self.batch, *self.cut.carries(parts)))
        sums = [self.zeros((self.batch, *self.cut.sums(c))) for c in range(plan.channels)]
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
        return tuple(map(self.cut.collected, range(plan.channels), sums))

    def curvature(self, tape, tangents):
        return self.backward(tape, tangents)

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

        chosen = gpu_tape.chosen_ends(self.problem, tape, draws)
        if self.spec.end == "corner":
            first, second = (x[:, None].expand(-1, count) for x in self.lengths.unbind(1))
            return torch.stack([first, second, chosen.to(torch.int32)], 2)
        pairs = torch.stack([x.gather(1, chosen) for x in tape.ends], 2)
        times = torch.where(chosen > self.rows + self.columns, -1, chosen).to(torch.int32)
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
            BLOCK=self.cut.block_of_ends,
            warps=self.cut.warps_of_ends,
            PLAN=self.plan,
        )
        return nodes
