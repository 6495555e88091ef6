"""Structures on `keras.Input` tensors: each readout becomes one operation of a functional model."""

import functools
import importlib
from collections.abc import Callable
from typing import Any, TypeVar, cast

import keras

from keras_struct.ops import array
from keras_struct.ops.validation import SYMBOLIC

READOUTS = (
    "value", "log_partition", "marginals", "argmax", "sample", "topk", "score", "log_prob",
    "entropy", "parts", "sparse_marginals", "implicit_mle",
)  # fmt: skip

Public = TypeVar("Public", bound=Callable[..., Any])


def public(function: Public) -> Public:
    """Decorate a public function: with symbolic arguments it returns symbolic readouts."""

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        if array.records():
            return Recorded(function.__name__, args, kwargs)
        given = *args, *kwargs.values()
        if not any(isinstance(x, keras.KerasTensor) for x in given):
            with array.placed(given):
                return function(*args, **kwargs)
        return SymbolicDistribution(function.__name__, args, kwargs)

    return cast(Public, wrapper)


def whole(kind=None):
    """Decorate a public function of arrays, which compilers need not read.

    Args:
        kind: Class of the named tuple that it returns; None where it is an array.
    """

    def decorated(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            if array.records():
                return result(function.__name__, kind, args, kwargs)
            with array.placed((*args, *kwargs.values())):
                return function(*args, **kwargs)

        return wrapper

    return decorated


class SymbolicDistribution:
    """What a public function returns for `keras.KerasTensor` arguments.

    It has the readouts of `Distribution`, each of which is a layer-like operation, so that it can
    stand in a functional model, be saved with it and run on real tensors.
    """

    def __init__(self, name, args, kwargs):
        self.name, self.args, self.kwargs = name, args, kwargs

    def __getattr__(self, readout):
        if readout not in READOUTS:
            raise AttributeError(
                f"Expected a readout among {READOUTS} on symbolic tensors. Received: {readout!r}"
            )
        return functools.partial(self._read, readout)

    def _read(self, readout, *args, **kwargs):
        operation = Readout(self.name, readout)
        return operation(self.args, self.kwargs, args, kwargs)


@keras.saving.register_keras_serializable("keras_struct")
class Readout(keras.Operation):
    """One readout of one structure, as an operation of a functional model."""

    def __init__(self, structure, readout, name=None):
        super().__init__(name=name)
        self.structure = structure
        self.readout = readout

    def call(self, args, kwargs, readout_args, readout_kwargs):
        function = getattr(importlib.import_module("keras_struct.ops"), self.structure)
        distribution = function(*args, **kwargs)
        return getattr(distribution, self.readout)(*readout_args, **readout_kwargs)

    def compute_output_spec(self, *args, **kwargs):
        token = SYMBOLIC.set(True)
        try:
            return super().compute_output_spec(*args, **kwargs)
        finally:
            SYMBOLIC.reset(token)

    def get_config(self):
        return {"structure": self.structure, "readout": self.readout, "name": self.name}


if keras.backend.backend() == "torch":
    from keras_struct.ops.recorded import Recorded, result
