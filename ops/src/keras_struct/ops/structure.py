"""What one structure says about itself, so that `Distribution` can be generic."""

import contextvars

import keras
from keras import ops

from keras_struct.ops import array, dispatch


class Structure:
    """One call of a public function: its potentials, flattened to one batch axis.

    Subclasses set `op`, `event_rank` and, in `__init__`, call `self._set(...)`.

    Attributes:
        op: Public name of the structure.
        costs: Whether potentials are costs (value is a soft minimum).
        event_rank: Number of axes of an event, without batch axes.
        potentials: Named potentials, flat batch axis first (size 1 where shared), compute dtype.
        context: Arrays without gradient, batch axis first.
        batch_shape: The user's batch axes.
        dtype: The user's dtype (of the primary potential).
    """

    op = ""
    costs = False
    event_rank = 1

    def fold(self, potentials):
        """Canonical potentials (a tuple) from named ones; differentiable."""
        raise NotImplementedError

    def unfold(self, marginals):
        """Named marginals from canonical ones: the transpose of `fold`, per example."""
        raise NotImplementedError

    def parts(self, event, context):
        """Canonical indicator of an event (flat batch): how often it uses each part."""
        raise NotImplementedError

    def possible(self, event, context):
        """Whether the structure has this event at all, (B,) (scores aside)."""
        return ops.ones(ops.shape(event)[:1], "bool")

    def clean_potentials(self, temperature):
        """Named potentials over the temperature, with padding and infinities cleaned."""
        raise NotImplementedError

    def options(self):
        """Every option that changes meaning or algorithm, for dispatch."""
        return {}


def as_potential(name, x):
    """Tensor of floating dtype, or a clear error."""
    if not ops.is_tensor(x):  # on NumPy this would lose float64
        x = ops.convert_to_tensor(x)
    if not keras.backend.is_float_dtype(x.dtype):
        if keras.backend.standardize_dtype(x.dtype) == "bool":
            raise ValueError(f"Expected numbers as {name}. Received: dtype of {name}={x.dtype}")
        x = ops.cast(x, keras.config.floatx())
    return x


def flatten_batch(x, core_rank):
    """Merge all leading axes into one."""
    lead = len(x.shape) - core_rank
    if lead == 1:
        return x
    if lead == 0:
        return ops.expand_dims(x, 0)
    shape = ops.shape(x)
    batch = 1
    for size in shape[:lead]:
        batch = batch * size
    return ops.reshape(x, (batch, *shape[lead:]))


def restore_batch(x, batch_shape, prefix=0):
    """Undo `flatten_batch` on axis `prefix`."""
    if len(batch_shape) == 1:
        return x
    shape = ops.shape(x)
    return ops.reshape(x, (*shape[:prefix], *batch_shape, *shape[prefix + 1 :]))


def flatten_shared(name, x, core_rank, batch_shape):
    """A potential with no batch axes (shared: size 1) or with all of them."""
    lead = len(x.shape) - core_rank
    if lead == 0:
        return ops.expand_dims(x, 0)
    if lead != len(batch_shape):
        raise ValueError(
            f"Expected {name} with {core_rank} axes, or with those after batch axes {batch_shape}. "
            f"Received: shape of {name}={tuple(x.shape)}"
        )
    for axis, (have, want) in enumerate(zip(x.shape, batch_shape, strict=False)):
        if isinstance(have, int) and isinstance(want, int) and have not in (1, want):
            raise ValueError(
                f"Expected {name} to have the batch axes {batch_shape}, or size 1 at axis {axis}. "
                f"Received: shape of {name}={tuple(x.shape)}"
            )
    wants = [want if isinstance(want, int) else None for want in batch_shape]
    if any(have == 1 and want != 1 for have, want in zip(x.shape, wants, strict=False)):
        if all(x.shape[axis] == 1 for axis in range(lead)):
            return ops.reshape(x, (1, *ops.shape(x)[lead:]))
        x = ops.broadcast_to(x, (*batch_shape, *ops.shape(x)[lead:]))
    return flatten_batch(x, core_rank)


