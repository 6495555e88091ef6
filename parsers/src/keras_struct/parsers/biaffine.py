"""Scores of all pairs of positions from two sequences of states."""

from __future__ import annotations

from typing import Any

import keras
from keras import initializers
from keras import ops as K

from keras_struct.layers.annotations import Config, Initializer, Shape, Spec
from keras_struct.ops.annotations import Tensor


@keras.saving.register_keras_serializable("keras_struct")
class Biaffine(keras.layers.Layer):
    """Scores `[x; 1]ᵀ U_k [y; 1]` of every pair of a row x and a column y, for every unit k.

    Args:
        units: Number of scores of a pair, K.
        kernel_initializer: Initializer of U, `(K, F1 + 1, F2 + 1)`.
        **kwargs: `name`, `dtype`, `trainable`.

    Call arguments:
        rows: `(B, N, F1)`.
        columns: `(B, M, F2)`.

    Returns:
        `(B, N, M, K)`.

    Raises:
        ValueError: For a number of units or shapes that do not fit.

    Example:

    >>> import numpy as np
    >>> from keras_struct.parsers import Biaffine
    >>> scores = Biaffine(7)(np.ones((2, 5, 3), "float32"), np.ones((2, 4, 3), "float32"))
    >>> tuple(scores.shape)
    (2, 5, 4, 7)

    Source: Dozat and Manning (2017), Deep biaffine attention for neural dependency parsing, §3.2.
    """

    def __init__(
        self, units: int, kernel_initializer: Initializer = "glorot_uniform", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if not isinstance(units, int) or units < 1:
            raise ValueError(f"Expected a positive integer. Received: units={units}")
        self.units = units
        self.kernel_initializer = initializers.get(kernel_initializer)

    def build(self, rows_shape: Shape, columns_shape: Shape) -> None:
        features = (rows_shape[-1], columns_shape[-1])
        if len(rows_shape) != 3 or len(columns_shape) != 3 or None in features:
            raise ValueError(
                "Expected rows (B, N, F1) and columns (B, M, F2). "
                f"Received: rows_shape={rows_shape}, columns_shape={columns_shape}"
            )
        self.kernel = self.add_weight(
            shape=(features[0] + 1, self.units, features[1] + 1),
            initializer=_Transposed(self.kernel_initializer),
            name="kernel",
        )

    def call(self, rows: Tensor, columns: Tensor) -> Tensor:
        # The ones of [x; 1] and [y; 1] are sums, not columns: no copies of the states.
        x = K.tensordot(rows, self.kernel[:-1], axes=1) + self.kernel[-1]  # (B, N, K, F2 + 1)
        scores = K.einsum("bnkf,bmf->bnmk", x[..., :-1], columns)
        return scores + K.expand_dims(x[..., -1], 2)

    def compute_output_spec(self, rows: Tensor, columns: Tensor) -> Spec:
        return keras.KerasTensor(
            (*rows.shape[:2], columns.shape[1], self.units), self.compute_dtype
        )

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "units": self.units,
            "kernel_initializer": initializers.serialize(self.kernel_initializer),
        }


class _Transposed:
    """Initializer of `(F1 + 1, K, F2 + 1)` by one of `(K, F1 + 1, F2 + 1)`: the fans are right."""

    def __init__(self, initializer):
        self.initializer = initializer

    def __call__(self, shape, dtype=None):
        rows, units, columns = shape
        return K.transpose(self.initializer((units, rows, columns), dtype=dtype), (1, 0, 2))
