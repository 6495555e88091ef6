"""Pairs of residues by a transport plan with dustbins, in place of an alignment with gaps."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops as K

from keras_struct import ops
from keras_struct.layers.annotations import Config, Shape, Spec
from keras_struct.ops.annotations import Tensor

SMALLEST = 1e-6  # mass, in logarithms


@keras.saving.register_keras_serializable("keras_struct")
class TransportAligner(keras.layers.Layer):
    """Transport between the residues of two chains; what matches nothing goes to a dustbin.

    Every residue has mass 1, and the dustbin of a chain can take the whole other chain. The plan
    knows no order of the residues: unlike `layers.Aligner` it finds permutations, and it has no
    gaps. `PlanDecoder` reads an alignment from it.

    Args:
        epsilon: Positive number, the temperature to start from; it is learned, through the tail.
        base_steps: Steps of Sinkhorn under a stopped gradient, see `ops.sinkhorn_tail`.
        tail_steps: Steps with gradient.
        **kwargs: `name`, `dtype`, `trainable`.

    Call arguments:
        first, second: States `(B, L1, F)` and `(B, L2, F)`.
        first_mask, second_mask: Booleans `(B, L1)` and `(B, L2)`, True for residues; by default the
            Keras masks.

    Returns:
        Plan `(B, L1, L2)`, float32: the probability of each pair, 0 in the padding. What a row or a
        column lacks of 1 is in the dustbin.

    Raises:
        ValueError: For arguments or shapes that do not fit.

    Example:

    >>> import numpy as np
    >>> from keras_struct import protein
    >>> states = np.random.default_rng(0).normal(size=(2, 6, 8)).astype("float32")
    >>> tuple(protein.TransportAligner()(states, states[:, :4]).shape)
    (2, 6, 4)

    Source: Sarlin et al. (2020), SuperGlue (the dustbins); Forde (2026), Block-wise differentiable
    Sinkhorn attention (the tail).
    """

    def __init__(
        self, epsilon: float = 1.0, base_steps: int = 30, tail_steps: int = 4, **kwargs: Any
    ) -> None:
        super().__init__(autocast=False, **kwargs)
        if not 0 < epsilon < float("inf"):
            raise ValueError(f"Expected a finite epsilon > 0. Received: epsilon={epsilon}")
        self.supports_masking = True
        self.epsilon = epsilon
        self.base_steps = base_steps
        self.tail_steps = tail_steps

    def build(self, first_shape: Shape, second_shape: Shape) -> None:
        if first_shape[-1] != second_shape[-1]:
            raise ValueError(
                "Expected states of one size. Received: "
                f"first_shape={first_shape}, second_shape={second_shape}"
            )
        self.log_epsilon = self.add_weight(shape=(), initializer="zeros", name="log_epsilon")
        # The score of a residue with the dustbin: that with a state, and a number.
        self.state = self.add_weight(shape=first_shape[-1:], initializer="zeros", name="state")
        self.bias = self.add_weight(shape=(), initializer="zeros", name="bias")

    def call(
        self,
        first: Tensor,
        second: Tensor,
        first_mask: Tensor | None = None,
        second_mask: Tensor | None = None,
    ) -> Tensor:
        first, second = K.cast(first, "float32"), K.cast(second, "float32")
        masks = [
            K.ones_like(x[..., 0], "bool") if mask is None else K.cast(mask, "bool")
            for x, mask in ((first, first_mask), (second, second_mask))
        ]
        counts = [K.sum(K.cast(mask, "float32"), 1) for mask in masks]
        # Of the two features more a residue has one, and the dustbins have the other one's number.
        one, zero = K.ones_like(first[..., :1]), K.zeros_like(first[..., :1])
        query = K.concatenate([first, one, zero], axis=-1)
        one, zero = K.ones_like(second[..., :1]), K.zeros_like(second[..., :1])
        key = K.concatenate([second, zero, one], axis=-1)
        bias = K.reshape(self.bias, (1,))
        zero = K.zeros_like(bias)
        dustbin = ops.Dustbin(
            K.concatenate([self.state, zero, bias]),
            K.concatenate([self.state, bias, zero]),
            capacities=tuple(K.maximum(n, 1.0) for n in reversed(counts)),
        )
        columns = K.shape(second)[1]
        every = K.zeros_like(second[..., :1]) + K.eye(columns, dtype="float32")
        return ops.sinkhorn_tail(
            query,
            key,
            every,
            mask=tuple(masks),
            epsilon=self.epsilon * K.exp(self.log_epsilon),
            base_steps=self.base_steps,
            tail_steps=self.tail_steps,
            dustbin=dustbin,
        )

    def compute_mask(self, first: Tensor, previous_mask: Tensor | None = None) -> Tensor | None:
        return None  # a loss would take that of the rows for one of the chains

    def compute_output_spec(
        self,
        first: Tensor,
        second: Tensor,
        first_mask: Tensor | None = None,
        second_mask: Tensor | None = None,
    ) -> Spec:
        return keras.KerasTensor((*first.shape[:2], second.shape[1]), "float32")

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "epsilon": self.epsilon,
            "base_steps": self.base_steps,
            "tail_steps": self.tail_steps,
        }


@keras.saving.register_keras_serializable("keras_struct")
class PlanDecoder(keras.layers.Layer):
    """The alignment that a plan expects the most of: the sum of `P - threshold` over its pairs.

    Args:
        threshold: In [0, 1): pairs of a lower probability are not aligned.
        **kwargs: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: Plan `(B, L1, L2)`.

    Returns:
        Dictionary: `path` `(B, L1 + L2 + 1, 2)`, nodes as `layers.AlignmentDecoder` gives them;
        `map`, the plan itself; `score` `(B,)`, the expected number of pairs.

    Source: Holmes and Durbin (1998), Dynamic programming alignment accuracy.
    """

    def __init__(self, threshold: float = 0.2, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        if not 0 <= threshold < 1:
            raise ValueError(f"Expected a threshold in [0, 1). Received: threshold={threshold}")
        self.threshold = threshold

    def call(self, inputs: Tensor) -> Tensor:
        best = ops.smith_waterman(inputs - self.threshold, 0.0, temperature=0)
        return {"path": best.argmax(), "map": inputs, "score": K.sum(inputs, axis=(1, 2))}

    def compute_output_spec(self, inputs: Tensor) -> Spec:
        batch, rows, columns = inputs.shape
        steps = None if None in (rows, columns) else rows + columns + 1
        return {
            "path": keras.KerasTensor((batch, steps, 2), "int32"),
            "map": keras.KerasTensor(inputs.shape, inputs.dtype),
            "score": keras.KerasTensor((batch,), inputs.dtype),
        }

    def get_config(self) -> Config:
        return {**super().get_config(), "threshold": self.threshold}


@keras.saving.register_keras_serializable("keras_struct")
def plan_cross_entropy(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """Negative log-probability of where each residue of either chain goes, `(B,)`.

    Args:
        y_true: Path `(B, N, 2)` of the reference; what it does not match belongs in a dustbin.
        y_pred: Plan `(B, L1, L2)`.
    """
    pairs = matched(y_true, y_pred)
    loss = -2 * K.sum(pairs * K.log(y_pred + SMALLEST), axis=(1, 2))
    for axis in (1, 2):
        # In the padding nothing is missing: 1 - 0.
        alone = 1 - K.sum(pairs, axis=axis)
        missing = K.clip(1 - K.sum(y_pred, axis=axis), SMALLEST, 1.0)
        loss = loss - K.sum(alone * K.log(missing), axis=1)
    return loss


@keras.saving.register_keras_serializable("keras_struct")
def plan_f1_loss(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """One minus the soft F1 of a plan, `(B,)`; arguments as of `plan_cross_entropy`."""
    pairs = matched(y_true, y_pred)
    both, every = (K.sum(x, axis=(1, 2)) for x in (pairs * y_pred, pairs + y_pred))
    return 1 - 2 * both / (every + SMALLEST)


def matched(path, plan):
    """Matrix `(B, L1, L2)` of the pairs of a path, 1 or 0."""
    return ops.smith_waterman(plan, 0.0).parts(K.cast(path, "int32"))["scores"]
