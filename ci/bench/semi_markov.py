"""Semi-Markov chain beside torch-struct."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from ci.bench.problem import GRADIENT, Inputs, Job, Peer, Problem

FORBIDDEN = -1e5  # torch-struct's minus infinity


def torch_struct_edges(inputs: Inputs) -> np.ndarray:
    """Edge potentials (B, N, D+1, K, K) [start, length, label, label before].

    torch-struct has a label at the position before every segment. Before the first one it is 0.
    """
    segments, transitions = inputs["segments"], inputs["transitions"]
    b, n, d, k = segments.shape
    edges = np.full((b, n, d + 1, k, k), FORBIDDEN, segments.dtype)
    edges[:, 1:, 1:] = segments[:, 1:, :, :, None] + transitions.T
    edges[:, 0, 1:, :, 0] = segments[:, 0]
    return edges


def torch_struct_gradient(problem: Problem, inputs: Inputs) -> Job:
    import torch
    import torch_struct

    torch.distributions.Distribution.set_default_validate_args(False)
    edges = torch.from_numpy(torch_struct_edges(inputs)).requires_grad_()

    def run() -> Any:
        value = torch_struct.SemiMarkovCRF(edges).partition
        return value, torch.autograd.grad(value.sum(), edges)[0]

    def read(result: Any) -> Inputs:
        value, uses = (x.detach().numpy() for x in result)
        return {
            "value": value,
            "gradient of segments": uses[:, :, 1:].sum(-1),
            "gradient of transitions": uses[:, 1:].sum((0, 1, 2)).T,
        }

    return Job(run, read)


class SemiMarkov(Problem):
    family = "semi_markov"
    tiny: ClassVar[Mapping[str, int]] = {"B": 2, "N": 6, "D": 3, "K": 3}
    potentials = ("segments", "transitions")
    shared = ("transitions",)
    note = "To the peer's benefit, its edge potentials are made before the clock starts."
    peers: ClassVar[Mapping[str, Peer]] = {
        "torch-struct": Peer(
            package="torch-struct",
            module="torch_struct",
            jobs={GRADIENT: torch_struct_gradient},
            slow=lambda problem: True,
        )
    }

    def inputs(self) -> Inputs:
        random = np.random.default_rng(0)
        b, n, d, k = (self.sizes[letter] for letter in "BNDK")
        return {
            "segments": random.normal(size=(b, n, d, k)).astype("float32"),
            "transitions": random.normal(size=(k, k)).astype("float32"),
        }

    def distribution(self, **inputs: Any) -> Any:
        from keras_struct import ops

        return ops.semi_markov(**inputs)


PROBLEMS = [SemiMarkov(B=32, N=128, D=8, K=8)]
