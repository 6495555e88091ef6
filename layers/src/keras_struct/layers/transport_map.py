"""The attention map of a transport plan between queries and keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from keras_struct import ops
from keras_struct.layers.alignment_map import AlignmentMap
from keras_struct.layers.annotations import Config
from keras_struct.ops.annotations import Pair, Tensor


@keras.saving.register_keras_serializable("keras_struct")
class SinkhornMap(AlignmentMap):
    """Each query and each key has mass 1: no key is attended to by all, none is forgotten.

    The columns sum to 1, and with as many queries as keys the rows do, too, once the steps have
    converged. Where `SinkhornTailAttention` never stores a map, this one is stored, and takes any
    mask.

    Args:
        base_steps: Steps under a stopped gradient; None for as many as needed, see
            `ops.sinkhorn_plan`.
        tail_steps: Steps with gradient.
        temperature: Positive number that divides the scores.
        learn_temperature: See `AttentionMap`; the gradient goes through the tail.
        **kwargs: `name`, `dtype`, `trainable`.

    Example:

    >>> import keras, numpy as np
    >>> from keras_struct import layers
    >>> scores = np.array([[[4.0, 1.0], [2.0, 1.0]]], "float32")  # one head
    >>> print(keras.ops.convert_to_numpy(layers.SinkhornMap()(scores)).round(2))
    [[[0.73 0.27]
      [0.27 0.73]]]

    Source: Tay et al. (2020), Sparse Sinkhorn attention; Forde (2026), Block-wise differentiable
    Sinkhorn attention.
    """

    def __init__(
        self,
        base_steps: int | None = None,
        tail_steps: int = 2,
        temperature: float = 1.0,
        learn_temperature: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(temperature, learn_temperature, **kwargs)
        if temperature == 0:
            raise ValueError(
                "Expected a temperature > 0 for transport: at 0 it is a linear program. "
                f"Received: temperature={temperature}"
            )
        if self.readout != "marginals":
            raise ValueError(
                "Expected the marginals of a plan: the best one is a linear program. "
                f"Received: readout={self.readout!r}"
            )
        for name, steps in (("base_steps", base_steps), ("tail_steps", tail_steps)):
            if (steps is not None or name == "tail_steps") and (
                not isinstance(steps, int) or steps < 0
            ):
                raise ValueError(f"Expected an integer >= 0. Received: {name}={steps!r}")
        self.base_steps = base_steps
        self.tail_steps = tail_steps

    def marginals(
        self,
        scores: Tensor,
        masks: Pair,
        temperature: float,
        read: Callable[[ops.Distribution], Tensor] | None = None,
    ) -> Tensor:
        return ops.sinkhorn_plan(
            scores,
            mask=masks,
            temperature=temperature,
            base_steps=self.base_steps,
            tail_steps=self.tail_steps,
        )

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "base_steps": self.base_steps,
            "tail_steps": self.tail_steps,
        }
