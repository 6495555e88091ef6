"""Linear chain beside torch-struct and pytorch-crf."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from ci.bench.problem import DECODE, GRADIENT, Inputs, Job, Peer, Problem
from ci.floor.compiled import LINEAR_CHAIN


def torch_struct_edges(inputs: Inputs) -> Any:
    """Edge potentials (B, N-1, K, K) [to, from]."""
    import torch

    unary, transitions = inputs["unary"], inputs["transitions"]
    edges = transitions.T + unary[:, 1:, :, None]
    edges[:, 0] += unary[:, 0, None, :]
    return torch.from_numpy(np.ascontiguousarray(edges)).requires_grad_()


def torch_struct_gradient(problem: Problem, inputs: Inputs) -> Job:
    import torch
    import torch_struct

    torch.distributions.Distribution.set_default_validate_args(False)
    edges = torch_struct_edges(inputs)

    def run() -> Any:
        value = torch_struct.LinearChainCRF(edges).partition
        return value, torch.autograd.grad(value.sum(), edges)[0]

    def read(result: Any) -> Inputs:
        value, pairs = (x.detach().numpy() for x in result)
        unary = np.concatenate([pairs[:, :1].sum(2), pairs.sum(3)], axis=1)
        return {
            "value": value,
            "gradient of unary": unary,
            "gradient of transitions": pairs.sum((0, 1)).T,
        }

    return Job(run, read)


def torch_struct_decode(problem: Problem, inputs: Inputs) -> Job:
    import torch
    import torch_struct

    torch.distributions.Distribution.set_default_validate_args(False)
    edges = torch_struct_edges(inputs)

    def read(best: Any) -> Inputs:
        pairs = best.detach().numpy()
        unary = np.concatenate([pairs[:, :1].sum(2), pairs.sum(3)], axis=1)
        return {"event": unary.argmax(-1)}

    return Job(lambda: torch_struct.LinearChainCRF(edges).argmax, read)


def pytorch_crf(inputs: Inputs) -> Any:
    """Module with our transitions, no start and end scores; unary (N, B, K); mask (N, B)."""
    import torch
    import torchcrf

    unary = torch.from_numpy(inputs["unary"])
    crf = torchcrf.CRF(unary.shape[-1])
    with torch.no_grad():
        crf.transitions.copy_(torch.from_numpy(inputs["transitions"]))
        crf.start_transitions.zero_().requires_grad_(False)
        crf.end_transitions.zero_().requires_grad_(False)
    unary = unary.transpose(0, 1).contiguous()
    return crf, unary, torch.ones(unary.shape[:2], dtype=torch.bool)


def pytorch_crf_gradient(problem: Problem, inputs: Inputs) -> Job:
    import torch

    crf, unary, mask = pytorch_crf(inputs)
    unary.requires_grad_()

    def run() -> Any:
        value = crf._compute_normalizer(unary, mask)
        return value, *torch.autograd.grad(value.sum(), [unary, crf.transitions])

    def read(result: Any) -> Inputs:
        value, unary, transitions = (x.detach().numpy() for x in result)
        return {
            "value": value,
            "gradient of unary": unary.swapaxes(0, 1),
            "gradient of transitions": transitions,
        }

    return Job(run, read)


def pytorch_crf_decode(problem: Problem, inputs: Inputs) -> Job:
    import torch

    crf, unary, mask = pytorch_crf(inputs)

    def run() -> Any:
        with torch.no_grad():
            return crf.decode(unary, mask)

    return Job(run, lambda tags: {"event": np.array(tags)})


class LinearChain(Problem):
    family = "linear_chain"
    tiny: ClassVar[Mapping[str, int]] = {"B": 2, "N": 5}
    potentials = ("unary", "transitions")
    shared = ("transitions",)
    note = (
        "To the peers' benefit, torch-struct's edge potentials are made before the clock starts "
        "and its decode stops at the edges of the best path; of pytorch-crf only the normaliser is "
        "timed, not the score of a tag sequence that its public loss adds."
    )
    peers: ClassVar[Mapping[str, Peer]] = {
        "torch-struct": Peer(
            package="torch-struct",
            module="torch_struct",
            jobs={GRADIENT: torch_struct_gradient, DECODE: torch_struct_decode},
            slow=lambda problem: problem.sizes["K"] > 16,
        ),
        "pytorch-crf": Peer(
            package="pytorch-crf",
            module="torchcrf",
            jobs={GRADIENT: pytorch_crf_gradient, DECODE: pytorch_crf_decode},
        ),
        **LINEAR_CHAIN,
    }

    def inputs(self) -> Inputs:
        random = np.random.default_rng(0)
        b, n, k = self.sizes["B"], self.sizes["N"], self.sizes["K"]
        return {
            "unary": random.normal(size=(b, n, k)).astype("float32"),
            "transitions": random.normal(size=(k, k)).astype("float32"),
        }

    def distribution(self, **inputs: Any) -> Any:
        from keras_struct import ops

        return ops.linear_chain(**inputs)


PROBLEMS = [LinearChain(B=32, N=n, K=k) for n in (128, 512) for k in (2, 16, 64)]
