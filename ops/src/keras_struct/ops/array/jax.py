"""Array primitives on JAX (see `array/__init__.py`)."""

import jax
from jax import lax
from jax import numpy as jnp
from jax.numpy import (
    argmax,
    concatenate,
    exp,
    log,
    matmul,
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

__all__ = [
    "add_at",
    "argmax",
    "branches",
    "concatenate",
    "contiguous",
    "exp",
    "exp_or_zero",
    "get_row",
    "in_xla",
    "log",
    "logsumexp",
    "matmul",
    "max",
    "maximum",
    "pad",
    "platform",
    "power_of_two",
    "put_row",
    "reshape",
    "round",
    "scan",
    "stack",
    "sum",
    "take_along_axis",
    "top_k",
    "traced",
    "transpose",
    "where",
]

exp_or_zero = exp
# Integer of the same size, bias of the exponent, bits of the mantissa.
_LAYOUT = {"float32": ("int32", 127, 23), "float64": ("int64", 1023, 52)}


def contiguous(x):
    return x


def logsumexp(x, axis):
    peak = lax.stop_gradient(max(x, axis=axis, keepdims=True))
    return log(sum(exp(x - peak), axis=axis)) + jnp.squeeze(peak, axis)


def top_k(x, k):
    return lax.top_k(x, k)


def scan(step, carry, xs, like, reverse=False):
    return lax.scan(step, carry, xs, reverse=reverse)


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
    return table.at[jnp.arange(table.shape[0])[:, None], index].add(values)


def traced(x):
    return isinstance(x, jax.core.Tracer)


def branches(x):
    return True  # jax.lax.cond


def in_xla():
    return True


def platform(x):
    if isinstance(x, jax.Array) and not isinstance(x, jax.core.Tracer):
        return next(iter(x.devices())).platform
    return jax.default_backend()
