"""Grammars on an NVIDIA GPU under PyTorch, by the Triton kernels of `triton_sweeps.py` and
`triton_paths.py`: programs for the spans of each width of a sentence."""

import dataclasses
import functools

from keras_struct.ops import scaled
from keras_struct.ops.gpu import Named, power
from keras_struct.ops.implementation import Drawing
from keras_struct.ops.noise import flat_places
from keras_struct.ops.numerics import FORBIDDEN
from keras_struct.ops.pcfg import gpu_plan
from keras_struct.ops.pcfg.gpu_plan import Tape
from keras_struct.ops.pcfg.noise_places import ROOT
from keras_struct.ops.scaled import EMPTY, Scaled
from keras_struct.ops.triton import TritonGPU, keys_of

MOST_CUTS = 256  # of a span, that a walk looks at at a time


@dataclasses.dataclass(frozen=True, repr=False)
class Plan(Named, gpu_plan.Plan):
    """All that is known of a kernel when it is compiled.

    Attributes:
        shared: Whether the batch has one set of rules.
        approximate: Whether powers of two are those of the special function unit.
        wide: Whether numbers are float64.
    """

    shared: bool = False
    approximate: bool = False
    wide: bool = False


class PCFGTriton(Drawing, TritonGPU):
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
        tile, parents = self.sizes or Plan.sizes(k, s - k)
        return Plan(k, s - k, tile, parents).too_large(n)

    def forward(self, problem, op):
        return _Sweep(self, problem).forward(op)

    def backward(self, problem, tape):
        return _Sweep(self, problem).down(tape)

    def curvature(self, problem, tape, tangents):
        return _Sweep(self, problem).down(tape, tangents)

    def paths(self, problem, tape, draws, count):
        return _Sweep(self, problem).paths(tape, draws, count)


