"""States of residues from an encoder that was trained elsewhere, and from letters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import keras
import numpy as np
from keras import ops as K

from keras_struct.layers.annotations import Config, Shape, Spec
from keras_struct.ops.annotations import Tensor
from keras_struct.protein.chain import Chain
from keras_struct.protein.residue_encoder import ResidueEncoder

STATES = "states"  # the input that stands for the trunk's, once they are computed


@keras.saving.register_keras_serializable("keras_struct")
class PretrainedEncoder(keras.layers.Layer):
    """States of residues from a trunk, which was trained elsewhere, and from their letters.

    Two dense layers on the states of the trunk, plus a `ResidueEncoder`. With
    `trunk.trainable = False` only those learn, and `train` runs the trunk once for each chain.

    Args:
        trunk: `ProteinMPNNEncoder` or `ESMEncoder`.
        alphabets, dim, depth, kernel_size: Of the `ResidueEncoder`.
        hidden_dim: Size of the dense layer between the trunk's states and `dim`.
        dropout: Rate, everywhere but in the trunk.
        **kwargs: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: Dictionary of `letters`, integers `(B, L, len(alphabets))`, 0 in the padding on the
            right, and what the trunk reads, under its name, see `chain_inputs`; or in its place
            `states`, what the trunk returns.

    Returns:
        States `(B, L, dim)`, 0 in the padding, with the Keras mask of the residues.

    Raises:
        ValueError: For arguments that do not fit, see `ResidueEncoder`.

    Example:

    >>> import pathlib, tmtools
    >>> from keras_struct import protein
    >>> file = pathlib.Path(tmtools.__file__).parent / "data" / "2gtl.cif"
    >>> chain = protein.read_chain(f"{file}:A")
    >>> trunk = protein.ProteinMPNNEncoder(hidden_dim=8, num_layers=1)
    >>> encoder = protein.PretrainedEncoder(trunk, dim=16)
    >>> inputs = {name: x[None] for name, x in encoder.chain_inputs(chain).items()}
    >>> sorted(inputs), tuple(encoder(inputs).shape)
    (['backbone', 'letters'], (1, 147, 16))
    """

    def __init__(
        self,
        trunk: keras.layers.Layer,
        alphabets: Sequence[str] = ("3di", "amino_acids"),
        dim: int = 64,
        hidden_dim: int = 256,
        depth: int = 2,
        kernel_size: int = 9,
        dropout: float = 0.2,
        **kwargs: Any,
    ) -> None:
        # Coordinates are in float32 whatever the layers compute in.
        super().__init__(autocast=False, **kwargs)
        policy = self.dtype_policy
        self.trunk = trunk
        self.letters = ResidueEncoder(
            alphabets, dim, depth, kernel_size, dropout, dtype=policy, name="letters"
        )
        self.norm = keras.layers.LayerNormalization(epsilon=1e-5, dtype=policy, name="norm")
        self.hidden = keras.layers.Dense(hidden_dim, "gelu", dtype=policy, name="hidden")
        self.project = keras.layers.Dense(dim, dtype=policy, name="project")
        self.drop = keras.layers.Dropout(dropout, dtype=policy)
        self.dim = dim
        self.hidden_dim = hidden_dim
        self.batch_residues = trunk.batch_residues

    @property
    def alphabets(self) -> tuple[str, ...]:
        return self.letters.alphabets

    @property
    def input_specs(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape of a residue and dtype of every input, by name."""
        return {**self.letters.input_specs, **self.trunk.input_specs}

    def chain_inputs(self, chain: Chain) -> dict[str, np.ndarray]:
        """The inputs of a `Chain`, arrays `(L, ...)` by name."""
        return {**self.letters.chain_inputs(chain), **self.trunk.chain_inputs(chain)}

    def build(self, input_shape: dict[str, Shape]) -> None:
        letters = input_shape["letters"]
        self.letters.build(letters)
        if not self.trunk.built:
            ((shape, _),) = self.trunk.input_specs.values()
            self.trunk.build((*letters[:2], *shape))
        states = (*letters[:2], self.trunk.hidden_dim)
        self.norm.build(states)
        self.hidden.build(states)
        self.project.build((*letters[:2], self.hidden_dim))

    def call(self, inputs: dict[str, Tensor], training: bool | None = None) -> Tensor:
        inside = self.compute_mask(inputs)
        x = inputs[STATES] if STATES in inputs else self.trunk_states(inputs, training)
        x = self.hidden(self.drop(self.norm(x), training=training))
        x = self.project(self.drop(x, training=training))
        x = x * K.cast(inside, x.dtype)[..., None]
        return x + self.letters(inputs["letters"], training=training)

    def trunk_states(self, inputs: dict[str, Tensor], training: bool | None = None) -> Tensor:
        """What the trunk makes of the inputs, `(B, L, trunk.hidden_dim)`."""
        (name,) = self.trunk.input_specs
        learns = training if self.trunk.trainable else False
        return self.trunk(inputs[name], mask=self.compute_mask(inputs), training=learns)

    def compute_mask(
        self, inputs: dict[str, Tensor], previous_mask: Tensor | None = None
    ) -> Tensor | None:
        return inputs["letters"][..., 0] > 0

    def compute_output_spec(self, inputs: dict[str, Tensor], training: bool | None = None) -> Spec:
        return keras.KerasTensor((*inputs["letters"].shape[:-1], self.dim), self.compute_dtype)

    def get_config(self) -> Config:
        letters = self.letters
        return {
            **super().get_config(),
            "trunk": keras.saving.serialize_keras_object(self.trunk),
            "alphabets": list(letters.alphabets),
            "dim": self.dim,
            "hidden_dim": self.hidden_dim,
            "depth": letters.depth,
            "kernel_size": letters.kernel_size,
            "dropout": letters.dropout,
        }

    @classmethod
    def from_config(cls, config: Config) -> Self:
        trunk = keras.saving.deserialize_keras_object(config["trunk"])
        return cls(**{**config, "trunk": trunk})
