"""Numbers m 2^e (`scaled.py`) in Pallas kernels for GPUs."""

from jax import lax
from jax import numpy as jnp

from keras_struct.ops.scaled import EMPTY


def normalised(m, e):
    """`m 2^e` with a mantissa from 1 to 2, as its bits say."""
    wide = m.dtype != jnp.float32
    integer, bits, bias = (jnp.int64, 52, 1023) if wide else (jnp.int32, 23, 127)
    exists = m > 0
    word = lax.bitcast_convert_type(jnp.where(exists, m, 1.0).astype(m.dtype), integer)
    exponent = lax.shift_right_logical(word, integer(bits)) - integer(bias)
    word = word - lax.shift_left(exponent, integer(bits))
    mantissa = lax.bitcast_convert_type(word, m.dtype)
    return jnp.where(exists, mantissa, 0.0), jnp.where(exists, e + exponent.astype(m.dtype), EMPTY)


def over(x, m):
    """`x / m`, 0 where m is."""
    exists = m > 0
    return jnp.where(exists, x / jnp.where(exists, m, 1.0), 0.0)
