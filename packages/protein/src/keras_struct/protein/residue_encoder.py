"""Letters of residues into states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops as K

from keras_struct.layers.annotations import Config, Shape, Spec
from keras_struct.ops.annotations import Tensor
from keras_struct.protein.chain import Chain

ALPHABETS = {
    "amino_acids": "ACDEFGHIKLMNPQRSTVWYX",
    "3di": "ACDEFGHIKLMNPQRSTVWY",
}


@keras.saving.register_keras_serializable("keras_struct")
class ResidueEncoder(keras.layers.Layer):
    """States of the residues of a chain from its letters, and from those around them.

    The embeddings of all alphabets are added; then come `depth` residual convolutions along the
    chain. With `depth=0` a state depends on the letters of one residue alone, which makes the
    scores of an `Aligner` a learned substitution matrix.

    Args:
        alphabets: Names of the alphabets, `"3di"` (structural letters) and `"amino_acids"`.
        dim: Size of the states.
        depth: How many residual convolutions.
        kernel_size: Residues that a convolution sees, odd.
        dropout: Rate, on the embeddings and in every convolution.
        **kwargs: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: Integers `(B, L, len(alphabets))`: the place of each letter in its alphabet, from 1;
            0 in the padding on the right. `letter_ids` makes them.

    Returns:
        States `(B, L, dim)`, 0 in the padding, with the Keras mask of the residues.

    Raises:
        ValueError: For arguments or shapes that do not fit.

    Example:

    >>> from keras_struct import protein
    >>> encoder = protein.ResidueEncoder(("amino_acids",), dim=16)
    >>> ids = protein.letter_ids(protein.Chain("b", "PAWHEAE"), encoder.alphabets)
    >>> tuple(encoder(ids[None]).shape)
    (1, 7, 16)
    """

    batch_residues = 16384

    def __init__(
        self,
        alphabets: Sequence[str] = ("3di", "amino_acids"),
        dim: int = 128,
        depth: int = 2,
        kernel_size: int = 9,
        dropout: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        unknown = [name for name in alphabets if name not in ALPHABETS]
        if unknown or not alphabets:
            raise ValueError(
                f"Expected alphabets among {list(ALPHABETS)}. Received: alphabets={alphabets}"
            )
        if dim < 1 or depth < 0 or kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(
                "Expected dim >= 1, depth >= 0 and an odd kernel_size. "
                f"Received: dim={dim}, depth={depth}, kernel_size={kernel_size}"
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"Expected a rate from 0 to below 1. Received: dropout={dropout}")
        self.alphabets = tuple(alphabets)
        self.dim = dim
        self.depth = depth
        self.kernel_size = kernel_size
        self.dropout = dropout
        policy = self.dtype_policy
        self.embeddings = [
            keras.layers.Embedding(
                len(ALPHABETS[name]) + 1, dim, dtype=policy, name=f"embedding_{name}"
            )
            for name in alphabets
        ]
        self.drop = keras.layers.Dropout(dropout, dtype=policy)
        # Side by side: Keras below 3.15 does not save the layers of a list in a list.
        self.norms = [
            keras.layers.LayerNormalization(epsilon=1e-5, dtype=policy, name=f"norm_{k}")
            for k in range(depth)
        ]
        self.convolutions = [
            keras.layers.Conv1D(
                dim,
                kernel_size,
                padding="same",
                activation="gelu",
                dtype=policy,
                name=f"convolution_{k}",
            )
            for k in range(depth)
        ]
        self.denses = [
            keras.layers.Dense(dim, dtype=policy, name=f"dense_{k}") for k in range(depth)
        ]

    @property
    def input_specs(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape of a residue and dtype of the input, by name."""
        return {"letters": ((len(self.alphabets),), "int32")}

    def chain_inputs(self, chain: Chain) -> dict[str, np.ndarray]:
        """The input of a `Chain`, an array `(L, len(alphabets))` by name."""
        return {"letters": letter_ids(chain, self.alphabets)}

    def build(self, input_shape: Shape) -> None:
        if len(input_shape) != 3 or input_shape[-1] != len(self.alphabets):
            raise ValueError(
                f"Expected letters (B, L, {len(self.alphabets)}), a column for each of "
                f"{self.alphabets}. Received: input_shape={input_shape}"
            )
        states = (*input_shape[:-1], self.dim)
        for embedding in self.embeddings:
            embedding.build(input_shape[:-1])
        for layer in (*self.norms, *self.convolutions, *self.denses):
            layer.build(states)

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        inside = K.cast(self._inside(inputs), self.compute_dtype)[..., None]
        x = sum(embed(inputs[..., k]) for k, embed in enumerate(self.embeddings))
        x = self.drop(x, training=training) * inside
        for norm, convolution, dense in zip(
            self.norms, self.convolutions, self.denses, strict=True
        ):
            # Zeros beyond the end, so that padding changes nothing.
            change = dense(convolution(norm(x) * inside))
            x = (x + self.drop(change, training=training)) * inside
        return x

    def _inside(self, inputs):
        return inputs[..., 0] > 0

    def compute_mask(self, inputs: Tensor, previous_mask: Tensor | None = None) -> Tensor | None:
        return self._inside(inputs)

    def compute_output_spec(self, inputs: Tensor, training: bool | None = None) -> Spec:
        return keras.KerasTensor((*inputs.shape[:-1], self.dim), self.compute_dtype)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "alphabets": list(self.alphabets),
            "dim": self.dim,
            "depth": self.depth,
            "kernel_size": self.kernel_size,
            "dropout": self.dropout,
        }


def letter_ids(chain: Chain, alphabets: Sequence[str]) -> np.ndarray:
    """Integers `(L, len(alphabets))` of a `Chain`, as `ResidueEncoder` takes them.

    Amino acids beside the twenty are `X`.

    Raises:
        ValueError: If structural letters are asked of a chain without coordinates.
    """
    columns = []
    for name in alphabets:
        letters = chain.sequence if name == "amino_acids" else chain.structural_letters
        places = {letter: k for k, letter in enumerate(ALPHABETS[name], 1)}
        other = places.get("X", places["D"])
        columns.append([places.get(letter, other) for letter in letters])
    return np.array(columns, "int32").T
