"""From packed potentials to paths, soft maps and scores, as a layer that lives in the graph."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops as K

from keras_struct.layers.annotations import Config, Spec
from keras_struct.layers.import_hint import ImportHint
from keras_struct.layers.packed import scores_spec, unpack
from keras_struct.layers.potentials import AlignmentPotentials, potential_dtype
from keras_struct.ops.annotations import Tensor

OUTPUT_MODES = ("path", "map", "score")


@keras.saving.register_keras_serializable("keras_struct")
class AlignmentDecoder(ImportHint):
    """Best path, soft map or score of the packed potentials of an `Aligner`.

    The layer has no weights: the potentials hold everything.

    Args:
        output_mode: `"path"`, the nodes of the best alignment; `"map"`, the probability of each
            pair to be matched; `"score"`, the soft maximum of the scores of all alignments.
        temperature: Number >= 0 that multiplies the temperature of the aligner, for map and score;
            0 gives the best alignment. It does not change the path.
        **kwargs: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: Packed potentials, see `pack`.

    Returns:
        `"path"`: `(B, L1 + L2 + 1, 2)`, int32: how many tokens of the two sequences are consumed at
        each node, in order, then -1; under a mask with padding before tokens, the place after the
        last of them. `"map"`: `(B, L1, L2)`, 0 in the padding. `"score"`: `(B,)`,
        float32 at least. Without any alignment, such as a local one of an empty sequence, path and
        score are -1 everywhere and minus infinity, the map is 0.

    Example:

    >>> import keras
    >>> from keras_struct import layers
    >>> first, second = keras.Input((None, 8)), keras.Input((None, 8))
    >>> potentials = layers.Aligner()(first, second)
    >>> model = keras.Model([first, second], layers.AlignmentDecoder("map")(potentials))
    """

    def __init__(self, output_mode: str = "path", temperature: float = 1.0, **kwargs: Any) -> None:
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

    def call(self, inputs: Tensor) -> Tensor:
        potentials = unpack(inputs, AlignmentPotentials)
        return decode(potentials, self.output_mode, self.compute_dtype, self.temperature)

    def compute_mask(self, inputs: Tensor, previous_mask: Tensor | None = None) -> Tensor | None:
        return None

    def compute_output_spec(self, inputs: Tensor) -> Spec:
        batch, rows, columns = scores_spec(inputs, AlignmentPotentials)[0].shape
        return decoded_spec(self.output_mode, batch, rows, columns, self.compute_dtype)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "output_mode": self.output_mode,
            "temperature": self.temperature,
        }


def decode(potentials, output_mode, dtype, temperature=1.0):
    """Path, map or score of `AlignmentPotentials`; the map in `dtype`."""
    alignments = potentials.distribution(temperature)
    if output_mode == "map":
        return K.cast(alignments.marginals(), dtype)
    return alignments.argmax() if output_mode == "path" else alignments.value()


def decoded_spec(output_mode, batch, rows, columns, dtype):
    """The `KerasTensor` of what `decode` returns."""
    if output_mode == "map":
        return keras.KerasTensor((batch, rows, columns), dtype)
    if output_mode == "score":
        return keras.KerasTensor((batch,), potential_dtype(dtype))
    nodes = None if rows is None or columns is None else rows + columns + 1
    return keras.KerasTensor((batch, nodes, 2), "int32")