def batch_of(x, core_rank):
    """The user's batch axes of `x`."""
    return tuple(ops.shape(x)[: len(x.shape) - core_rank])


def check_rank(name, x, rank, letters):
    if len(x.shape) < rank:
        raise ValueError(
            f"Expected {name} of shape (..., {letters}). Received: shape of {name}={tuple(x.shape)}"
        )


def as_lengths(name, lengths, batch_shape, limit, minimum=0):
    """Integer tensor (B,): given lengths, broadcast over the batch, or `limit` everywhere."""
    batch = 1
    for size in batch_shape:
        batch = batch * size
    if lengths is None:
        return ops.broadcast_to(ops.cast(limit, "int32"), (batch,))
    lengths = ops.convert_to_tensor(lengths)
    if not keras.backend.is_int_dtype(lengths.dtype):
        raise ValueError(f"Expected integer {name}. Received: dtype of {name}={lengths.dtype}")
    values = concrete(lengths)
    known = values is not None and isinstance(limit, int) and values.size
    if known and (values.min() < minimum or values.max() > limit):
        raise ValueError(
            f"Expected {name} between {minimum} and {limit}. Received: {name}={values}"
        )
    lengths = ops.cast(lengths, "int32")
    if not batch_shape:
        return ops.reshape(lengths, (1,))
    return ops.reshape(ops.broadcast_to(lengths, batch_shape), (batch,))


def as_temperature(temperature, batch_shape, dtype):
    """None for 1, 0.0 for the hard algorithm, else a tensor of shape () or (B,)."""
    if isinstance(temperature, (int, float)):
        if temperature == 1:
            return None
        if temperature == 0:
            return 0.0
        if not temperature > 0 or temperature == float("inf"):
            raise ValueError(
                "Expected a finite temperature >= 0 (0 is the hard algorithm). "
                f"Received: temperature={temperature}"
            )
    if isinstance(temperature, (int, float)):
        return ops.convert_to_tensor(float(temperature), dtype=dtype)
    temperature = ops.cast(ops.convert_to_tensor(temperature), dtype)
    values = concrete(temperature)
    if values is not None and not (values > 0).all():
        raise ValueError(
            "Expected temperatures > 0 in an array (the hard algorithm is the Python number 0). "
            f"Received: temperature={values}"
        )
    if len(temperature.shape) == 0:
        return temperature
    batch = 1
    for size in batch_shape:
        batch = batch * size
    return ops.reshape(ops.broadcast_to(temperature, batch_shape or (1,)), (batch,))


# True while Keras infers the output shape of a symbolic readout with invented values.
SYMBOLIC: contextvars.ContextVar[bool] = contextvars.ContextVar("symbolic", default=False)


def concrete(x):
    """The value as a NumPy array, or None while tracing."""
    return None if SYMBOLIC.get() or array.traced(x) else ops.convert_to_numpy(x)


def time_mask(lengths, n):
    """Boolean (B, n): position before the length."""
    return ops.arange(n, dtype="int32")[None, :] < lengths[:, None]


def one_hot(indices, depth, dtype):
    """One-hot over a new last axis; negative indices give zeros."""
    return ops.cast(ops.expand_dims(indices, -1) == ops.arange(depth, dtype=indices.dtype), dtype)


def make_call(structure, canonical):
    """The dispatch facts of a structure with its canonical potentials."""
    first = canonical[0]
    return dispatch.Call(
        op=structure.op,
        backend=keras.backend.backend(),
        platform=array.platform(first),
        dtype=keras.backend.standardize_dtype(first.dtype),
        shapes=tuple(tuple(static_shape(x)) for x in canonical),
        options=tuple(sorted(structure.options().items())),
        traced=array.traced(first),
        xla=array.in_xla(),
    )


def static_shape(x):
    return [size if isinstance(size, int) else None for size in x.shape]
