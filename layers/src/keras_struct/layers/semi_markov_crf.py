"""Semi-Markov conditional random field as a prediction head or an inner layer."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops as K

from keras_struct.layers.annotations import Config, Shape
from keras_struct.layers.crf import CRF
from keras_struct.layers.segments import window_sums, windows
from keras_struct.layers.sequence_mask import in_order


@keras.saving.register_keras_serializable("keras_struct")
class SemiMarkovCRF(CRF):
    """Semi-Markov conditional random field: labelled segments of up to `max_length` tokens.

    Where a `CRF` tags tokens, this layer labels whole segments, so it can score what no token
    shows, such as the length of a segment. The score of a segment is the sum of the scores of its
    tokens for the label (a projection of their features), a score of its first and one of its last
    token (two further projections), and a learned score of its length and label. The score of a
    segmentation adds learned scores for neighbouring labels and for the first and the last one.

    Args:
        num_tags: Number of labels, K.
        max_length: Length of the longest segment, D.
        output_mode: `"potentials"`, `"marginals"` and `"tags"` (the label of each token) as in
            `CRF`, or `"segments"`, the best segmentation.
        use_projection: Whether to compute the scores of segments from features. If False, the
            inputs are the scores, `(B, N, D, K)`.
        use_boundaries: Whether the first and the last token of a segment have scores of their own.
        use_lengths: Whether lengths have learned scores.
        **kwargs: As in `CRF`. Constraints say which labels may follow each other.

    Call arguments:
        inputs: `(B, N, F)` features.
        mask: Boolean `(B, N)`, as in `CRF`. Segments go on behind what is masked out.

    Returns:
        `"potentials"`: `(B, 1, H + N, D, K)`. `"marginals"`: `(B, N, K)`. `"tags"`: `(B, N)`,
        int32. `"segments"`: `(B, N, 2)`, int32, label and length at the start of a segment, -1
        elsewhere.

    Example:

    >>> import keras, numpy as np
    >>> from keras_struct import layers
    >>> labels = ["O", "PER"]
    >>> model = keras.Sequential([keras.Input((None, 8)), layers.SemiMarkovCRF(2, max_length=4)])
    >>> model.compile("adam", layers.StructuredNLL(), metrics=[layers.SpanF1(labels)])
    >>> target = layers.spans_to_segments([(1, 3, "PER")], 5, labels)
    >>> loss = model.loss(target[None], model(np.ones((1, 5, 8))))
    >>> segments = layers.decoding_model(model, "segments")(np.ones((1, 5, 8)))  # (1, 5, 2)

    Source: Sarawagi and Cohen (2004), Semi-Markov conditional random fields.
    """

    OUTPUT_MODES = ("potentials", "marginals", "tags", "segments")
    structure = "semi_markov"

    def __init__(
        self,
        num_tags: int,
        max_length: int,
        output_mode: str = "potentials",
        use_projection: bool = True,
        use_boundaries: bool = True,
        use_lengths: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_tags, output_mode, use_projection, **kwargs)
        if not isinstance(max_length, int) or max_length < 1:
            raise ValueError(f"Expected a positive integer. Received: max_length={max_length}")
        self.max_length = max_length
        self.use_boundaries = use_boundaries
        self.use_lengths = use_lengths

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        if self.use_projection and self.use_boundaries:
            self.first = self._project("first", input_shape, use_bias=False)
            self.last = self._project("last", input_shape, use_bias=False)
        if self.use_projection and self.use_lengths:
            self.length_scores = self._add_scores("length_scores", self._inner_shape())

    def _scores(self, inputs, mask):
        if not self.use_projection:
            return inputs
        layers = (self.projection, self.last) if self.use_boundaries else (self.projection,)
        tokens = (K.cast(layer(inputs), self._potential_dtype()) for layer in layers)
        scores = in_order(self._windows, mask, *tokens)
        if self.use_boundaries:
            scores = scores + K.cast(self.first(inputs), scores.dtype)[:, :, None]
        return scores + K.cast(self.length_scores, scores.dtype) if self.use_lengths else scores

    def _windows(self, tokens, last=None):
        """Scores of segments `(B, N, D, K)` from those of their tokens, and of their last ones."""
        scores = window_sums(tokens, self.max_length)
        return scores if last is None else scores + windows(last, self.max_length)

    def _inner_shape(self):
        return (self.max_length, self.num_tags)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "max_length": self.max_length,
            "use_boundaries": self.use_boundaries,
            "use_lengths": self.use_lengths,
        }
