"""Soft-DTW and alignments beside tslearn, pysdtw, and autodiff of the same loop."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from ci.bench.problem import (
    BACKENDS,
    CURVATURE,
    DECODE,
    GRADIENT,
    VALUE,
    Inputs,
    Job,
    Peer,
    Problem,
)
from ci.floor.compiled import NEEDLEMAN_WUNSCH


def autodiff_value(problem: Problem, inputs: dict[str, Any]) -> Any:
    """The value by the forward sweep alone, which the framework differentiates."""
    d = problem.distribution(**inputs)
    (high, low), _ = d._sweeps.differentiable.forward(d._problem, "logsumexp")
    value = high + low
    return -value if d.structure.costs else value


def autodiff_gradient(problem: Problem, inputs: Inputs) -> Job:
    import keras
    from ci.bench import ours

    def loss(x: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        value = autodiff_value(problem, x)
        return keras.ops.sum(value), {"value": value}

    return ours.gradient_job(loss, inputs, problem.potentials)


AUTODIFF = {
    f"autodiff ({backend})": Peer(
        package="keras-struct-ops",
        module="keras_struct.ops",
        jobs={GRADIENT: autodiff_gradient},
        backend=backend,
    )
    for backend in BACKENDS
    if backend != "numpy"
}


def _torch_job(costs: Any, value: Any, gradient: bool) -> Job:
    """`value(costs)` under PyTorch, and its gradient."""
    import torch

    def run() -> Any:
        if not gradient:
            with torch.no_grad():
                return (value(costs),)
        v = value(costs)
        return v, torch.autograd.grad(v.sum(), costs)[0]

    def read(result: Any) -> Inputs:
        names = ("value", "gradient of costs")
        return {n: x.detach().numpy() for n, x in zip(names, result, strict=False)}

    return Job(run, read)


def tslearn_job(gradient: bool) -> Any:
    def job(problem: Problem, inputs: Inputs) -> Job:
        import torch
        from tslearn.metrics.soft_dtw_loss_pytorch import _SoftDTWLossPyTorch

        costs = torch.from_numpy(inputs["costs"]).requires_grad_(gradient)
        return _torch_job(costs, lambda x: _SoftDTWLossPyTorch.apply(x, 1.0), gradient)

    return job


def pysdtw_job(gradient: bool) -> Any:
    def job(problem: Problem, inputs: Inputs) -> Job:
        import torch
        from pysdtw.sdtw_cpu import SoftDTWcpu

        costs = torch.from_numpy(inputs["costs"]).requires_grad_(gradient)
        b, n, m = costs.shape
        lengths = torch.tensor([[n, m]] * b)
        return _torch_job(costs, lambda x: SoftDTWcpu.apply(x, lengths, 1.0, 0), gradient)

    return job


class DTW(Problem):
    family = "dtw"
    tasks = (VALUE, GRADIENT, DECODE, CURVATURE)
    tiny: ClassVar[Mapping[str, int]] = {"B": 2, "L": 4}
    potentials: ClassVar[tuple[str, ...]] = ("costs",)
    note = (
        "From a cost matrix to its gradient for everybody. `autodiff` is our own forward loop, "
        "differentiated by the framework in place of the explicit sweeps."
    )
    peers: ClassVar[Mapping[str, Peer]] = {
        "tslearn": Peer(
            package="tslearn",
            module="tslearn.metrics",
            jobs={VALUE: tslearn_job(False), GRADIENT: tslearn_job(True)},
        ),
        "pysdtw": Peer(
            package="pysdtw",
            module="pysdtw",
            jobs={VALUE: pysdtw_job(False), GRADIENT: pysdtw_job(True)},
        ),
        **AUTODIFF,
    }

    @property
    def cells(self) -> int:
        return self.sizes["B"] * self.sizes["L"] ** 2

    def inputs(self) -> Inputs:
        b, n = self.sizes["B"], self.sizes["L"]
        return {"costs": np.random.default_rng(0).random((b, n, n)).astype("float32")}

    def distribution(self, **inputs: Any) -> Any:
        from keras_struct import ops

        return ops.dtw(**inputs)


class NeedlemanWunsch(DTW):
    family = "needleman_wunsch"
    potentials: ClassVar[tuple[str, ...]] = ("scores", "gap_open")
    shared: ClassVar[tuple[str, ...]] = ("gap_open",)
    note = (
        "From scores and gap scores to their gradients. torch-struct's alignment needs genbmm, "
        "which the package index does not have, so the peer is autodiff of our own forward loop."
    )
    peers: ClassVar[Mapping[str, Peer]] = {**AUTODIFF, **NEEDLEMAN_WUNSCH}

    def inputs(self) -> Inputs:
        b, n = self.sizes["B"], self.sizes["L"]
        scores = np.random.default_rng(0).normal(size=(b, n, n)).astype("float32")
        return {"scores": scores, "gap_open": np.array(-1.0, "float32")}

    def distribution(self, **inputs: Any) -> Any:
        from keras_struct import ops

        return ops.needleman_wunsch(**inputs)


class AffineNeedlemanWunsch(NeedlemanWunsch):
    family = "needleman_wunsch affine"
    peers: ClassVar[Mapping[str, Peer]] = AUTODIFF
    potentials = ("scores", "gap_open", "gap_extend")
    shared = ("gap_open", "gap_extend")

    def inputs(self) -> Inputs:
        return {**super().inputs(), "gap_extend": np.array(-0.3, "float32")}


class AffineSmithWaterman(AffineNeedlemanWunsch):
    family = "smith_waterman affine"

    def distribution(self, **inputs: Any) -> Any:
        from keras_struct import ops

        return ops.smith_waterman(**inputs)


SIZES = ({"B": 32, "L": 128}, {"B": 32, "L": 512})
KINDS = (DTW, NeedlemanWunsch, AffineNeedlemanWunsch, AffineSmithWaterman)
PROBLEMS = [kind(**sizes) for kind in KINDS for sizes in SIZES]
