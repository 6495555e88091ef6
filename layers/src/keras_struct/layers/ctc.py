"""Connectionist temporal classification as a prediction head."""

from __future__ import annotations

from typing import Any

import keras
from keras import initializers, regularizers
from keras import ops as K

from keras_struct.layers.annotations import Config, Initializer, Regularizer, Shape, Spec
from keras_struct.layers.ctc_decoder import CTCDecoder
from keras_struct.layers.ctc_decoding import best_path, check_blank, collapse
from keras_struct.layers.potentials import potential_dtype
from keras_struct.layers.prediction_head import PredictionHead
from keras_struct.layers.sequence_mask import without_padding
from keras_struct.ops.annotations import Tensor
from keras_struct.ops.numerics import FORBIDDEN


@keras.saving.register_keras_serializable("keras_struct")
class CTC(PredictionHead):
    """Labels of frames without an alignment: log-probabilities of the symbols of each frame.

    As the last layer of a model it returns log-probabilities (normalised, not logits), for
    `CTCLoss`. Best symbols of frames are not yet labels: `decoding_model` turns the trained model
    into one that returns these. In the padding the blank is certain, so that decoders and losses
    that know no mask agree, wherever the padding stands before or behind the frames.

    Args:
        num_symbols: Number of symbols with the blank, K.
        blank: Symbol of the blank, from 0 to K - 1.
        output_mode: What the layer returns: `"log_probs"`, for `CTCLoss`, `LabelErrorRate` and
            `decoding_model`; `"labels"`, those of the best path, collapsed; `"path"`, the most
            probable symbol of each frame. Beam search is in `CTCDecoder`.
        use_projection: Whether to project the features to K logits. If False, the inputs are the
            logits, `(B, T, K)`.
        use_bias: Whether the projection has a bias.
        kernel_initializer: Initializer of the projection.
        bias_initializer: Initializer of its bias.
        kernel_regularizer: Regularizer of the projection.
        bias_regularizer: Regularizer of its bias.
        **kwargs: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: `(B, T, F)` features of frames.
        mask: Boolean `(B, T)`, True for frames, wherever they stand; by default the Keras mask of
            the inputs. What a masked frame holds, NaN included, never matters.

    Returns:
        `"log_probs"`: `(B, T, K)`, float32 under every dtype policy but float64, with the Keras
        mask. `"labels"`: `(B, T)`, int32, in front, then -1. `"path"`: `(B, T)`, int32, -1 in the
        padding.

    Example:

    >>> import keras, numpy as np
    >>> from keras_struct import layers
    >>> model = keras.Sequential([
    ...     keras.Input((None, 8)),
    ...     keras.layers.Bidirectional(keras.layers.LSTM(8, return_sequences=True)),
    ...     layers.CTC(5),
    ... ])
    >>> model.compile("adam", layers.CTCLoss(), metrics=[layers.LabelErrorRate()])
    >>> frames, labels = np.ones((2, 6, 8)), np.array([[1, 1, 4], [2, 0, 0]])  # 0 is no label
    >>> loss = model.loss(labels, model(frames))
    >>> labels = layers.decoding_model(model)(frames)  # (2, 6), -1 behind them
    >>> beams = layers.decoding_model(model, "beams")(frames)  # {"labels", "log_probs"}

    Source: Graves et al. (2006), Connectionist temporal classification.
    """

    OUTPUT_MODES = ("log_probs", "labels", "path")
    raw_output_mode = "log_probs"

    def __init__(
        self,
        num_symbols: int,
        blank: int = 0,
        output_mode: str = "log_probs",
        use_projection: bool = True,
        use_bias: bool = True,
        kernel_initializer: Initializer = "glorot_uniform",
        bias_initializer: Initializer = "zeros",
        kernel_regularizer: Regularizer = None,
        bias_regularizer: Regularizer = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not isinstance(num_symbols, int) or num_symbols < 2:
            raise ValueError(
                f"Expected an integer above 1, with the blank. Received: num_symbols={num_symbols}"
            )
        if output_mode not in self.OUTPUT_MODES:
            raise ValueError(
                f"Expected an output mode among {self.OUTPUT_MODES}. "
                f"Received: output_mode={output_mode!r}"
            )
        self.num_symbols = num_symbols
        self.blank = check_blank(blank, num_symbols)
        self.output_mode = output_mode
        self.use_projection = use_projection
        self.use_bias = use_bias
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.bias_regularizer = regularizers.get(bias_regularizer)
        self.supports_masking = True

    def build(self, input_shape: Shape) -> None:
        size = None if self.use_projection else self.num_symbols
        sizes = input_shape[-1] is not None and size in (None, input_shape[-1])
        if len(input_shape) != 3 or not sizes:
            raise ValueError(
                f"Expected inputs of shape {(None, None, size)}, for "
                f"use_projection={self.use_projection}. "
                f"Received: input_shape={tuple(input_shape)}"
            )
        if self.use_projection:
            self.projection = keras.layers.Dense(
                self.num_symbols,
                use_bias=self.use_bias,
                kernel_initializer=self.kernel_initializer,
                bias_initializer=self.bias_initializer,
                kernel_regularizer=self.kernel_regularizer,
                bias_regularizer=self.bias_regularizer,
                dtype=self.dtype_policy,
                name="projection",
            )
            self.projection.build(input_shape)

    def decoder(self, output_mode: str = "labels", temperature: float = 1.0) -> CTCDecoder:
        """The layer that `decoding_model` adds: a `CTCDecoder`. A temperature changes nothing."""
        return CTCDecoder(output_mode, self.blank)

    def call(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        inputs = without_padding(inputs, mask)
        logits = self.projection(inputs) if self.use_projection else inputs
        log_probs = K.log_softmax(K.cast(logits, potential_dtype(self.compute_dtype)), axis=-1)
        mask = None if mask is None else K.cast(mask, "bool")
        if self.returns_potentials:
            return log_probs if mask is None else self._certain_blanks(log_probs, mask)
        path = best_path(log_probs, mask)
        return path if self.output_mode == "path" else collapse(path, self.blank)

    def _certain_blanks(self, log_probs, mask):
        is_blank = K.equal(K.arange(self.num_symbols), self.blank)
        certain = K.where(is_blank, K.zeros_like(log_probs), K.full_like(log_probs, FORBIDDEN))
        return K.where(K.expand_dims(mask, -1), log_probs, certain)

    def compute_mask(self, inputs: Tensor, previous_mask: Tensor | None = None) -> Tensor | None:
        return None if self.output_mode == "labels" else previous_mask

    def compute_output_spec(self, inputs: Tensor, mask: Tensor | None = None) -> Spec:
        batch, frames = inputs.shape[:2]
        if not self.returns_potentials:
            return keras.KerasTensor((batch, frames), "int32")
        dtype = potential_dtype(self.compute_dtype)
        return keras.KerasTensor((batch, frames, self.num_symbols), dtype)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "num_symbols": self.num_symbols,
            "blank": self.blank,
            "output_mode": self.output_mode,
            "use_projection": self.use_projection,
            "use_bias": self.use_bias,
            "kernel_initializer": initializers.serialize(self.kernel_initializer),
            "bias_initializer": initializers.serialize(self.bias_initializer),
            "kernel_regularizer": regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": regularizers.serialize(self.bias_regularizer),
        }
