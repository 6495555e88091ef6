"""What all prediction heads share: their outputs are decoded."""

from __future__ import annotations

import contextlib
import contextvars
import warnings
from typing import Any

import keras

from keras_struct.layers.import_hint import ImportHint
from keras_struct.layers.sequence_mask import keras_mask
from keras_struct.ops.annotations import ArrayLike, Tensor

_FOUND: contextvars.ContextVar[list | None] = contextvars.ContextVar("outputs", default=None)


@contextlib.contextmanager
def outputs_of_heads(found):
    """Within this context, heads that return potentials append themselves and their outputs."""
    token = _FOUND.set(found)
    try:
        yield
    finally:
        _FOUND.reset(token)


class PredictionHead(ImportHint):
    """Base class of layers whose outputs stand for structures, until they are decoded.

    A subclass sets `decoder`, the class of the layer that decodes, or a method that makes it from
    an output mode and a temperature; and `output_mode`.
    """

    decoder: Any
    raw_output_mode = "potentials"

    @property
    def returns_potentials(self) -> bool:
        """Whether the output is yet to be decoded, as `decoding_model` does."""
        return self.output_mode == self.raw_output_mode

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        self._warn_of_padding(args, kwargs)
        outputs = super().__call__(*args, **kwargs)
        found = _FOUND.get()
        if found is not None and self.returns_potentials:
            found.append((self, outputs))
        return outputs

    def _warn_of_padding(self, args, kwargs):
        """Where a graph is built: a mask that the model knows and this layer does not."""
        symbolic = [x for x in args if isinstance(x, keras.KerasTensor)]
        if any(name.endswith("mask") and x is not None for name, x in kwargs.items()):
            return
        for x in symbolic:
            name = _mask_input_of(x) if keras_mask(x) is None else None
            if name is not None:
                warnings.warn(
                    f"Expected inputs of {self.name!r} with a Keras mask, since the model has the "
                    f"input {name!r}: without it padding counts as tokens. Attach it by "
                    f"layers.AttachMask()([states, {name}]), or give mask=. "
                    "Received: inputs without a mask",
                    stacklevel=3,
                )
                return

    def decode(
        self, outputs: ArrayLike, output_mode: str | None = None, temperature: float = 1.0
    ) -> Tensor:
        """What outputs of this layer, or of a model that ends with it, stand for.

        Args:
            outputs: As the layer returned them, also as `predict` gives them.
            output_mode: What to return, and `temperature`: see the decoder, the same as in
                `decoding_model`; None for the best structures.
            temperature: See the decoder.

        Returns:
            As the decoder, such as `StructuredDecoder`.
        """
        if not self.returns_potentials:
            raise ValueError(
                f"Expected a layer with output_mode={self.raw_output_mode!r}, since others have "
                f"decoded already. Received: output_mode={self.output_mode!r}"
            )
        mode = {} if output_mode is None else {"output_mode": output_mode}
        return self.decoder(temperature=temperature, **mode)(outputs)


MASK_INPUTS = ("padding_mask", "attention_mask")  # of KerasHub, and of others


def _mask_input_of(x):
    """The name of an input of a graph that is a mask of tokens, from which `x` comes; or None."""
    seen, pending = set(), [x]
    while pending:
        history = getattr(pending.pop(), "_keras_history", None)
        if history is None or (history.operation, history.node_index) in seen:
            continue
        operation = history.operation
        seen.add((operation, history.node_index))
        if operation.name in MASK_INPUTS:
            return operation.name
        pending += operation._inbound_nodes[history.node_index].input_tensors
    return None
