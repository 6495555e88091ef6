"""ESM, a language model of proteins, as an encoder of chains."""

from __future__ import annotations

from typing import Any, Self

import keras
import numpy as np
from keras import ops as K

from keras_struct.layers.annotations import Config, Shape, Spec
from keras_struct.ops.annotations import Tensor
from keras_struct.protein.chain import Chain

# The vocabulary of ESM, whose first entry is its mark of the begin.
BEGIN, END, UNKNOWN = 0, 2, 3
LETTERS = dict(zip("LAGVSERTIDPKQNFYMHWCXBUZO", range(4, 29), strict=True))


@keras.saving.register_keras_serializable("keras_struct")
class ESMEncoder(keras.layers.Layer):
    """States of residues from amino acids, by the `ESMBackbone` of KerasHub.

    Begin and end are marked as the backbone knows them, and no residue attends to padding.

    Args:
        backbone: `keras_hub.models.ESMBackbone`, such as
            `keras_hub.models.ESMBackbone.from_preset("esm2_t6_8M")`.
        **kwargs: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: Integers `(B, L)`, numbers of ESM's vocabulary, see `chain_inputs`; 0 in the padding
            on the right.
        mask: Ignored; the padding says the same.

    Returns:
        States `(B, L, backbone.hidden_dim)`, 0 in the padding.

    Raises:
        ValueError: If it is not such a backbone.

    Source: Lin et al. (2023), Evolutionary-scale prediction of atomic-level protein structure with
    a language model (ESM-2).
    """

    batch_residues = 4096

    def __init__(self, backbone: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        parts = ("token_embedding", "transformer_layers", "output_layer_norm", "pad_token_id")
        if not all(hasattr(backbone, part) for part in parts):
            raise ValueError(
                f"Expected a keras_hub.models.ESMBackbone. Received: backbone={backbone}"
            )
        self.backbone = backbone
        self.hidden_dim = backbone.hidden_dim
        self.supports_masking = True

    @property
    def input_specs(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape of a residue and dtype of the input, by name."""
        return {"tokens": ((), "int32")}

    def chain_inputs(self, chain: Chain) -> dict[str, np.ndarray]:
        """The input of a `Chain`, an array `(L,)` by name."""
        return {
            "tokens": np.array([LETTERS.get(x, UNKNOWN) for x in chain.sequence.upper()], "int32")
        }

    def build(self, input_shape: Shape) -> None:
        if len(input_shape) != 2:
            raise ValueError(f"Expected tokens (B, L). Received: input_shape={tuple(input_shape)}")

    def call(
        self, inputs: Tensor, mask: Tensor | None = None, training: bool | None = None
    ) -> Tensor:
        backbone, inside = self.backbone, inputs > 0
        begin = K.full_like(inputs[:, :1], BEGIN)
        tokens = K.concatenate([begin, inputs, K.zeros_like(begin)], axis=1)
        # Of length L: 1 for the residues and both marks.
        last = K.sum(K.cast(inside, "int32"), axis=1, keepdims=True) + 1
        places = K.arange(K.shape(tokens)[1], dtype="int32")
        tokens = K.where(places == last, END, tokens)
        tokens = K.where(places > last, backbone.pad_token_id, tokens)
        x = backbone.token_embedding(tokens)
        if backbone.position_embedding_type == "absolute":
            added = backbone.position_embedding(x, start_index=backbone.pad_token_id)
            x = backbone.embeddings_add([x, added])
        if backbone.use_pre_layer_norm:
            x = backbone.emb_layer_norm(x)
        for layer in backbone.transformer_layers:
            x = _transformer_layer(layer, x, places <= last, training)
        x = backbone.output_layer_norm(x)[:, 1:-1]
        return x * K.cast(inside, x.dtype)[..., None]

    def compute_mask(self, inputs: Tensor, previous_mask: Tensor | None = None) -> Tensor | None:
        return previous_mask

    def compute_output_spec(
        self, inputs: Tensor, mask: Tensor | None = None, training: bool | None = None
    ) -> Spec:
        return keras.KerasTensor((*inputs.shape, self.hidden_dim), self.compute_dtype)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "backbone": keras.saving.serialize_keras_object(self.backbone),
        }

    @classmethod
    def from_config(cls, config: Config) -> Self:
        backbone = keras.saving.deserialize_keras_object(config["backbone"])
        return cls(**{**config, "backbone": backbone})


def _transformer_layer(layer, x, inside, training):
    """A layer of the backbone, as its own call, but with the mask on the keys.

    KerasHub 0.32 masks the queries instead on all backends but PyTorch, so that residues attend to
    padding there.
    """
    attention = layer.attention_layer
    y = layer.attention_norm(layer.dropout_layer(x, training=training))
    shape = K.shape(y)
    heads = (shape[0], shape[1], attention.heads, attention.head_size)
    q, k, v = (
        K.reshape(dense(y), heads)
        for dense in (attention.q_dense, attention.k_dense, attention.v_dense)
    )
    if attention.use_rotary:
        q, k = attention.rotary_embedding_layer(q, k)
    mask = K.broadcast_to(inside[:, None, None, :], (shape[0], 1, shape[1], shape[1]))
    y = K.dot_product_attention(q, k, v, mask=mask)
    x = x + attention.o_dense(K.reshape(y, (shape[0], shape[1], -1)))
    y = layer.feedforward_norm(layer.dropout_layer(x, training=training))
    y = layer.feedforward_output_dense(layer.feedforward_intermediate_dense(y))
    return x + layer.dropout_layer(y, training=training)
