"""From the log-probabilities of symbols to labels, as a layer that lives in the graph."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops as K

from keras_struct.layers.annotations import Config, Shape, Spec
from keras_struct.layers.ctc_decoding import (
    best_path,
    check_blank,
    collapse,
    prefix_beam,
    read_predictions,
)
from keras_struct.layers.import_hint import ImportHint
from keras_struct.layers.potentials import potential_dtype
from keras_struct.layers.sequence_mask import as_mask
from keras_struct.ops.annotations import Tensor

OUTPUT_MODES = ("labels", "path", "beams")


@keras.saving.register_keras_serializable("keras_struct")
class CTCDecoder(ImportHint):
    """Labels that the predictions of a `CTC` head, or of any layer of logits, stand for.

    The layer has no weights.

    Args:
        output_mode: `"labels"`, those of the best path, without repetitions and blanks; `"path"`,
            the best path itself, the most probable symbol of each frame; `"beams"`, the most
            probable label sequences by prefix beam search, which sums over the paths of each.
        blank: Symbol of the blank.
        from_logits: Whether inputs are logits or log-probabilities; False for probabilities.
        beam_width: Number of prefixes that beam search keeps at each frame. The wider, the fewer
            paths are lost; time grows with its square.
        top_k: Number of label sequences of `"beams"`, at most `beam_width`.
        **kwargs: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: `(B, T, K)`, see `from_logits`.
        mask: Boolean `(B, T)`, True for frames, wherever they stand; by default the Keras mask of
            the inputs.

    Returns:
        `"labels"`: `(B, T)`, int32, then -1. `"path"`: `(B, T)`, int32, -1 in the padding.
        `"beams"`: a dict of `labels` `(B, top_k, T)`, int32, then -1, the best first, and
        `log_probs` `(B, top_k)`: of the paths that were kept, so at most those of the labels
        (`ops.ctc` has these); minus infinity where there are fewer label sequences.

    Example:

    >>> import numpy as np
    >>> from keras_struct import layers
    >>> p = np.array([[[0.6, 0.4, 0.0], [0.6, 0.4, 0.0]]])  # the blank, 1, 2
    >>> decode = layers.CTCDecoder(from_logits=False)
    >>> np.array(decode(p)).tolist()  # the path of two blanks has probability 0.36
    [[-1, -1]]
    >>> beams = layers.CTCDecoder("beams", from_logits=False, top_k=1)(p)
    >>> np.array(beams["labels"]).tolist()  # the three paths that read "1" have 0.64
    [[[1, -1]]]
    >>> print(np.exp(np.array(beams["log_probs"])).round(3))
    [[0.64]]

    Source: Graves et al. (2006), Connectionist temporal classification, section 3.2; Hannun et al.
    (2014), First-pass large vocabulary continuous speech recognition using bi-directional
    recurrent DNNs, algorithm 1.
    """

    def __init__(
        self,
        output_mode: str = "labels",
        blank: int = 0,
        from_logits: bool = True,
        beam_width: int = 10,
        top_k: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(autocast=False, **kwargs)
        if output_mode not in OUTPUT_MODES:
            raise ValueError(
                f"Expected an output mode among {OUTPUT_MODES}. "
                f"Received: output_mode={output_mode!r}"
            )
        top_k = beam_width if top_k is None else top_k
        if not 1 <= top_k <= beam_width:
            raise ValueError(
                "Expected 1 <= top_k <= beam_width. "
                f"Received: top_k={top_k}, beam_width={beam_width}"
            )
        self.output_mode = output_mode
        self.blank = check_blank(blank)
        self.from_logits = from_logits
        self.beam_width = beam_width
        self.top_k = top_k

    def build(self, input_shape: Shape) -> None:
        check_blank(self.blank, input_shape[-1])

    def call(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        mask = as_mask(mask)
        log_probs = read_predictions(inputs, mask, self.blank, self.from_logits)
        if mask is not None:
            mask = K.broadcast_to(mask, K.shape(inputs)[:2])
        if self.output_mode == "beams":
            labels, scores = prefix_beam(log_probs, mask, self.blank, self.beam_width)
            return {"labels": labels[:, : self.top_k], "log_probs": scores[:, : self.top_k]}
        path = best_path(log_probs, mask)
        return path if self.output_mode == "path" else collapse(path, self.blank)

    def compute_mask(self, inputs: Tensor, previous_mask: Tensor | None = None) -> Tensor | None:
        return None

    def compute_output_spec(self, inputs: Tensor, mask: Tensor | None = None) -> Spec:
        batch, frames = inputs.shape[:2]
        if self.output_mode != "beams":
            return keras.KerasTensor((batch, frames), "int32")
        return {
            "labels": keras.KerasTensor((batch, self.top_k, frames), "int32"),
            "log_probs": keras.KerasTensor((batch, self.top_k), potential_dtype(inputs.dtype)),
        }

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "output_mode": self.output_mode,
            "blank": self.blank,
            "from_logits": self.from_logits,
            "beam_width": self.beam_width,
            "top_k": self.top_k,
        }
