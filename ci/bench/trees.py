"""Trees beside torch-struct."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from ci.bench.problem import CURVATURE, DECODE, GRADIENT, VALUE, Inputs, Job, Peer, Problem


def torch_struct_job(task: str) -> Any:
    """The job of a task, from the distribution that `problem.peer(potentials)` makes."""

    def job(problem: "Tree", inputs: Inputs) -> Job:
        import torch
        import torch_struct
        from ci.bench.ours import curvature_direction

        torch.distributions.Distribution.set_default_validate_args(False)
        name = problem.potentials[0]
        scores = torch.from_numpy(problem.to_peer(inputs[name]).copy()).requires_grad_()

        def gradient(total: Any) -> Any:
            return torch.autograd.grad(total, scores)[0]

        if task == VALUE:
            return Job(
                lambda: problem.peer(torch_struct, scores).partition,
                lambda value: {"value": value.detach().numpy()},
            )
        if task == GRADIENT:

            def value_and_gradient() -> Any:
                value = problem.peer(torch_struct, scores).partition
                return value, gradient(value.sum())

            return Job(
                value_and_gradient,
                lambda result: {
                    "value": result[0].detach().numpy(),
                    f"gradient of {name}": problem.to_peer(result[1].numpy()),
                },
            )
        direction = torch.from_numpy(problem.to_peer(curvature_direction(problem, inputs)).copy())
        return Job(
            lambda: gradient((problem.peer(torch_struct, scores).marginals * direction).sum()),
            lambda x: {f"gradient of {name}": problem.to_peer(x.numpy())},
        )

    return job


class Tree(Problem):
    tasks = (VALUE, GRADIENT, CURVATURE, DECODE)
    tiny: ClassVar[Mapping[str, int]] = {"B": 2, "N": 4}
    peers: ClassVar[Mapping[str, Peer]] = {
        "torch-struct": Peer(
            package="torch-struct",
            module="torch_struct",
            jobs={task: torch_struct_job(task) for task in (VALUE, GRADIENT, CURVATURE)},
        )
    }

    def peer(self, torch_struct: Any, scores: Any) -> Any:
        raise NotImplementedError

    def to_peer(self, scores: np.ndarray) -> np.ndarray:
        """From our layout of the potentials to the peer's, and back."""
        raise NotImplementedError

    def inputs(self) -> Inputs:
        b, n = (self.sizes[letter] for letter in "BN")
        scores = np.random.default_rng(0).normal(size=(b, n, n))
        return {self.potentials[0]: scores.astype("float32")}


class CKY(Tree):
    family = "cky"
    potentials = ("spans",)
    note = "Unlabelled spans; the peer has one label."

    def distribution(self, **inputs: Any) -> Any:
        from keras_struct import ops

        return ops.cky(**inputs)

    def peer(self, torch_struct: Any, scores: Any) -> Any:
        return torch_struct.TreeCRF(scores[..., None])

    def to_peer(self, scores: np.ndarray) -> np.ndarray:
        return scores


class Eisner(Tree):
    family = "eisner"
    potentials = ("arcs",)
    note = "One root. The peer's arcs are [head, dependent]."

    def distribution(self, **inputs: Any) -> Any:
        from keras_struct import ops

        return ops.eisner(**inputs)

    def peer(self, torch_struct: Any, scores: Any) -> Any:
        # It writes into what it is given.
        return torch_struct.DependencyCRF(scores * 1.0, multiroot=False)

    def to_peer(self, scores: np.ndarray) -> np.ndarray:
        return scores.swapaxes(1, 2)


class SpanningTree(Eisner):
    family = "spanning_tree"
    note = (
        "One root. The peer takes determinants, which cancel when scores are large, and adds 1e-5 "
        "to every weight; it has no best trees and no samples."
    )

    def distribution(self, **inputs: Any) -> Any:
        from keras_struct import ops

        return ops.spanning_tree(**inputs)

    def peer(self, torch_struct: Any, scores: Any) -> Any:
        return torch_struct.NonProjectiveDependencyCRF(scores)


PROBLEMS = [kind(B=32, N=n) for kind in (CKY, Eisner, SpanningTree) for n in (32, 64)]
