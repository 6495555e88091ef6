"""Array primitives on JAX (see `array/__init__.py`)."""

import contextlib
import sys

import jax
from jax import lax
from jax import numpy as jnp
from jax.extend.core import get_opaque_trace_state
from jax.numpy import (
    argmax,
    concatenate,
    cumsum,
    exp,
    log,
    max,
    maximum,
    reshape,
    round,
    stack,
    sum,
    take_along_axis,
    transpose,
    where,
)

MAPS_SAMPLES = True
__all__ = [
    "MAPS_SAMPLES",
    "add_at",
    "arange",
    "argmax",
    "branches",
    "concatenate",
    "contiguous",
    "cumsum",
    "device",
    "exp",
    "exp_or_zero",
    "exporting",
    "get_row",
    "in_xla",
    "log",
    "logsumexp",
    "map_samples",
    "mapped",
    "matmul",
    "max",
    "maximum",
    "opaque",
    "pad",
    "placed",
    "platform",
    "power_of_two",
    "put_row",
    "records",
    "reshape",
    "rotate_left",
    "round",
    "scan",
    "scope",
    "shift_right",
    "stack",
    "sum",
    "take_along_axis",
    "take_rows",
    "top_k",
    "traced",
    "transpose",
    "until",
    "where",
    "words",
    "zeros_like",
]

exp_or_zero = exp
# Integer of the same size, bias of the exponent, bits of the mantissa.
_LAYOUT = {"float32": ("int32", 127, 23), "float64": ("int64", 1023, 52)}


def contiguous(x):
    return x


def matmul(x, y):
    # The default of GPUs and TPUs has the digits of bfloat16 or a few more.
    return jnp.matmul(x, y, precision=lax.Precision.HIGHEST)


def logsumexp(x, axis):
    peak = lax.stop_gradient(max(x, axis=axis, keepdims=True))
    return log(sum(exp(x - peak), axis=axis)) + jnp.squeeze(peak, axis)


def top_k(x, k):
    return lax.top_k(x, k)


def scan(step, carry, xs, like, reverse=False):
    return lax.scan(step, carry, xs, reverse=reverse)


def until(done, step, state, most):
    if not any(map(traced, state)):  # of sweeps that JAX cannot trace
        for _ in range(most):
            if done(*state).all():
                break
            state = step(*state)
        return state

    def going_on(carry):
        return jnp.logical_and(carry[0] < most, jnp.logical_not(done(*carry[1]).all()))

    def body(carry):
        return carry[0] + 1, step(*carry[1])

    return lax.while_loop(going_on, body, (0, tuple(state)))[1]


def pad(x, widths, fill):
    return jnp.pad(x, widths, constant_values=fill)


def put_row(table, index, row):
    return lax.dynamic_update_slice_in_dim(table, row[:, None], index, 1)


def get_row(table, index):
    return lax.dynamic_index_in_dim(table, index, 1, keepdims=False)


def power_of_two(n):
    bits, bias, shift = _LAYOUT[n.dtype.name]
    return lax.bitcast_convert_type(
        (jnp.clip(n, -bias, bias).astype(bits) + bias) << shift, n.dtype
    )


def add_at(table, index, values):
    # Mapped, so that a compiler that divides the batch knows that examples stay apart.
    return jax.vmap(lambda row, places, x: row.at[places].add(x))(table, index, values)


def traced(x):
    return isinstance(x, jax.core.Tracer)


def scope(arrays):
    return get_opaque_trace_state() if any(map(traced, arrays)) else None


def opaque(x):
    return False


def mapped(x):
    return False


def placed(tensors):
    return contextlib.nullcontext()


def records():
    return False


def take_rows(x, index, axis):
    shape = [1] * x.ndim
    shape[0], shape[axis] = index.shape
    return take_along_axis(x, index.reshape(shape), axis)


def branches(x):
    return True  # jax.lax.cond


def in_xla():
    return True


def device(x):
    """(platform, kind): of the device of a concrete array, or of the one that JAX defaults to."""
    if isinstance(x, jax.Array) and not isinstance(x, jax.core.Tracer):
        at = next(iter(x.devices()))
    else:
        at = jax.config.jax_default_device or jax.devices()[0]
        at = jax.devices(at)[0] if isinstance(at, str) else at
    platform = {"cuda": "gpu", "rocm": "gpu"}.get(at.platform, at.platform)
    return platform, None if platform == "cpu" else at.device_kind


def platform(x):
    return device(x)[0]


def exporting():
    """Whether the program being traced is on its way into a SavedModel, by `jax2tf`."""
    tensorflow = sys.modules.get("tensorflow")
    return tensorflow is not None and not tensorflow.executing_eagerly()


def arange(n):
    return jnp.arange(n, dtype="int32")


def zeros_like(x):
    return jnp.zeros_like(x)


def rotate_left(x, bits):
    return (x << bits) | lax.shift_right_logical(x, jnp.int32(32 - bits))


def shift_right(x, bits):
    return lax.shift_right_logical(x, jnp.int32(bits))


def words(x):
    return lax.bitcast_convert_type(jnp.asarray(x).astype("uint32"), "int32")


def map_samples(function, n):
    return jax.vmap(function)(arange(n))
