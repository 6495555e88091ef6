"""The implementations of transport, and which one a call gets."""

import keras

from keras_struct.ops import array, dispatch
from keras_struct.ops.structure import static_shape
from keras_struct.ops.transport.stored import Stored
from keras_struct.ops.transport.tiled import Tiled

IMPLEMENTATIONS = {"stored": Stored, "tiled": Tiled}  # in the order in which they are asked


class Choice:
    def __init__(self, name, requested_by, rejected):
        self.name, self.requested_by, self.rejected = name, requested_by, rejected
        self.implementation = IMPLEMENTATIONS[name]


def facts(op, arrays, options):
    """The dispatch facts of a call with these canonical arrays."""
    first = arrays[0]
    return dispatch.Call(
        op=op,
        backend=keras.backend.backend(),
        platform=array.platform(first),
        dtype=keras.backend.standardize_dtype(first.dtype),
        shapes=tuple(tuple(static_shape(x)) for x in arrays),
        options=tuple(sorted(options.items())),
        traced=array.traced(first),
        xla=array.in_xla(),
    )


def choose(call, implementation=None):
    """The `Choice` for a call."""
    if implementation is not None:
        if implementation not in IMPLEMENTATIONS:
            raise ValueError(
                f"Expected an implementation of {call.op} among {list(IMPLEMENTATIONS)}. "
                f"Received: implementation={implementation!r}"
            )
        reason = IMPLEMENTATIONS[implementation].rejects(call)
        if reason is not None:
            raise NotImplementedError(f"{call.op} cannot run as {implementation!r}: {reason}")
        return Choice(implementation, "requested by argument", ())
    rejected = []
    for name, candidate in IMPLEMENTATIONS.items():
        reason = candidate.rejects(call)
        if reason is None:
            return Choice(name, None, tuple(rejected))
        rejected.append((name, reason))
    raise NotImplementedError(f"No implementation of {call.op} takes this call: {rejected}")
