"""From packed potentials to tags and marginals, as a layer that lives in the graph."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops as K

from keras_struct.layers.annotations import Config, Spec
from keras_struct.layers.import_hint import ImportHint
from keras_struct.layers.packed import scores_spec, unpack
from keras_struct.layers.potentials import ChainPotentials
from keras_struct.layers.segments import token_labels, token_marginals
from keras_struct.layers.sequence_mask import in_order
from keras_struct.ops.annotations import Tensor

OUTPUT_MODES = ("tags", "segments", "marginals")


def decode(potentials, output_mode, temperature=1.0):
    """Tags, segments or token marginals of `ChainPotentials`."""
    semi_markov = len(potentials.scores.shape) == 4
    if output_mode == "marginals":
        marginals = potentials.distribution(temperature).marginals()
        if not semi_markov:
            return marginals
        return in_order(token_marginals, potentials.mask, marginals)
    best = potentials.distribution().argmax()
    if output_mode == "segments" and not semi_markov:
        raise ValueError(
            "Expected the potentials of a SemiMarkovCRF. "
            f"Received: output_mode='segments' for scores of shape {potentials.scores.shape}"
        )
    if output_mode == "segments" or not semi_markov:
        return best
    return token_labels(best, potentials.positions())


@keras.saving.register_keras_serializable("keras_struct")
class StructuredDecoder(ImportHint):
    """Best tags or marginals of the packed potentials of a `CRF` or a `SemiMarkovCRF`.

    The layer has no weights: the potentials hold everything. Its outputs carry the Keras mask of
    the tokens.

    Args:
        output_mode: `"tags"`, the tag of each token in the best structure (Viterbi);
            `"segments"`, label and length at the start of each of the best segments, for a
            `SemiMarkovCRF`; `"marginals"`, the probability of each tag at each token.
        temperature: Number >= 0 by which the potentials are divided for the marginals; 0 gives
            the indicator of the best tags. It does not change the tags.
        **kwargs: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: Packed potentials, see `pack`.

    Returns:
        `"tags"`: `(B, N)`, int32, -1 in the padding, which is wherever the mask of the head is
        False. `"segments"`: `(B, N, 2)`, int32, -1 where no segment starts. `"marginals"`:
        `(B, N, K)`, 0 in the padding.

    Example:

    >>> import keras
    >>> from keras_struct import layers
    >>> tokens = keras.Input((None, 8))
    >>> potentials = layers.CRF(5)(tokens)
    >>> tagger = keras.Model(tokens, layers.StructuredDecoder()(potentials))
    """

    def __init__(self, output_mode: str = "tags", temperature: float = 1.0, **kwargs: Any) -> None:
        # Half precision would round the potentials and lose the lengths.
        super().__init__(autocast=False, **kwargs)
        if output_mode not in OUTPUT_MODES:
            raise ValueError(
                f"Expected an output mode among {OUTPUT_MODES}. "
                f"Received: output_mode={output_mode!r}"
            )
        if not 0 <= temperature < float("inf"):
            raise ValueError(f"Expected a number >= 0. Received: temperature={temperature}")
        self.output_mode = output_mode
        self.temperature = temperature
        self.supports_masking = True

    def call(self, inputs: Tensor) -> Tensor:
        decoded = decode(unpack(inputs, ChainPotentials), self.output_mode, self.temperature)
        return K.cast(decoded, self.compute_dtype) if self.output_mode == "marginals" else decoded

    def compute_mask(self, inputs: Tensor, previous_mask: Tensor | None = None) -> Tensor | None:
        if isinstance(inputs, keras.KerasTensor):
            return None  # The mask is values; Keras asks again when there are some.
        return unpack(inputs, ChainPotentials).positions()

    def compute_output_spec(self, inputs: Tensor) -> Spec:
        shape = scores_spec(inputs, ChainPotentials)[0].shape
        return decoded_spec(self.output_mode, shape[:2], shape[-1], self.compute_dtype)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "output_mode": self.output_mode,
            "temperature": self.temperature,
        }


def decoded_spec(output_mode, leading, k, dtype):
    """The `KerasTensor` of what `decode` returns."""
    if output_mode == "marginals":
        return keras.KerasTensor((*leading, k), dtype)
    return keras.KerasTensor((*leading, 2) if output_mode == "segments" else leading, "int32")
