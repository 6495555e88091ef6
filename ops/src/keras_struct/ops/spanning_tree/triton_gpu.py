"""Spanning trees on an NVIDIA GPU under PyTorch: value and marginals by the Triton kernels of
`triton_sweeps.py`, a program for each sentence. Curvature and traces are left to `portable`."""

import functools

from keras_struct.ops.scaled import Scaled
from keras_struct.ops.spanning_tree.gpu_plan import (
    Plan,
    Tape,
    lines_of,
    too_long,
    warps_for,
    width_of,
)
from keras_struct.ops.spanning_tree.portable import log_partition
from keras_struct.ops.triton import TritonGPU


class SpanningTreeTriton(TritonGPU):
    """Value, maximum and marginals.

    Attributes:
        lines: How many of a sentence are worked on at a time; None for what its warps hold.
    """

    lines: int | None = None

    def rejects(self, call):
        return super().rejects(call) or too_long(call.shapes[0][1])

    def forward(self, problem, op):
        run = _Sweep(self, problem, problem.context[0])
        matrix, peaks = run.weights()
        pivots = run.zeros((run.batch, 2, run.n))
        pivots[:, 0] = 1.0  # in the padding
        run("forward", (), run.lengths, matrix, pivots, HARD=op == "max")
        total = log_partition(peaks, Scaled(*pivots.unbind(1)))
        return total, Tape.of(total, problem.context[0])

    def backward(self, problem, tape):
        run = _Sweep(self, problem, tape.lengths)
        matrix, _ = run.weights()
        n, width = run.n, run.plan.width
        shape = run.batch, n
        probability = run.zeros((*shape, n))
        run(
            "backward",
            (),
            run.lengths,
            matrix,
            run.new((run.batch, 2, n)),
            run.new(shape, dtype=run.lengths.dtype),
            run.new((*shape, width)),
            run.new((run.batch, n * (n - 1) // 2, width)),
            probability,
        )
        return (probability,)


class _Sweep:
    """One problem, and the launches of the kernels on it."""

    def __init__(self, kernels, problem, lengths):
        import torch

        self.kernels = kernels
        self.arcs = problem.potentials[0].contiguous()
        self.batch, self.n = self.arcs.shape[:2]
        wide = self.arcs.dtype == torch.float64
        self.warps = warps_for(self.batch, self.n) if isinstance(self.batch, int) else 1
        self.plan = Plan(
            width_of(self.n),
            kernels.lines or lines_of(self.n, self.warps),
            problem.spec.single_root,
            approximate=not (wide or kernels.interpreter),
            wide=wide,
        )
        same = {"dtype": self.arcs.dtype, "device": self.arcs.device}
        self.new = functools.partial(torch.empty, **same)
        self.zeros = functools.partial(torch.zeros, **same)
        self.lengths = lengths.clamp(0, self.n).to(torch.int32).contiguous()

    def __call__(self, name, grid, *arrays, **constants):
        self.kernels.launch(
            "spanning_tree.triton_sweeps",
            name,
            (self.batch, *grid),
            *arrays,
            self.n,
            warps=self.warps,
            **constants,
            PLAN=self.plan,
        )

    def weights(self):
        """The matrix (B, 2, N, W) and the peaks (B, N)."""
        matrix = self.new((self.batch, 2, self.n, self.plan.width))
        peaks = self.new((self.batch, self.n))
        blocks = -(-self.n // self.plan.lines)
        self("weigh", (blocks,), self.arcs, self.lengths, matrix, peaks)
        return matrix, peaks