class _Sweep:
    """One problem, and the launches of the kernels on it."""

    def __init__(self, kernels, problem):
        import torch

        self.kernels, self.problem = kernels, problem
        rules, terms, roots = problem.potentials
        self.batch, self.n, p = terms.shape
        k, wide = roots.shape[1], terms.dtype == torch.float64
        tile, parents = kernels.sizes or Plan.sizes(k, p)
        self.plan = Plan(
            k,
            p,
            tile,
            parents,
            shared=bool(rules.shape[0] != self.batch),
            approximate=not (wide or kernels.interpreter),
            wide=wide,
        )
        self.programs = kernels.programs
        if self.programs is None:
            size = self.batch if isinstance(self.batch, int) else gpu_plan.FULL
            self.programs = self.plan.programs(size, self.n)
        self.zeros = functools.partial(torch.zeros, dtype=terms.dtype, device=terms.device)
        self.new = functools.partial(torch.empty, dtype=terms.dtype, device=terms.device)
        self.lengths = problem.context[0].clamp(0, self.n).to(torch.int32).contiguous()

    # Rules, tile by tile --------------------------------------------------------------------------

    def by_tile(self, x, fill):
        """(..., K, S, S) as (..., phrases, cells)."""
        from torch.nn import functional

        plan, lead = self.plan, x.shape[:-3]
        more = plan.words - plan.k, plan.symbols - plan.words - plan.p
        for axis in (-1, -2):
            phrases, words = x.transpose(axis, -1).split((plan.k, plan.p), -1)
            found = [
                functional.pad(y, (0, size), value=fill)
                for y, size in zip((phrases, words), more, strict=True)
            ]
            x = _joined(found).transpose(axis, -1)
        tiles = plan.tiles, plan.tile
        x = x.unflatten(-1, tiles).unflatten(-3, tiles).transpose(-3, -2)
        x = x.reshape(*lead, plan.k, plan.cells)
        return functional.pad(x, (0, 0, 0, plan.phrases - plan.k), value=fill).contiguous()

    def by_symbol(self, x):
        """(B, K, S, S) of (B, phrases, cells)."""
        plan = self.plan
        tiles = plan.tiles, plan.tiles, plan.tile, plan.tile
        x = x[:, : plan.k].unflatten(-1, tiles).transpose(-3, -2)
        x = x.reshape(self.batch, plan.k, plan.symbols, plan.symbols)
        for axis in (-1, -2):
            y = x.transpose(axis, -1)
            words = y[..., plan.words : plan.words + plan.p]
            x = _joined([y[..., : plan.k], words]).transpose(axis, -1)
        return x.contiguous()

    def rules(self):
        """(G, 2, phrases, cells) of one group for all, or one for each."""
        import torch

        rules = scaled.from_log(self.by_tile(self.problem.potentials[0], FORBIDDEN))
        return torch.stack(tuple(rules), 1)

    def of_phrases(self, x):
        """(B, K) as (B, phrases)."""
        from torch.nn import functional

        return functional.pad(x, (0, self.plan.phrases - self.plan.k)).contiguous()

    def words_of(self, x):
        """The preterminals of all words, (..., P, N), of those of all spans (..., N, N, S)."""
        plan = self.plan
        return x.diagonal(0, -3, -2)[..., plan.words : plan.words + plan.p, :]

    def whole(self, x):
        """(B, ...) of the whole sentences, of all spans (B, N, N, ...)."""
        import torch

        last = (self.lengths.clamp(1) - 1).to(torch.int64)
        last = last.reshape(-1, 1, *[1] * (x.dim() - 3)).expand(-1, 1, *x.shape[3:])
        return x[:, 0].gather(1, last)[:, 0]

    # Sweeps ---------------------------------------------------------------------------------------

    def each(self, name, *arrays, back=False, **constants):
        """Launch a kernel for all widths at once if a program has a sentence, else for each."""
        steps = [(2, self.n + 1)]
        if self.programs > 1:
            steps = [(w, w + 1) for w in range(2, self.n + 1)]
        for first, last in reversed(steps) if back else steps:
            self.launch(
                "sweeps",
                name,
                (self.batch, self.programs),
                *arrays,
                self.lengths,
                self.n,
                first,
                last,
                **constants,
            )

    def launch(self, module, name, grid, *arguments, **constants):
        constants |= {"warps": self.plan.warps, "PLAN": self.plan}
        self.kernels.launch(f"pcfg.triton_{module}", name, grid, *arguments, **constants)

    def pairs(self, programs):
        return self.new((self.batch, programs, 3, self.plan.cells))

    def forward(self, op):
        import torch

        plan, spans = self.plan, (self.n, self.n)
        _, log_terms, log_roots = self.problem.potentials
        parts = self.zeros((self.batch, 2, *spans, plan.symbols))
        parts[:, 1] = EMPTY
        terms = torch.stack(tuple(scaled.from_log(log_terms)), 1)
        self.words_of(parts).copy_(terms.transpose(2, 3))
        sums = self.zeros((self.batch, 2, *spans, plan.phrases))
        pairs = self.pairs(self.programs)
        self.each("inside", parts, sums, pairs, self.rules(), HARD=op == "max")
        m, e = (self.whole(x)[:, : plan.k] for x in sums.unbind(1))
        e = torch.where(m > 0, e, EMPTY)
        trees = scaled.times(Scaled(m, e), scaled.from_log(log_roots))
        reduce = torch.amax if op == "max" else torch.sum
        total = scaled.raw_total(trees, 1, reduce)
        return scaled.to_log_pair(total), Tape(parts, sums, tuple(trees))

    def down(self, tape, tangents=None):
        """Marginals, or with tangents those of the marginals."""
        plan, rate = self.plan, tangents is not None
        rules, shares, pairs = self.rules(), tape.shares(), self.pairs(self.programs)
        rates = drules = dstarts = dgot = shares
        if rate:
            tangent_rules, dterms, droots = tangents
            drules = self.by_tile(tangent_rules, 0.0)
            rates = self.zeros((self.batch, self.n, self.n, plan.symbols))
            self.words_of(rates).copy_(dterms.transpose(1, 2))
            arrays = tape.parts, tape.sums, pairs, rules, rates, drules
            self.each("tangent", *arrays)
            moved = droots + self.whole(rates)[:, : plan.k]
            droots = shares * (moved - (shares * moved).sum(1, keepdim=True))
            dstarts, dgot = self.of_phrases(droots), self.zeros(tape.parts.shape)
        got = self.zeros(tape.parts.shape)
        out = self.zeros((self.batch, self.programs, plan.phrases, plan.cells))
        self.each(
            "down",
            tape.parts,
            tape.sums,
            pairs,
            rules,
            rates,
            drules,
            self.of_phrases(shares),
            dstarts,
            got,
            dgot,
            out,
            back=True,
            RATE=rate,
        )
        words = self.words_of((dgot if rate else got).sum(1)).transpose(1, 2)
        return self.by_symbol(out.sum(1)), words.contiguous(), droots if rate else shares

    def paths(self, tape, draws, count):
        """Events (n, B, N, N) of the best tree, or of samples."""
        import torch

        shares = tape.shares()[:, None].expand(-1, count, -1)
        exists = shares > 0
        logits = torch.where(exists, shares, 1.0).log()
        if draws is not None:
            places = flat_places((1, self.plan.k))
            logits = logits + draws.gumbel(ROOT, places, _name_of(logits))
        logits = torch.where(exists, logits, FORBIDDEN)
        roots = torch.where(exists.any(2), logits.argmax(2), -1).to(torch.int32).contiguous()
        new = functools.partial(self.new, dtype=torch.int32)
        event = new((self.batch, count, self.n, self.n)).fill_(-1)
        self.launch(
            "paths",
            "walk",
            (self.batch, count),
            tape.parts,
            tape.sums,
            self.pairs(count),
            self.rules(),
            self.lengths,
            roots,
            keys_of(draws, self.lengths, count),
            new((self.batch, count, self.n + 2)),
            event,
            self.n,
            NOISY=draws is not None,
            BLOCK=min(MOST_CUTS, power(self.n)),
        )
        return event.transpose(0, 1)


def _joined(parts):
    import torch

    return torch.cat(parts, -1)


def _name_of(x):
    return str(x.dtype).removeprefix("torch.")
