"""Learned scores of the gaps of an alignment."""

from __future__ import annotations

from typing import Any

import keras
from keras import initializers
from keras import ops as K

from keras_struct.layers.alignment_map import check_gaps
from keras_struct.layers.annotations import Config, Initializer, Shape, Spec
from keras_struct.layers.crf import clone_initializer
from keras_struct.layers.import_hint import ImportHint
from keras_struct.layers.potentials import potential_dtype
from keras_struct.layers.sequence_mask import without_padding
from keras_struct.ops.annotations import Tensor


@keras.saving.register_keras_serializable("keras_struct")
class GapPenalties(ImportHint):
    """Learned gap scores: constant, or contextual from the states of the tokens.

    Constant gaps are one number to open and one to extend. Contextual gaps add to them a projection
    of the state of the token that is skipped, separate for the two sequences, so a loop may be
    cheaper to skip than a helix. Freeze the scores with `trainable=False`.

    Args:
        gap_open: Initial score of the first skip of a gap; usually negative. The default of -3,
            with -0.3 to extend, is what the usual gaps beside BLOSUM62 (-11 and -1) are in nats,
            the unit of scores at temperature 1.
        gap_extend: Initial score of every further skip; None for `gap_open` (linear gaps).
        contextual: Whether the scores depend on the states of the tokens.
        kernel_initializer: Initializer of the projections. Zeros, the default, start from constant
            gaps.
        **kwargs: `name`, `dtype`, `trainable`.

    Call arguments:
        first: `(B, L1, F1)` token states, the rows of the alignment.
        second: `(B, L2, F2)` token states, the columns.
        first_mask: Boolean `(B, L1)`; by default the Keras mask of `first`. What the padding holds,
            NaN included, never matters.
        second_mask: The same for `second`.

    Returns:
        Tuple `(gap_open, gap_extend)`, or `(gap_open,)` for linear gaps, to unpack into
        `ops.smith_waterman(scores, *gaps)` and its like. Each is `(B,)`; contextual, a pair
        `(B, L1, 1)` for skipped rows and `(B, 1, L2)` for skipped columns. float32 under every
        dtype policy but float64.

    Raises:
        ValueError: If a gap score is not finite.

    Example:

    >>> import numpy as np
    >>> from keras_struct import layers, ops
    >>> x, y = np.ones((2, 4, 8), "float32"), np.ones((2, 5, 8), "float32")
    >>> gaps = layers.GapPenalties(contextual=True)(x, y)
    >>> tuple(gaps[0][0].shape), tuple(gaps[0][1].shape)
    ((2, 4, 1), (2, 1, 5))
    >>> alignments = ops.needleman_wunsch(np.zeros((2, 4, 5), "float32"), *gaps)

    Source: Llinares-López, Berthet, Blondel, Teboul and Vert (2023), Deep embedding and alignment
    of protein sequences (contextual gaps).
    """

    def __init__(
        self,
        gap_open: float = -3.0,
        gap_extend: float | None = -0.3,
        contextual: bool = False,
        kernel_initializer: Initializer = "zeros",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_gaps(gap_open, gap_extend)
        self.gap_open = gap_open
        self.gap_extend = gap_extend
        self.contextual = contextual
        self.kernel_initializer = initializers.get(kernel_initializer)

    def build(self, first_shape: Shape, second_shape: Shape) -> None:
        given = {"gap_open": self.gap_open, "gap_extend": self.gap_extend}
        # Half precision would round these few numbers for nothing.
        self.constants = [
            self.add_weight(
                name=name,
                shape=(2,) if self.contextual else (),
                initializer=initializers.Constant(value),
                autocast=False,
            )
            for name, value in given.items()
            if value is not None
        ]
        if self.contextual:
            self.row = self._project("row", first_shape)
            self.column = self._project("column", second_shape)

    def _project(self, name, shape):
        dense = keras.layers.Dense(
            len(self.constants),
            use_bias=False,
            kernel_initializer=clone_initializer(self.kernel_initializer),
            dtype=self.dtype_policy,
            name=name,
        )
        dense.build(shape)
        return dense

    def call(
        self,
        first: Tensor,
        second: Tensor,
        first_mask: Tensor | None = None,
        second_mask: Tensor | None = None,
    ) -> Tensor:
        dtype = self._gap_dtype()
        constants = [K.cast(x, dtype) for x in self.constants]
        if not self.contextual:
            return tuple(K.broadcast_to(x, K.shape(first)[:1]) for x in constants)
        rows = K.cast(self.row(without_padding(first, first_mask)), dtype)
        columns = K.cast(self.column(without_padding(second, second_mask)), dtype)
        return tuple(
            (rows[:, :, k : k + 1] + x[0], K.expand_dims(columns[:, :, k] + x[1], 1))
            for k, x in enumerate(constants)
        )

    def _gap_dtype(self):
        return potential_dtype(self.compute_dtype)

    def compute_mask(self, first: Tensor, previous_mask: Tensor | None = None) -> Tensor | None:
        return None

    def compute_output_spec(
        self,
        first: Tensor,
        second: Tensor,
        first_mask: Tensor | None = None,
        second_mask: Tensor | None = None,
    ) -> Spec:
        (batch, rows), columns = first.shape[:2], second.shape[1]

        def spec(*shape):
            return keras.KerasTensor(shape, self._gap_dtype())

        return tuple(
            (spec(batch, rows, 1), spec(batch, 1, columns)) if self.contextual else spec(batch)
            for _ in range(1 if self.gap_extend is None else 2)
        )

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "gap_open": self.gap_open,
            "gap_extend": self.gap_extend,
            "contextual": self.contextual,
            "kernel_initializer": initializers.serialize(self.kernel_initializer),
        }
