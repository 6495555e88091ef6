"""CTC beside `keras.ops.ctc_loss` and `torch.nn.functional.ctc_loss`, from logits to gradient."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from ci.bench.problem import BACKENDS, DECODE, GRADIENT, Inputs, Job, Peer, Problem

BLANK = 0


def keras_gradient(problem: Problem, inputs: Inputs) -> Job:
    import keras
    from ci.bench import ours

    def loss(x: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        shape = keras.ops.shape(x["logits"])
        ones = keras.ops.ones((shape[0],), dtype="int32")
        value = -keras.ops.ctc_loss(
            x["labels"], x["logits"], ones * problem.sizes["S"], ones * shape[1], BLANK
        )
        return keras.ops.sum(value), {"value": value}

    return ours.gradient_job(loss, inputs, problem.potentials)


def torch_gradient(problem: Problem, inputs: Inputs) -> Job:
    import torch

    logits = torch.from_numpy(inputs["logits"].swapaxes(0, 1).copy()).requires_grad_()
    labels = torch.from_numpy(inputs["labels"])
    lengths = torch.full((problem.sizes["B"],), problem.sizes["T"])
    label_lengths = torch.full((problem.sizes["B"],), problem.sizes["S"])

    def run() -> Any:
        log_probs = torch.log_softmax(logits, -1)
        value = -torch.nn.functional.ctc_loss(
            log_probs, labels, lengths, label_lengths, blank=BLANK, reduction="none"
        )
        return value, torch.autograd.grad(value.sum(), logits)[0]

    def read(result: Any) -> Inputs:
        value, gradient = (x.detach().numpy() for x in result)
        return {"value": value, "gradient of logits": gradient.swapaxes(0, 1)}

    return Job(run, read)


class CTC(Problem):
    family = "ctc"
    tasks = (GRADIENT, DECODE)  # the map is that of the log-probabilities, the input the logits
    tiny: ClassVar[Mapping[str, int]] = {"B": 2, "T": 8, "S": 3}
    potentials = ("logits",)
    note = "From logits to their gradient, `log_softmax` included, for everybody."
    peers: ClassVar[Mapping[str, Peer]] = {
        **{
            f"keras.ops.ctc_loss ({backend})": Peer(
                package="keras", module="keras", jobs={GRADIENT: keras_gradient}, backend=backend
            )
            for backend in BACKENDS
            if backend != "numpy"  # it has no gradients
        },
        "torch ctc_loss": Peer(package="torch", module="torch", jobs={GRADIENT: torch_gradient}),
    }

    def inputs(self) -> Inputs:
        random = np.random.default_rng(0)
        b, t, s, k = (self.sizes[letter] for letter in "BTSK")
        return {
            "logits": random.normal(size=(b, t, k)).astype("float32"),
            "labels": random.integers(1, k, size=(b, s)).astype("int32"),
        }

    def distribution(self, **inputs: Any) -> Any:
        import keras

        from keras_struct import ops

        log_probs = keras.ops.log_softmax(inputs["logits"])
        return ops.ctc(log_probs, inputs["labels"], blank=BLANK)

    def gradients(self, marginals: Mapping[str, np.ndarray], inputs: Inputs) -> Inputs:
        """Every frame has one symbol, so the gradient of log_softmax is -softmax."""
        logits = inputs["logits"]
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        probabilities = weights / weights.sum(-1, keepdims=True)
        return {"logits": marginals["log_probs"] - probabilities}


PROBLEMS = [CTC(B=32, T=200, S=40, K=64)]
