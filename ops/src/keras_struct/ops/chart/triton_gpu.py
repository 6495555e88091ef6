"""Charts on an NVIDIA GPU under PyTorch, by the Triton kernels of `triton_sweeps.py` and
`triton_paths.py`: a program for each sentence, whose chart is the tape."""

import functools
from typing import Any, NamedTuple

from keras_struct.ops import scaled
from keras_struct.ops.chart.gpu_limits import WholeCharts
from keras_struct.ops.chart.triton_plan import Plan, warps_for
from keras_struct.ops.gpu import power
from keras_struct.ops.numerics import INFEASIBLE
from keras_struct.ops.triton import TritonGPU, keys_of

MOST_CUTS = 256  # of a span, that a walk looks at at a time


class Tape(NamedTuple):
    """What the forward sweep leaves behind (see `triton_chart.py`), and the lengths.

    Attributes:
        tables: (B, N + 1, T, 2 stride).
        products: (B, K, 2, N + 1, N + 1).
        lengths: (B,), 0 where nothing exists.
    """

    tables: Any
    products: Any
    lengths: Any


class ChartTriton(WholeCharts, TritonGPU):
    """Sweeps over whole charts.

    Attributes:
        sizes: How many starts for each warp, and how many cuts, are worked on at a time.
        warps: Of a program; None for a number that fills the device.
    """

    sizes: tuple[int, int] = (8, 16)
    warps: int | None = None

    def forward(self, problem, op):
        return _Sweep(self, problem, problem.context[0]).forward(op)

    def backward(self, problem, tape):
        return _Sweep(self, problem, tape.lengths).down(tape)

    def curvature(self, problem, tape, tangents):
        return _Sweep(self, problem, tape.lengths).down(tape, tangents)

    def paths(self, problem, tape, draws, count):
        return _Sweep(self, problem, tape.lengths).paths(tape, draws, count)


class _Sweep:
    """One problem, and the launches of the kernels on it."""

    def __init__(self, kernels, problem, lengths):
        import torch

        self.kernels, self.problem = kernels, problem
        like = problem.potentials[0]
        self.batch, self.n = lengths.shape[0], like.shape[1]
        wide = like.dtype == torch.float64
        starts, cuts = kernels.sizes
        self.warps = kernels.warps
        if self.warps is None:
            self.warps = warps_for(self.batch, self.n) if isinstance(self.batch, int) else 1
        self.plan = Plan(
            problem.spec.chart,
            starts * self.warps,
            cuts,
            Plan.stride_of(self.n, cuts),
            shared=bool(like.shape[0] != self.batch),
            approximate=not (wide or kernels.interpreter),
            wide=wide,
        )
        self.new = functools.partial(torch.empty, dtype=like.dtype, device=like.device)
        self.zeros = functools.partial(torch.zeros, dtype=like.dtype, device=like.device)
        self.lengths = lengths.clamp(0, self.n).to(torch.int32).contiguous()

    def launch(self, module, name, grid, *arguments, warps=None, **constants):
        constants |= {"warps": self.warps if warps is None else warps, "PLAN": self.plan}
        module = f"chart.triton_{module}"
        self.kernels.launch(module, name, grid, *arguments, self.n, **constants)

    def by_width(self, potentials):
        """(B, items, widths, starts) of scored items."""
        import torch

        items, _ = self.problem.spec.by_width(potentials)
        return torch.stack(items, 1).contiguous()

    def by_part(self, out):
        """(B, items, widths, starts) as potentials."""
        return self.problem.spec.by_part(list(out.unbind(1)), [])

    def forward(self, op):
        import torch

        plan, places = self.plan, self.n + 1
        tables = self.new((self.batch, places, plan.table_count, plan.row_size))
        products = self.zeros((self.batch, plan.product_count, 2, places, places))
        whole = self.new((self.batch, 2))
        scores = self.by_width(self.problem.potentials)
        arrays = tables, products, whole, scores, self.lengths
        self.launch("sweeps", "forward", (self.batch,), *arrays, HARD=op == "max")
        some = self.lengths > 0
        m, e = whole.unbind(1)
        number = scaled.Scaled(torch.where(some, m, 1.0), torch.where(some, e, 0.0))
        high, low = scaled.to_log_pair(number)
        lengths = torch.where(high > INFEASIBLE, self.lengths, 0)
        return (high, low), Tape(tables, products, lengths)

    def down(self, tape, tangents=None):
        """Marginals, or with tangents those of the marginals."""
        plan, places, rate = self.plan, self.n + 1, tangents is not None
        rows = self.batch, places, plan.table_count
        ratios = self.batch, places, plan.ratio_count
        rates = drates = dratios = tape.tables
        if rate:
            rates, dratios = self.zeros((*rows, plan.stride)), self.zeros((*ratios, plan.stride))
            drates = self.new((self.batch, plan.product_count, places, places))
            arrays = self.by_width(tangents), self.lengths, rates, drates
            self.launch("sweeps", "tangent", (self.batch,), tape.tables, tape.products, *arrays)
        out = self.zeros((self.batch, plan.score_count, self.n, self.n))
        self.launch(
            "sweeps",
            "down",
            (self.batch,),
            tape.tables,
            tape.products,
            self.lengths,
            rates,
            drates,
            self.new((*ratios, plan.row_size)),
            dratios,
            self.new((self.batch, 1 + rate, places, places)),
            out,
            RATE=rate,
        )
        return self.by_part(out)

    def paths(self, tape, draws, count):
        """Events (n, B, ...) of the best structure, or of samples."""
        import torch

        spec, scored = self.problem.spec, self.plan.score_count
        keys = keys_of(draws, self.lengths, count)
        shape = self.batch, count
        pending = self.new((*shape, 2 * self.n + 4), dtype=torch.int32)
        used = self.zeros((*shape, scored, self.n, self.n), dtype=torch.int32)
        block = min(MOST_CUTS, power(self.n + 1))
        arrays = tape.tables, tape.products, self.lengths, keys, pending, used
        self.launch("paths", "walk", shape, *arrays, NOISY=draws is not None, BLOCK=block, warps=1)
        used = used.transpose(0, 1).flatten(0, 1)
        events = spec.event(self.by_part(used))
        return events.unflatten(0, (count, self.batch))
