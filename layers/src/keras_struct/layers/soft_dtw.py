"""Soft dynamic time warping between a series and a predicted one, as a loss."""

from __future__ import annotations

import keras
from keras import ops as K

from keras_struct import ops
from keras_struct.layers.alignment_map import check_band
from keras_struct.layers.annotations import Config, DType
from keras_struct.layers.sequence_loss import SequenceLoss, check_temperature, pair_extent
from keras_struct.layers.sequence_mask import without_padding
from keras_struct.layers.targets import fits
from keras_struct.ops.annotations import Tensor


@keras.saving.register_keras_serializable("keras_struct")
class SoftDTW(SequenceLoss):
    """Soft-DTW of series: how far a prediction is from its target, however either is stretched.

    The soft minimum, over all warping paths, of the sum of the squared Euclidean distances of the
    paired points. It may be negative, and is not least where the series are equal; the divergence
    `D(x, y) - D(x, x) / 2 - D(y, y) / 2` is: 0 for equal series, and in practice positive else.

    Args:
        temperature: Number >= 0, the gamma of the paper, in the unit of the squared distances; 0
            for DTW itself.
        band: Radius of the Sakoe-Chiba band, an integer >= 0, see `ops.dtw`; None for no band.
        divergence: Whether the loss is the divergence, at three times the cost.
        reduction: How Keras reduces the losses of the series.
        name: Name of the loss.
        dtype: `"float32"` or `"float64"`; None for float32, whatever `keras.config.floatx` is.
        zero_infinity: Whether the loss of an impossible target is 0; else it is infinite. It has no
            gradient.

    Call arguments:
        y_true: `(B, L1, F)`; a point with a NaN is missing, wherever it stands.
        y_pred: `(B, L2, F)`, with the Keras mask they carry, whatever it is.
        sample_weight: Weights of the series, `(B,)`.

    Raises:
        ValueError: If the arguments, or the shapes of the series, do not fit.

    Example:

    >>> import numpy as np
    >>> from keras_struct import layers
    >>> x, y = np.array([[[0.0], [1.0], [2.0]]]), np.array([[[0.0], [0.0], [1.0], [3.0]]])
    >>> float(layers.SoftDTW(temperature=0)(x, y))
    1.0
    >>> print(round(float(layers.SoftDTW(divergence=True)(x, y)), 3))
    1.296

    Source: Cuturi and Blondel (2017), Soft-DTW: a differentiable loss function for time-series;
    Blondel, Mensch and Vert (2021), Differentiable divergences between time series.
    """

    def __init__(
        self,
        temperature: float = 1.0,
        band: int | None = None,
        divergence: bool = False,
        reduction: str | None = "sum_over_batch_size",
        name: str = "soft_dtw",
        dtype: DType = None,
        zero_infinity: bool = False,
    ) -> None:
        super().__init__(reduction, name, dtype, zero_infinity)
        self.temperature = check_temperature(temperature)
        self.band = check_band(band)
        self.divergence = divergence

    def sequence_loss(self, y_true: Tensor, y_pred: Tensor, mask: Tensor | None) -> Tensor:
        if not fits(y_true.shape, (y_pred.shape[0], None, y_pred.shape[2])):
            raise ValueError(
                "Expected series (B, L1, F) and (B, L2, F). Received: shape of "
                f"y_true={tuple(y_true.shape)}, shape of y_pred={tuple(y_pred.shape)}"
            )
        known = K.logical_not(K.any(K.isnan(y_true), axis=-1))
        x, y = (without_padding(y_true, known), known), (y_pred, mask)
        if not self.divergence:
            return self._soft_dtw(x, y)
        return self._soft_dtw(x, y) - (self._soft_dtw(x, x) + self._soft_dtw(y, y)) / 2

    def _soft_dtw(self, x, y):
        (x, first), (y, second) = x, y
        costs = K.sum(K.square(K.expand_dims(x, 2) - K.expand_dims(y, 1)), axis=-1)
        which = pair_extent(first, second)
        return ops.dtw(costs, self.band, temperature=self.temperature, **which).value()

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "temperature": self.temperature,
            "band": self.band,
            "divergence": self.divergence,
        }
