"""A mask that is known, as the Keras mask of a tensor."""

from __future__ import annotations

from typing import Any

import keras

from keras_struct.layers.annotations import Spec
from keras_struct.layers.import_hint import ImportHint
from keras_struct.layers.targets import fits
from keras_struct.ops.annotations import Tensor


@keras.saving.register_keras_serializable("keras_struct")
class AttachMask(ImportHint):
    """Attaches a mask to a tensor: `AttachMask()([x, mask])` is `x` with `mask` as Keras mask.

    `keras.layers.Masking` computes a mask from the values; this layer takes one that is known.

    Call arguments:
        inputs: A pair: `x`, `(B, N, ...)`, and booleans (or numbers, not 0 for True) `(B, N)`.

    Returns:
        `x`.

    Raises:
        ValueError: If it is no pair of these shapes.

    Example:

    >>> import keras
    >>> from keras_struct import layers
    >>> x, mask = keras.Input((None, 3)), keras.Input((None,), dtype="bool")
    >>> model = keras.Model([x, mask], layers.CRF(2)(layers.AttachMask()([x, mask])))
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        x, mask = input_shape if _is_pair(input_shape) else (input_shape, None)
        if mask is None or not fits(mask, x[:2]):
            raise ValueError(
                "Expected a pair of x (B, N, ...) and a mask (B, N), as in AttachMask()([x, mask])."
                f" Received: input_shape={input_shape}"
            )

    def call(self, inputs: Tensor) -> Tensor:
        return keras.ops.copy(inputs[0])

    def compute_mask(self, inputs: Tensor, previous_mask: Tensor | None = None) -> Tensor | None:
        return inputs[1]

    def compute_output_spec(self, inputs: Tensor) -> Spec:
        return keras.KerasTensor(inputs[0].shape, inputs[0].dtype)


def _is_pair(shapes):
    return len(shapes) == 2 and all(isinstance(shape, tuple | list) for shape in shapes)
