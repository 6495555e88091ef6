"""Models that return what their heads decide, where the trained ones return potentials."""

from __future__ import annotations

from typing import Any

import keras

from keras_struct.layers.annotations import Config
from keras_struct.layers.prediction_head import outputs_of_heads
from keras_struct.ops.annotations import Tensor


def decoding_model(
    model: keras.Model, output_mode: str | None = None, temperature: float = 1.0
) -> keras.Model:
    """The model for inference: it returns tags or marginals where the model returns potentials.

    It shares the weights of the model, so it may be made before or after training.

    Args:
        model: Any `keras.Model`, also a subclassed one, with an output that a `CRF`, a
            `SemiMarkovCRF`, a `CTC`, an `Aligner` or a head of `keras_struct.parsers` made.
        output_mode: See `StructuredDecoder`, for a `CTC` `CTCDecoder`, for an `Aligner`
            `AlignmentDecoder`, for a parser `keras_struct.parsers.TreeDecoder`; None for `"tags"`,
            `"labels"`, `"path"` and `"tree"`.
        temperature: See the same decoders.

    Returns:
        `keras.Model` on the same inputs, with the same structure of outputs: a Functional one of a
        Functional or built `Sequential` model, else a `DecodingModel`.

    Raises:
        ValueError: If no output of the model comes from one of them: at once, or, of a
            `DecodingModel`, when it is called. A head decodes what it returned by itself, too:
            `head.decode(potentials)`.

    Example:

    >>> import keras, numpy as np
    >>> from keras_struct import layers
    >>> model = keras.Sequential([keras.Input((None, 8)), layers.CRF(5)])
    >>> layers.decoding_model(model).predict(np.ones((2, 6, 8)), verbose=0).shape
    (2, 6)
    """
    if isinstance(model, keras.Sequential) and model.built:
        inputs, outputs = model.inputs[0], model.outputs[0]
    elif isinstance(model, keras.Model) and getattr(model, "inputs", None):
        inputs, outputs = model.input, model.output
    elif isinstance(model, keras.Model):
        return DecodingModel(model, output_mode, temperature, name=_name(model, output_mode))
    else:
        raise ValueError(f"Expected a Keras model. Received: model={model}")
    decoded = _decoded(outputs, _head_of, output_mode, temperature, model)
    return keras.Model(inputs, decoded, name=_name(model, output_mode))


@keras.saving.register_keras_serializable("keras_struct")
class DecodingModel(keras.Model):
    """A model that decodes what the heads inside of another model return, see `decoding_model`.

    Args:
        model: A `keras.Model`; its heads are found whenever it is called.
        output_mode: Of the decoders, or None.
        temperature: Of the decoders.
        **kwargs: `name`, `dtype`, `trainable`.

    Example:

    >>> import keras, numpy as np
    >>> from keras_struct import layers
    >>> class Tagger(keras.Model):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.embed, self.crf = keras.layers.Embedding(9, 4), layers.CRF(3)
    ...
    ...     def call(self, words):
    ...         return self.crf(self.embed(words))
    >>> layers.decoding_model(Tagger()).predict(np.ones((2, 6)), verbose=0).shape
    (2, 6)
    """

    def __init__(
        self,
        model: keras.Model,
        output_mode: str | None = None,
        temperature: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if isinstance(model, dict):
            model = keras.saving.deserialize_keras_object(model)
        self.model = model
        self.output_mode = output_mode
        self.temperature = temperature
        self.supports_masking = True

    def call(self, inputs: Tensor) -> Tensor:
        found: list = []
        with outputs_of_heads(found):
            outputs = self.model(inputs)

        def head_of(output):
            return next((head for head, made in found if made is output), None)

        return _decoded(outputs, head_of, self.output_mode, self.temperature, self.model)

    def get_config(self) -> Config:
        return {
            "name": self.name,
            "trainable": self.trainable,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "model": keras.saving.serialize_keras_object(self.model),
            "output_mode": self.output_mode,
            "temperature": self.temperature,
        }


def _decoded(outputs, head_of, output_mode, temperature, model):
    """The outputs, decoded where `head_of` finds their head."""
    if not any(head_of(output) for output in keras.tree.flatten(outputs)):
        raise ValueError(
            "Expected a model with an output of a CRF, a SemiMarkovCRF, a CTC, an Aligner or a "
            f"parser. Received: model={model}"
        )

    def decoded(output):
        head = head_of(output)
        return output if head is None else head.decode(output, output_mode, temperature)

    return keras.tree.map_structure(decoded, outputs)


def _head_of(output):
    """The head that made this symbolic tensor as packed potentials, or None."""
    layer = output._keras_history.operation
    return layer if getattr(layer, "returns_potentials", False) else None


def _name(model, output_mode):
    return f"{model.name}_{output_mode or 'decoded'}"
