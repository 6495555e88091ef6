"""Alignment of two sequences of token states, as a prediction head or an inner layer."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import initializers
from keras import ops as K

from keras_struct.layers.alignment_decoder import AlignmentDecoder, decode, decoded_spec
from keras_struct.layers.annotations import Config, Initializer, Shape, Spec
from keras_struct.layers.crf import clone_initializer
from keras_struct.layers.gap_penalties import GapPenalties
from keras_struct.layers.packed import alignment_options, pack, packed_spec
from keras_struct.layers.potentials import AlignmentPotentials, check_alignment, potential_dtype
from keras_struct.layers.prediction_head import PredictionHead
from keras_struct.layers.sequence_mask import extent, without_padding
from keras_struct.layers.targets import check_shape
from keras_struct.ops.annotations import Tensor

SCORINGS = ("dot_product", "bilinear")


@keras.saving.register_keras_serializable("keras_struct")
class Aligner(PredictionHead):
    """Alignment with gaps of two sequences of token states.

    The score of an alignment is the sum of a score for each matched pair of tokens, their scaled
    dot product or a learned bilinear form, and of the gap scores of a `GapPenalties`. As the last
    layer of a model it returns its potentials, packed in one tensor, so the model trains with an
    ordinary `compile(loss=AlignmentCrossEntropy())`; `decoding_model` turns the trained model into
    one that returns the best alignment. With another `output_mode` it is an inner layer.

    Args:
        structure: `"smith_waterman"`, local alignments; `"needleman_wunsch"`, global ones;
            `"overlap"`, global with free end gaps; `"saigo_vert"`, the local alignment kernel,
            which counts every set of matched pairs once and the empty one, too.
        output_mode: What the layer returns: `"potentials"`, packed, for `AlignmentCrossEntropy`,
            `AlignmentF1` and `decoding_model`; `"map"`, the probability of each pair to be
            matched; `"score"`, the soft maximum of the scores of all alignments; `"path"`, the
            best alignment.
        scoring: `"dot_product"`, `x · y / sqrt(F)`, or `"bilinear"`, `W x · y / sqrt(F2)` with
            learned `W`.
        use_bias: Whether a learned number, initially 0, is added to every score. Local alignments
            need it: how long they grow depends on the sign of the scores.
        gaps: The `GapPenalties`, or a layer that is called like one; None for its defaults.
        adjacent_gaps: `"any"`, `"none"` or `"ordered"`, see `ops.needleman_wunsch`; None for
            `"any"`, of `saigo_vert` always `"ordered"`.
        temperature: Positive number that divides the potentials.
        learn_temperature: Whether the temperature is learned, starting from `temperature`.
        kernel_initializer: Initializer of the bilinear form.
        **kwargs: `name`, `dtype`, `trainable`.

    Call arguments:
        first: `(B, L1, F1)` token states, the rows of the alignment.
        second: `(B, L2, F2)` token states, the columns; `F1 = F2` for the dot product.
        first_mask: Boolean `(B, L1)`, True for tokens, wherever they stand; by default the Keras
            mask of `first`. A position where it is False is no part of the sequence, and what it
            holds, NaN included, never matters.
        second_mask: The same for `second`.

    Returns:
        `"potentials"`: `(B, 2 + L1, 2 + L2)`, with axes of size 1 that name the structure, see
        `unpack`; float32 under every dtype policy but float64. Else as
        `AlignmentDecoder`; the map has the Keras mask of `first`.

    Raises:
        ValueError: For arguments, or shapes of the states, that do not fit.

    Example:

    >>> import keras, numpy as np
    >>> from keras_struct import layers
    >>> first, second = keras.Input((None,)), keras.Input((None,))
    >>> embed = keras.layers.Embedding(25, 8, mask_zero=True)
    >>> aligner = layers.Aligner(gaps=layers.GapPenalties(contextual=True))
    >>> model = keras.Model([first, second], aligner(embed(first), embed(second)))
    >>> model.compile("adam", layers.AlignmentCrossEntropy(), metrics=[layers.AlignmentF1()])
    >>> x, y = np.array([[5, 8, 9, 2], [7, 3, 0, 0]]), np.array([[8, 9, 2], [7, 3, 3]])
    >>> paths = layers.decoding_model(model)([x, y])  # (2, 8, 2), -1 after the end
    >>> scores = layers.unpack(model([x, y])).distribution().value()

    Source: Llinares-López, Berthet, Blondel, Teboul and Vert (2023), Deep embedding and alignment
    of protein sequences; Petti et al. (2023), End-to-end learning of multiple sequence alignments
    with differentiable Smith-Waterman.
    """

    OUTPUT_MODES = ("potentials", "map", "score", "path")
    decoder = AlignmentDecoder

    def __init__(
        self,
        structure: str = "smith_waterman",
        output_mode: str = "potentials",
        scoring: str = "dot_product",
        use_bias: bool = True,
        gaps: keras.layers.Layer | None = None,
        adjacent_gaps: str | None = None,
        temperature: float = 1.0,
        learn_temperature: bool = False,
        kernel_initializer: Initializer = "glorot_uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_alignment(structure, adjacent_gaps)
        if output_mode not in self.OUTPUT_MODES:
            raise ValueError(
                f"Expected an output mode among {self.OUTPUT_MODES}. "
                f"Received: output_mode={output_mode!r}"
            )
        if scoring not in SCORINGS:
            raise ValueError(f"Expected scoring among {SCORINGS}. Received: scoring={scoring!r}")
        if not 0 < temperature < math.inf:
            raise ValueError(f"Expected a positive number. Received: temperature={temperature}")
        if isinstance(gaps, dict):
            gaps = keras.saving.deserialize_keras_object(gaps)
        self.structure = structure
        self.output_mode = output_mode
        self.scoring = scoring
        self.use_bias = use_bias
        self.gaps = GapPenalties(dtype=self.dtype_policy, name="gaps") if gaps is None else gaps
        self.adjacent_gaps = adjacent_gaps
        self.temperature = temperature
        self.learn_temperature = learn_temperature
        self.kernel_initializer = initializers.get(kernel_initializer)

    def build(self, first_shape: Shape, second_shape: Shape | None = None) -> None:
        if second_shape is None:
            raise ValueError(
                "Expected two sequences of token states, as in aligner(first, second). "
                f"Received: first_shape={first_shape} alone"
            )
        features = (first_shape[-1], second_shape[-1])
        bilinear = self.scoring == "bilinear"
        fit = None not in features and (bilinear or features[0] == features[1])
        if len(first_shape) != 3 or len(second_shape) != 3 or not fit:
            raise ValueError(
                "Expected token states (B, L1, F1) and (B, L2, F2), with F1 = F2 for the dot "
                f"product. Received: first_shape={first_shape}, second_shape={second_shape}, "
                f"scoring={self.scoring!r}"
            )
        if bilinear:
            self.projection = keras.layers.Dense(
                features[1],
                use_bias=False,
                kernel_initializer=clone_initializer(self.kernel_initializer),
                dtype=self.dtype_policy,
                name="projection",
            )
            self.projection.build(first_shape)
        # Half precision would round these numbers for nothing.
        if self.use_bias:
            self.bias = self.add_weight(shape=(), initializer="zeros", name="bias", autocast=False)
        if self.learn_temperature:
            start = initializers.Constant(math.log(self.temperature))
            self.log_temperature = self.add_weight(
                shape=(), initializer=start, name="log_temperature", autocast=False
            )
        if not self.gaps.built:
            self.gaps.build(first_shape, second_shape)

    def call(
        self,
        first: Tensor,
        second: Tensor | None = None,
        first_mask: Tensor | None = None,
        second_mask: Tensor | None = None,
    ) -> Tensor:
        potentials = self._potentials(first, second, first_mask, second_mask)
        if self.returns_potentials:
            return pack(potentials)
        return decode(potentials, self.output_mode, self.compute_dtype)

    def _potentials(self, first, second, first_mask, second_mask):
        check_shape("second", second, "as many examples as in first", first.shape[0], None, None)
        # A product with NaN would poison the gradients of the weights.
        first = without_padding(first, first_mask)
        second = without_padding(second, second_mask)
        masks = {"first_mask": first_mask, "second_mask": second_mask}
        gap_open, gap_extend = (*self.gaps(first, second, **masks), None)[:2]
        batch, dtype = K.shape(first)[:1], self._potential_dtype()
        if self.learn_temperature:
            temperature = K.exp(K.cast(self.log_temperature, dtype))
        else:
            temperature = K.convert_to_tensor(self.temperature, dtype)
        which = [extent(mask) for mask in masks.values()]
        lengths, mask = (tuple(x.get(name) for x in which) for name in ("lengths", "mask"))
        return AlignmentPotentials(
            self._scores(first, second),
            gap_open,
            gap_extend,
            lengths,
            K.broadcast_to(temperature, batch),
            self.structure,
            check_alignment(self.structure, self.adjacent_gaps),
            mask,
        )

    def _scores(self, first, second):
        if self.scoring == "bilinear":
            first = self.projection(first)
        first = first * K.cast(second.shape[-1] ** -0.5, first.dtype)
        scores = K.matmul(first, K.transpose(second, (0, 2, 1)))
        scores = K.cast(scores, self._potential_dtype())
        return scores + K.cast(self.bias, scores.dtype) if self.use_bias else scores

    def _potential_dtype(self):
        return potential_dtype(self.compute_dtype)

    def compute_mask(self, first: Tensor, previous_mask: Tensor | None = None) -> Tensor | None:
        return previous_mask if self.output_mode == "map" else None

    def compute_output_spec(
        self,
        first: Tensor,
        second: Tensor | None = None,
        first_mask: Tensor | None = None,
        second_mask: Tensor | None = None,
    ) -> Spec:
        assert second is not None
        (batch, rows), columns = first.shape[:2], second.shape[1]
        if not self.returns_potentials:
            return decoded_spec(self.output_mode, batch, rows, columns, self.compute_dtype)
        linear = len(self.gaps.compute_output_spec(first, second)) == 1
        adjacent_gaps = check_alignment(self.structure, self.adjacent_gaps)
        options = alignment_options(linear, adjacent_gaps)
        shape = (batch, rows, columns)
        return packed_spec(self.structure, options, shape, self._potential_dtype())

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "structure": self.structure,
            "output_mode": self.output_mode,
            "scoring": self.scoring,
            "use_bias": self.use_bias,
            "gaps": keras.saving.serialize_keras_object(self.gaps),
            "adjacent_gaps": self.adjacent_gaps,
            "temperature": self.temperature,
            "learn_temperature": self.learn_temperature,
            "kernel_initializer": initializers.serialize(self.kernel_initializer),
        }
