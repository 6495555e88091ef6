"""What `torch.compile` sees of a distribution: a record of the call, each readout one function.

Dynamo reads the Python code of the caller. It need not read ours: a readout is one function in its
graph, through which AOTAutograd traces with the tensors alone, from the potentials to the result.
Readouts that share a sweep share it in the end, as equal operators of one graph are merged.
"""

import importlib
from typing import NamedTuple

import keras
import numpy as np
import torch

from keras_struct.ops.distribution import TopK
from keras_struct.ops.symbolic import READOUTS as SYMBOLIC_READOUTS

READOUTS = (*SYMBOLIC_READOUTS, "cross_entropy", "kl_divergence", "jacobian")


class Recorded:
    """A call of a public function; each readout calls it."""

    def __init__(self, op, args, kwargs):
        args = tuple(_as_tensor(x) for x in args)
        self.call = _Call(op, args, {name: _as_tensor(x) for name, x in kwargs.items()})

    def __getattr__(self, readout):
        if readout not in READOUTS:
            raise AttributeError(
                f"Expected a readout among {READOUTS} under torch.compile. Received: {readout!r}"
            )
        return lambda *args, **kwargs: self._read(readout, args, kwargs)

    def _read(self, readout, args, kwargs):
        args = tuple(_as_tensor(x) for x in args)
        kwargs = {name: _as_tensor(x) for name, x in kwargs.items()}
        result = _readout(self.call, readout, args, kwargs)
        return TopK(*result) if readout == "topk" else result


class _Call(NamedTuple):
    """A recorded call as a tree of tensors."""

    op: str
    args: tuple
    kwargs: dict

    def distribution(self):
        function = getattr(importlib.import_module("keras_struct.ops"), self.op)
        return function(*_as_given(self.args), **_as_given(self.kwargs))


class _Nothing(NamedTuple):
    """What stands for None, which is nothing that a graph can hold."""


@torch._dynamo.nonstrict_trace
def _readout(call, readout, args, kwargs):
    result = getattr(call.distribution(), readout)(*_as_given(args), **_as_given(kwargs))
    return tuple(result) if readout == "topk" else result


def result(op, kind, args, kwargs):
    """What a public function returns, a tensor or a named tuple of this kind."""
    args = tuple(_as_tensor(x) for x in args)
    found = _result(op, args, {name: _as_tensor(x) for name, x in kwargs.items()})
    return found if isinstance(found, torch.Tensor) else kind(*found)


@torch._dynamo.nonstrict_trace
def _result(op, args, kwargs):
    function = getattr(importlib.import_module("keras_struct.ops"), op)
    found = function(*_as_given(args), **_as_given(kwargs))
    return found if isinstance(found, torch.Tensor) else tuple(found)


def _as_tensor(x):
    """What a graph can hold."""
    if x is None:
        return _Nothing()
    if isinstance(x, Recorded):
        return x.call
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return type(x)(*(_as_tensor(y) for y in x))
    if isinstance(x, (tuple, list)):
        return type(x)(_as_tensor(y) for y in x)
    if isinstance(x, keras.random.SeedGenerator):
        return x.next()
    if isinstance(x, np.ndarray):
        return torch.as_tensor(x)
    if isinstance(x, keras.Variable):
        return x.value
    return x


def _as_given(x):
    """The inverse."""
    if isinstance(x, _Nothing):
        return None
    if isinstance(x, _Call):
        return x.distribution()
    if isinstance(x, dict):
        return {name: _as_given(y) for name, y in x.items()}
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return type(x)(*(_as_given(y) for y in x))
    if isinstance(x, (tuple, list)):
        return type(x)(_as_given(y) for y in x)
    return x
