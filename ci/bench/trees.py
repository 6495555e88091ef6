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
        names = problem.potentials
        leaves = [
            torch.from_numpy(problem.to_peer(inputs[name]).copy()).requires_grad_()
            for name in names
        ]

        def gradients(total: Any) -> Any:
            return torch.autograd.grad(total, leaves)

        def read(found: Any) -> Inputs:
            pairs = zip(names, found, strict=True)
            return {f"gradient of {name}": problem.to_peer(x.numpy()) for name, x in pairs}

        if task == VALUE:
            return Job(
                lambda: problem.peer(torch_struct, *leaves).partition,
                lambda value: {"value": value.detach().numpy()},
            )
        if task == GRADIENT:

            def value_and_gradients() -> Any:
                value = problem.peer(torch_struct, *leaves).partition
                return value, gradients(value.sum())

            return Job(
                value_and_gradients,
                lambda result: {"value": result[0].detach().numpy(), **read(result[1])},
            )
        direction = torch.from_numpy(problem.to_peer(curvature_direction(problem, inputs)).copy())

        def gradients_of_marginals() -> Any:
            marginals = problem.peer_marginals(problem.peer(torch_struct, *leaves))
            return gradients((marginals * direction).sum())

        return Job(gradients_of_marginals, read)

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

    def peer(self, torch_struct: Any, *scores: Any) -> Any:
        """The peer's distribution of these potentials."""
        raise NotImplementedError

    def peer_marginals(self, distribution: Any) -> Any:
        """The marginals of the primary potential."""
        return distribution.marginals

    def to_peer(self, scores: np.ndarray) -> np.ndarray:
        """From our layout of the potentials to the peer's, and back."""
        return scores

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

    def peer(self, torch_struct: Any, *scores: Any) -> Any:
        return torch_struct.TreeCRF(scores[0][..., None])

    def peer_marginals(self, distribution: Any) -> Any:
        return distribution.marginals[..., 0]


class Eisner(Tree):
    family = "eisner"
    potentials = ("arcs",)
    note = "One root. The peer's arcs are [head, dependent]."

    def distribution(self, **inputs: Any) -> Any:
        from keras_struct import ops

        return ops.eisner(**inputs)

    def peer(self, torch_struct: Any, *scores: Any) -> Any:
        # It writes into what it is given.
        return torch_struct.DependencyCRF(scores[0] * 1.0, multiroot=False)

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

    def peer(self, torch_struct: Any, *scores: Any) -> Any:
        return torch_struct.NonProjectiveDependencyCRF(scores[0])


class PCFG(Tree):
    family = "pcfg"
    potentials = ("rules", "terms", "roots")
    tiny: ClassVar[Mapping[str, int]] = {"B": 2, "N": 3, "K": 2, "P": 2}
    note = "K nonterminals and P preterminals; a grammar for each sentence."

    def inputs(self) -> Inputs:
        b, n, k, p = (self.sizes[letter] for letter in "BNKP")
        shapes = ((b, k, k + p, k + p), (b, n, p), (b, k))
        rng = np.random.default_rng(0)
        return {
            name: rng.normal(size=shape).astype("float32")
            for name, shape in zip(self.potentials, shapes, strict=True)
        }

    def distribution(self, **inputs: Any) -> Any:
        from keras_struct import ops

        return ops.pcfg(**inputs)

    def peer(self, torch_struct: Any, *scores: Any) -> Any:
        rules, terms, roots = scores
        return torch_struct.SentCFG((terms, rules, roots))

    def peer_marginals(self, distribution: Any) -> Any:
        return distribution.marginals[1]


PROBLEMS = [
    *(kind(B=32, N=n) for kind in (CKY, Eisner, SpanningTree) for n in (32, 64)),
    PCFG(B=32, N=24, K=10, P=10),
]
# How the time grows with the length: the cost table, with --no-peers.
LONG = [kind(B=1, N=n) for kind in (CKY, Eisner) for n in (128, 256)]
PROBLEMS += LONG
