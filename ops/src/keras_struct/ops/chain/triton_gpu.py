"""Chains on an NVIDIA GPU under PyTorch, by the Triton kernels of `triton_sweeps.py` and
`triton_paths.py`: an example for each program, which goes over its steps in a loop."""

import dataclasses
import functools

from keras_struct.ops.chain import gpu_plan
from keras_struct.ops.chain.categorical import CategoricalSpec
from keras_struct.ops.chain.form import Ends, Form
from keras_struct.ops.gpu import Named, warps_for
from keras_struct.ops.implementation import Paths
from keras_struct.ops.triton import TritonGPU, keys_of


@dataclasses.dataclass(frozen=True, repr=False)
class Plan(Named, gpu_plan.Plan):
    """All that is known of a kernel when it is compiled.

    Attributes:
        shared: Whether the batch has one table of links.
        approximate: Whether exponentials are those of the special function unit.
        wide: Whether numbers are float64.
    """

    shared: bool = True
    approximate: bool = False
    wide: bool = False

    @property
    def warps(self):
        """One warp for up to 32 tags, which waits for no other one."""
        return 1 if self.ways == 1 and self.rows <= 32 else super().warps

    @property
    def plane(self):
        """Numbers of the tape that are the high parts of an example."""
        return (self.steps + 1) * self.rows

    @property
    def score_size(self):
        """Scores of a time."""
        return self.terms * (1 if self.alike else self.states)

    @property
    def way_stride(self):
        return 1 if self.moves else self.states

    @property
    def state_stride(self):
        return (0 if self.alike else self.terms) if self.moves else 1

    @property
    def tangent_links_size(self):
        """Links of an example, of which each has its own tangents."""
        times = self.steps - 1 if self.links == "over_time" else 1
        return times * self.states**2

    @property
    def links_size(self):
        """How far apart the links of two examples are."""
        return 0 if self.shared else self.tangent_links_size


class ChainTriton(Paths, TritonGPU):
    """Sweeps over time.

    Attributes:
        block: See `Plan`.
    """

    block: int | None = None

    def rejects(self, call):
        if isinstance(call.spec, CategoricalSpec):
            return "a softmax is one pass over the scores, which PyTorch has"
        reason = super().rejects(call)
        if reason is not None:
            return reason
        return self.plan(call.spec, call.shapes, dict(call.options).get("states")).too_large()

    def avoids(self, call):
        batch = call.shapes[0][0]
        if self.interpreter or batch is None:
            return None
        plan = self.plan(call.spec, call.shapes, dict(call.options).get("states"))
        return plan.better_as_products(batch)

    def plan(self, spec, shapes, states=None):
        return Plan(**Form.facts(spec, shapes, states), block=self.block)

    def cut(self, problem):
        return _Sweep(self, problem)


class _Sweep(Ends):
    """One problem, and the launches of the kernels on it."""

    def __init__(self, kernels, problem):
        import torch

        super().__init__(kernels.plan, problem)
        self.kernels = kernels
        scores, *links = (x.contiguous() for x in problem.potentials)
        wide = scores.dtype == torch.float64
        self.plan = dataclasses.replace(
            self.plan,
            shared=bool(links and links[0].shape[0] != self.batch),
            approximate=not (wide or kernels.interpreter),
            wide=wide,
        )
        self.scores, self.links = scores, links[0] if links else scores
        self.new = functools.partial(torch.empty, dtype=scores.dtype, device=scores.device)
        self.zeros = functools.partial(torch.zeros, dtype=scores.dtype, device=scores.device)
        clipped = self.lengths.clamp(0, self.plan.steps)
        self.clipped = clipped.to(torch.int32).contiguous()

    def launch(self, module, name, grid, *arguments, **constants):
        inputs = self.scores, self.links, self.clipped
        self.kernels.launch(
            f"chain.triton_{module}", name, grid, *inputs, *arguments, **constants, PLAN=self.plan
        )

    def states(self, x):
        """(B, K) as (B, rows)."""
        from torch.nn import functional

        return functional.pad(x, (0, self.plan.rows - self.plan.states)).contiguous()

    def forward(self, op):
        plan = self.plan
        tape = self.new((self.batch, 2, plan.steps + 1, plan.rows))
        ends = self.new((self.batch, 2, plan.rows))
        hard = op == "max"
        self.launch("sweeps", "forward", (self.batch,), tape, ends, HARD=hard, warps=plan.warps)
        high, low = ends[..., : plan.states].unbind(1)
        return gpu_plan.Tape(tape, (high, low))

    def backward(self, tape, tangents=None):
        """Marginals, or with tangents those of the marginals."""
        plan, rate, final = self.plan, tangents is not None, self.shares(tape)
        work = self.new((self.batch, 5, plan.rows)) if plan.tile else final
        rates = [self.scores, self.links, final, final, work, final]
        if rate:
            tscores, *tlinks = (x.contiguous() for x in tangents)
            dtape = self.new((self.batch, plan.steps + 1, plan.rows))
            gained, ends = (
                self.new((self.batch, 2, plan.steps + 1)),
                self.new((self.batch, plan.rows)),
            )
            rates = [tscores, tlinks[0] if tlinks else tscores, dtape, gained, work]
            self.launch("sweeps", "tangent", (self.batch,), tape.g, *rates, ends, warps=plan.warps)
            moved = ends[:, : plan.states]
            rates.append(self.states(final * (moved - (final * moved).sum(1, keepdim=True))))
        ring = self.new((self.batch, 1 + rate, plan.slots, plan.ways, plan.rows))
        shapes = [(self.batch, *x.shape[1:]) for x in self.problem.potentials]
        found = [self.zeros(shape) for shape in shapes]
        outputs = found if plan.links else [*found, found[0]]
        self.launch(
            "sweeps",
            "backward",
            (self.batch,),
            tape.g,
            self.states(final),
            *rates,
            ring,
            *outputs,
            RATE=rate,
            warps=plan.warps,
        )
        return tuple(found)

    def curvature(self, tape, tangents):
        return self.backward(tape, tangents)

    def paths(self, tape, draws, count):
        """Events (n, B, ...) of the best path, or of samples."""
        import torch

        plan, noisy = self.plan, draws is not None
        keys = keys_of(draws, self.clipped, count)
        last = self.last(tape, draws, count).contiguous()
        new = functools.partial(torch.full, fill_value=-1, dtype=torch.int32, device=keys.device)
        found = [new((self.batch, count, plan.steps))]
        if plan.links and plan.ways > 1:
            found.append(new((self.batch, count, plan.steps)))
        self.launch(
            "paths",
            "walk",
            (self.batch, count),
            tape.g,
            last,
            keys,
            found[0],
            found[-1],
            HARD=not noisy,
            NOISY=noisy,
            warps=warps_for(plan.rows * plan.ways),
        )
        return self.events(*(x.transpose(0, 1) for x in found))
