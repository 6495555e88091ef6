"""Multi-head attention with a transport plan, in tiles."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import initializers
from keras import ops as K

from keras_struct import ops
from keras_struct.layers.annotations import Config, Shape, Spec
from keras_struct.layers.import_hint import ImportHint
from keras_struct.layers.sequence_mask import all_of, without_padding
from keras_struct.layers.structured_attention import gate_of
from keras_struct.ops.annotations import Tensor
from keras_struct.ops.transport.problem import relaxations
from keras_struct.ops.transport.sinkhorn import MODES

DUSTBINS = (None, "spoke", "block")


@keras.saving.register_keras_serializable("keras_struct")
class SinkhornTailAttention(ImportHint, keras.layers.MultiHeadAttention):
    """Multi-head attention whose map is an entropic transport plan, in tiles.

    `keras.layers.MultiHeadAttention` with `ops.sinkhorn_tail` in place of the softmax: every query
    and every key of a head has mass 1. Scores are computed where they are needed: memory is linear
    in length, forward and backward, and on a band so is time. (A small plan without a band is
    stored, see `ops.sinkhorn_tail`.)

    Args:
        num_heads: Number of heads.
        key_dim: Size of each head for query and key.
        band_width: Half of the width of the band |t - s| <= band_width of pairs; None for all.
        base_steps: Steps under a stopped gradient.
        tail_steps: Steps with gradient.
        epsilon: Positive number that divides the scores `q . k / sqrt(key_dim)`.
        learn_epsilon: Whether each head learns it, from `epsilon` on; through the tail.
        dustbin: `"spoke"` or `"block"` for a place on each side that takes what matches nothing,
            with learned features and a learned value (see `ops.Dustbin`); None for none.
        dustbin_capacity: Positive number: the mass of each dustbin.
        kl_weights: Pair of positive numbers, or None where the masses must be met: how much queries
            and keys may differ from mass 1 (see `ops.sinkhorn`).
        gradient: `"tail"`, `"unrolled"` or `"implicit"`, see `ops.sinkhorn_tail`.
        **kwargs: Other arguments of `keras.layers.MultiHeadAttention`, but for `dropout`,
            `sliding_window` and `attention_axes`: there is no map to drop from, and one sequence.

    Call arguments:
        query: `(B, T, F)`.
        value: `(B, S, F)`.
        key: `(B, S, F)`, by default the value.
        query_mask: Boolean `(B, T)`; by default the Keras mask of the query, which the output
            keeps.
        value_mask: Boolean `(B, S)`; by default the Keras mask of the value.
        key_mask: The same for the key.
        return_attention_scores: Whether to return the map, too: O(T S) memory.
        training: Of no influence.

    Returns:
        `(B, T, F)`, or a pair with the map `(B, H, T, S)`, without dustbins. What lies in the
        padding, NaN included, never matters.

    Raises:
        ValueError: For arguments that do not fit.

    Example:

    >>> import numpy as np
    >>> from keras_struct import layers
    >>> x = np.random.default_rng(0).normal(size=(2, 100, 8)).astype("float32")
    >>> attend = layers.SinkhornTailAttention(num_heads=2, key_dim=4, band_width=8)
    >>> tuple(attend(x, x).shape)
    (2, 100, 8)

    Source: Forde (2026), Block-wise differentiable Sinkhorn attention.
    """

    def __init__(
        self,
        num_heads: int,
        key_dim: int,
        band_width: int | None = None,
        base_steps: int = 20,
        tail_steps: int = 2,
        epsilon: float = 1.0,
        learn_epsilon: bool = False,
        dustbin: str | None = None,
        dustbin_capacity: float = 1.0,
        kl_weights: tuple[float | None, float | None] = (None, None),
        gradient: str = "tail",
        **kwargs: Any,
    ) -> None:
        for name in ("dropout", "sliding_window", "attention_axes"):
            if kwargs.get(name):
                raise ValueError(f"Expected no {name} here. Received: {name}={kwargs[name]}")
        if dustbin not in DUSTBINS:
            raise ValueError(f"Expected a dustbin among {DUSTBINS}. Received: dustbin={dustbin!r}")
        for name, number in (("epsilon", epsilon), ("dustbin_capacity", dustbin_capacity)):
            if not 0 < number < math.inf:
                raise ValueError(f"Expected a finite number > 0. Received: {name}={number}")
        counts = {"base_steps": base_steps, "tail_steps": tail_steps, "band_width": band_width or 0}
        for name, count in counts.items():
            if not isinstance(count, int) or count < 0:
                raise ValueError(f"Expected an integer >= 0. Received: {name}={count!r}")
        if gradient not in MODES:
            raise ValueError(f"Expected a gradient among {MODES}. Received: gradient={gradient!r}")
        relaxations(kl_weights)
        super().__init__(num_heads, key_dim, **kwargs)
        self.band_width = band_width
        self.base_steps = base_steps
        self.tail_steps = tail_steps
        self.epsilon = epsilon
        self.learn_epsilon = learn_epsilon
        self.dustbin = dustbin
        self.dustbin_capacity = dustbin_capacity
        self.kl_weights = tuple(kl_weights)
        self.gradient = gradient

    def build(self, query_shape: Shape, value_shape: Shape, key_shape: Shape | None = None) -> None:
        if len(query_shape) != 3 or len(value_shape) != 3:
            raise ValueError(
                "Expected (B, T, F) and (B, S, F). "
                f"Received: shapes of query={tuple(query_shape)}, value={tuple(value_shape)}"
            )
        super().build(query_shape, value_shape, key_shape)
        heads = self.num_heads
        if self.learn_epsilon:
            start = initializers.Constant(math.log(self.epsilon))
            self.log_epsilon = self.add_weight(
                name="log_epsilon", shape=(heads,), initializer=start, autocast=False
            )
        if self.dustbin is not None:
            sizes = {"query": self.key_dim, "key": self.key_dim, "value": self.value_dim}
            self.dustbin_tokens = [
                self.add_weight(
                    name=f"dustbin_{name}", shape=(heads, size), initializer="glorot_uniform"
                )
                for name, size in sizes.items()
            ]

    def call(
        self,
        query: Tensor,
        value: Tensor,
        key: Tensor | None = None,
        query_mask: Tensor | None = None,
        value_mask: Tensor | None = None,
        key_mask: Tensor | None = None,
        return_attention_scores: bool = False,
        training: bool | None = None,
    ) -> Tensor:
        queries = without_padding(query, query_mask)
        keys = without_padding(*((value, value_mask) if key is None else (key, key_mask)))
        q, k, v = (
            K.transpose(x, (0, 2, 1, 3))
            for x in (
                self.query_dense(queries),
                self.key_dense(keys),
                self.value_dense(without_padding(value, value_mask)),
            )
        )
        masks = self._masks(query_mask, value_mask, key_mask)
        output = K.transpose(self._transport(q, k, v, masks), (0, 2, 1, 3))
        gate = gate_of(self)
        output = output if gate is None else K.multiply(output, gate(queries))
        output = self.output_dense(output)
        if not return_attention_scores:
            return output
        every = K.zeros_like(k[..., :1]) + K.eye(K.shape(k)[2], dtype=k.dtype)
        return output, self._transport(q, k, every, masks, value_token=False)

    def _masks(self, query_mask, value_mask, key_mask):
        masks = all_of(query_mask), all_of(value_mask, key_mask)
        return tuple(None if mask is None else mask[:, None] for mask in masks)

    def _transport(self, query, key, value, masks, value_token=True):
        epsilon = self.epsilon
        if self.learn_epsilon:
            epsilon = K.exp(K.cast(self.log_epsilon, "float32"))
        dustbin = None
        if self.dustbin is not None:
            tokens = [K.zeros_like(query[:, :, 0, :1]) + token for token in self.dustbin_tokens]
            capacities = self.dustbin_capacity, self.dustbin_capacity
            last = tokens[2] if value_token else None
            dustbin = ops.Dustbin(tokens[0], tokens[1], last, capacities, self.dustbin)
        return ops.sinkhorn_tail(
            query,
            key,
            value,
            mask=masks,
            epsilon=epsilon,
            band_width=self.band_width,
            base_steps=self.base_steps,
            tail_steps=self.tail_steps,
            gradient=self.gradient,
            kl_weights=self.kl_weights,
            dustbin=dustbin,
        )

    def compute_output_spec(
        self,
        query: Tensor,
        value: Tensor,
        key: Tensor | None = None,
        query_mask: Tensor | None = None,
        value_mask: Tensor | None = None,
        key_mask: Tensor | None = None,
        return_attention_scores: bool = False,
        training: bool | None = None,
    ) -> Spec:
        shape = self.compute_output_shape(
            query.shape, value.shape, None if key is None else key.shape
        )
        output = keras.KerasTensor(shape, self.compute_dtype)
        if not return_attention_scores:
            return output
        scores = (query.shape[0], self.num_heads, query.shape[1], value.shape[1])
        return output, keras.KerasTensor(scores, self.compute_dtype)

    def get_config(self) -> Config:
        config = super().get_config()
        for name in ("dropout", "sliding_window", "attention_axes"):
            config.pop(name, None)
        return {
            **config,
            "band_width": self.band_width,
            "base_steps": self.base_steps,
            "tail_steps": self.tail_steps,
            "epsilon": self.epsilon,
            "learn_epsilon": self.learn_epsilon,
            "dustbin": self.dustbin,
            "dustbin_capacity": self.dustbin_capacity,
            "kl_weights": self.kl_weights,
            "gradient": self.gradient,
        }
