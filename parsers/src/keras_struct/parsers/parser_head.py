"""What the heads of parsers share: projections of token states, masks, output modes."""

from __future__ import annotations

import keras
from keras import initializers
from keras import ops as K

from keras_struct.layers.annotations import Shape, Spec
from keras_struct.layers.crf import clone_initializer
from keras_struct.layers.packed import pack, packed_spec, tree_options
from keras_struct.layers.potentials import TreePotentials, potential_dtype
from keras_struct.layers.prediction_head import PredictionHead
from keras_struct.layers.sequence_mask import extent, without_padding
from keras_struct.ops.annotations import Tensor
from keras_struct.parsers.tree_decoder import OUTPUT_MODES, TreeDecoder, decode, decoded_spec


class ParserHead(PredictionHead):
    """Base class of the heads of parsers, see `CKYParser` and `DependencyParser`.

    A subclass says its `structure` (and `single_root`, see `TreePotentials`), builds layers in
    `build_scores(states_shape)` and implements `scores(states, mask, training)`,
    `(B, N, F) -> (B, N, N, K)`, where a mask `(B, N)` is None if positions stand in front.

    Args:
        num_labels: Number of scores of a part, K.
        output_mode: What the layer returns: `"potentials"`, packed, or see `TreeDecoder`.
        dropout: Rate of the projected states.
        activation: Activation of the projections.
        kernel_initializer: Initializer of all kernels.
        **kwargs: `name`, `dtype`, `trainable`.
    """

    OUTPUT_MODES = ("potentials", *OUTPUT_MODES)
    decoder = TreeDecoder
    structure: str
    single_root = True

    def __init__(self, num_labels, output_mode, dropout, activation, kernel_initializer, **kwargs):
        super().__init__(**kwargs)
        if output_mode not in self.OUTPUT_MODES:
            raise ValueError(
                f"Expected an output mode among {self.OUTPUT_MODES}. "
                f"Received: output_mode={output_mode!r}"
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"Expected a rate in [0, 1). Received: dropout={dropout}")
        self.num_labels = num_labels
        self.output_mode = output_mode
        self.dropout = dropout
        self.activation = keras.activations.get(activation)
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.dropout_layer = keras.layers.Dropout(dropout, dtype=self.dtype_policy)

    def build(self, states_shape: Shape) -> None:
        if len(states_shape) != 3 or states_shape[-1] is None:
            raise ValueError(
                f"Expected token states (B, N, F). Received: states_shape={tuple(states_shape)}"
            )
        self.build_scores(tuple(states_shape))

    def build_scores(self, states_shape):
        raise NotImplementedError

    def scores(self, states, mask, training):
        raise NotImplementedError

    def projection(self, name: str, units: int, features: int) -> keras.layers.Dense:
        """A built dense layer from states with these features."""
        dense = keras.layers.Dense(
            units,
            activation=self.activation,
            kernel_initializer=clone_initializer(self.kernel_initializer),
            dtype=self.dtype_policy,
            name=name,
        )
        dense.build((None, None, features))
        return dense

    def projected(
        self, projection: keras.layers.Layer, states: Tensor, training: bool | None
    ) -> Tensor:
        return self.dropout_layer(projection(states), training=training)

    def call(
        self, states: Tensor, mask: Tensor | None = None, training: bool | None = False
    ) -> Tensor:
        # A product with NaN would poison the gradients of the weights.
        states, which = without_padding(states, mask), extent(mask)
        scores = self.scores(states, which.get("mask"), training)
        potentials = TreePotentials(
            K.cast(scores, self._potential_dtype()),
            structure=self.structure,
            single_root=self.single_root,
            **which,
        )
        if self.returns_potentials:
            return pack(potentials)
        return decode(potentials, self.output_mode, self.compute_dtype)

    def compute_mask(self, states: Tensor, previous_mask: Tensor | None = None) -> Tensor | None:
        return None

    def compute_output_spec(
        self, states: Tensor, mask: Tensor | None = None, training: bool | None = False
    ) -> Spec:
        batch, n = states.shape[:2]
        shape = (batch, n, n, self.num_labels)
        if self.returns_potentials:
            options = tree_options(self.structure, self.single_root)
            return packed_spec(self.structure, options, shape, self._potential_dtype())
        return decoded_spec(self.output_mode, shape, self.structure, self.compute_dtype)

    def _potential_dtype(self):
        return potential_dtype(self.compute_dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "output_mode": self.output_mode,
            "dropout": self.dropout,
            "activation": keras.activations.serialize(self.activation),
            "kernel_initializer": initializers.serialize(self.kernel_initializer),
        }


def check_size(name, size):
    """The number, or a `ValueError` unless it is a positive integer."""
    if not isinstance(size, int) or size < 1:
        raise ValueError(f"Expected a positive integer. Received: {name}={size}")
    return size
