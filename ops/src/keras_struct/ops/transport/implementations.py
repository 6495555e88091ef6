"""The implementations of transport, and which one a call gets.

An implementation is a class with `rejects(call)`, None or a sentence that says why it does not take
this call; an instance, made for a `Support`, has `log_sums`, `plan` and `steps` (see `Tiled`, from
which a kernel inherits what it lacks).
"""

import keras

from keras_struct.ops import array, dispatch
from keras_struct.ops.structure import static_shape
from keras_struct.ops.transport.stored import Stored
from keras_struct.ops.transport.tiled import Tiled

# In the order in which they are asked.
IMPLEMENTATIONS: dict[str, type[Tiled]] = {"stored": Stored, "tiled": Tiled}


def facts(op, arrays, options):
    """The dispatch facts of a call with the features of its rows and columns."""
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
    """The `dispatch.Choice` for a call."""
    if implementation is not None:
        if implementation not in IMPLEMENTATIONS:
            raise ValueError(
                f"Expected an implementation of {call.op} among {list(IMPLEMENTATIONS)}. "
                f"Received: implementation={implementation!r}"
            )
        reason = IMPLEMENTATIONS[implementation].rejects(call)
        if reason is not None:
            raise NotImplementedError(f"{call.op} cannot run as {implementation!r}: {reason}")
        return dispatch.Choice(call, implementation, "requested by argument", ())
    rejected: list[tuple[str, str]] = []
    for name, candidate in IMPLEMENTATIONS.items():
        reason = candidate.rejects(call)
        if reason is None:
            return dispatch.Choice(call, name, None, tuple(rejected))
        rejected.append((name, reason))
    raise NotImplementedError(f"No implementation of {call.op} takes this call: {rejected}")
