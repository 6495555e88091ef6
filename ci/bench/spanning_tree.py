"""Spanning trees beside torch-struct."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from ci.bench.problem import CURVATURE, DECODE, GRADIENT, VALUE, Inputs, Job, Peer, Problem


def torch_struct_trees(inputs: Inputs) -> tuple[Any, Any]:
    """Its distribution and the potentials [head, dependent]."""
    import torch
    import torch_struct

    torch.distributions.Distribution.set_default_validate_args(False)
    arcs = torch.from_numpy(np.ascontiguousarray(inputs["arcs"].swapaxes(1, 2))).requires_grad_()
    return lambda: torch_struct.NonProjectiveDependencyCRF(arcs), arcs


def torch_struct_value(problem: Problem, inputs: Inputs) -> Job:
    trees, _ = torch_struct_trees(inputs)
    return Job(lambda: trees().partition, lambda value: {"value": value.detach().numpy()})


def torch_struct_gradient(problem: Problem, inputs: Inputs) -> Job:
    import torch

    trees, arcs = torch_struct_trees(inputs)

    def run() -> Any:
        value = trees().partition
        return value, torch.autograd.grad(value.sum(), arcs)[0]

    def read(result: Any) -> Inputs:
        value, gradient = (x.detach().numpy() for x in result)
        return {"value": value, "gradient of arcs": gradient.swapaxes(1, 2)}

    return Job(run, read)


def torch_struct_curvature(problem: Problem, inputs: Inputs) -> Job:
    import torch
    from ci.bench.ours import curvature_direction

    trees, arcs = torch_struct_trees(inputs)
    direction = torch.from_numpy(curvature_direction(problem, inputs)).transpose(1, 2)

    def run() -> Any:
        return torch.autograd.grad((trees().marginals * direction).sum(), arcs)[0]

    return Job(run, lambda x: {"gradient of arcs": x.detach().numpy().swapaxes(1, 2)})


class SpanningTree(Problem):
    family = "spanning_tree"
    tasks = (VALUE, GRADIENT, CURVATURE, DECODE)
    tiny: ClassVar[Mapping[str, int]] = {"B": 2, "N": 4}
    potentials = ("arcs",)
    note = (
        "The peer takes determinants, which cancel when scores are large, and adds 1e-5 to every "
        "weight; it has no best trees and no samples."
    )
    peers: ClassVar[Mapping[str, Peer]] = {
        "torch-struct": Peer(
            package="torch-struct",
            module="torch_struct",
            jobs={
                VALUE: torch_struct_value,
                GRADIENT: torch_struct_gradient,
                CURVATURE: torch_struct_curvature,
            },
        )
    }

    def inputs(self) -> Inputs:
        random = np.random.default_rng(0)
        b, n = (self.sizes[letter] for letter in "BN")
        return {"arcs": random.normal(size=(b, n, n)).astype("float32")}

    def distribution(self, **inputs: Any) -> Any:
        from keras_struct import ops

        return ops.spanning_tree(**inputs)


PROBLEMS = [SpanningTree(B=32, N=32), SpanningTree(B=32, N=64)]
