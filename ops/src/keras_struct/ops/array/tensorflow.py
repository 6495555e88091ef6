"""Array primitives on TensorFlow (see `array/__init__.py`)."""

import contextlib
import contextvars
import weakref

import tensorflow as tf
from tensorflow import cumsum, exp, matmul, maximum, reshape, round, stack, transpose, where
from tensorflow.math import log
from tensorflow.python.ops import control_flow_util  # no public way to ask for XLA

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
_LAYOUT = {tf.float32: (tf.int32, 127, 23), tf.float64: (tf.int64, 1023, 52)}


_translated: contextvars.ContextVar[bool] = contextvars.ContextVar("translated", default=False)


@contextlib.contextmanager
def translated():
    """Within this context, graphs have only what tf2onnx translates right (1.17): no bits are cast,
    and loops write their outputs in order, wherever it puts them."""
    token = _translated.set(True)
    try:
        yield
    finally:
        _translated.reset(token)


def contiguous(x):
    return x


def max(x, axis, keepdims=False):
    return tf.reduce_max(x, axis, keepdims=keepdims)


def sum(x, axis, keepdims=False):
    return tf.reduce_sum(x, axis, keepdims=keepdims)


def logsumexp(x, axis):
    peak = tf.stop_gradient(max(x, axis, keepdims=True))
    return log(sum(exp(x - peak), axis)) + tf.squeeze(peak, axis)


def argmax(x, axis):
    return tf.argmax(x, axis, output_type=tf.int32)


def concatenate(xs, axis):
    return tf.concat(xs, axis)


def take_along_axis(x, indices, axis):
    axis = axis % x.shape.rank
    if axis == x.shape.rank - 1:
        return tf.gather(x, indices, axis=axis, batch_dims=axis)
    last = list(range(x.shape.rank))
    last[axis], last[-1] = last[-1], last[axis]
    taken = tf.gather(tf.transpose(x, last), tf.transpose(indices, last), batch_dims=len(last) - 1)
    return tf.transpose(taken, last)


def take_rows(x, index, axis):
    return tf.gather(x, index, axis=axis, batch_dims=1)


def top_k(x, k):
    return tf.math.top_k(x, k)


def scan(step, carry, xs, like, reverse=False):
    """`TensorArray.unstack` once; indexing `x[t]` in the body has a quadratic gradient."""
    if reverse and _translated.get():
        carry, ys = scan(step, carry, tuple(x[::-1] for x in xs), like)
        return carry, tuple(y[::-1] for y in ys)
    n = xs[0].shape[0] if xs[0].shape[0] is not None else tf.shape(xs[0])[0]
    reads = [tf.TensorArray(x.dtype, n, element_shape=x.shape[1:]).unstack(x) for x in xs]
    writes = [tf.TensorArray(y.dtype, n, element_shape=y.shape) for y in like]
    static = [c.shape for c in carry]

    def body(i, carry, writes):
        t = n - 1 - i if reverse else i
        carry, outputs = step(carry, tuple(r.read(t) for r in reads))
        carry = tuple(tf.ensure_shape(c, s) for c, s in zip(carry, static, strict=True))
        return i + 1, carry, [w.write(t, y) for w, y in zip(writes, outputs, strict=True)]

    _, carry, writes = tf.while_loop(
        lambda i, *_: i < n, body, (0, tuple(carry), writes), maximum_iterations=n
    )
    return carry, tuple(w.stack() for w in writes)


def until(done, step, state, most):
    static = [x.shape for x in state]

    def body(*state):
        state = step(*state)
        return tuple(tf.ensure_shape(x, s) for x, s in zip(state, static, strict=True))

    return tf.while_loop(
        lambda *state: tf.reduce_any(tf.logical_not(done(*state))),
        body,
        tuple(state),
        maximum_iterations=most,
    )


def pad(x, widths, fill):
    return tf.pad(x, widths, constant_values=tf.cast(fill, x.dtype))


def put_row(table, index, row):
    batch = tf.range(tf.shape(table)[0])
    where = tf.stack([batch, tf.zeros_like(batch) + index], axis=1)
    return tf.tensor_scatter_nd_update(table, where, row)


def get_row(table, index):
    return tf.gather(table, index, axis=1)


def power_of_two(n):
    bits, bias, shift = _LAYOUT[n.dtype]
    low, high = tf.constant(-bias, n.dtype), tf.constant(bias, n.dtype)
    whole = tf.cast(tf.stop_gradient(tf.clip_by_value(n, low, high)), bits) + bias
    if _translated.get():
        powers = [0.0, *(2.0**k for k in range(1 - bias, bias + 1))]
        return tf.gather(tf.constant(powers, n.dtype), whole)
    return tf.bitcast(tf.bitwise.left_shift(whole, tf.constant(shift, bits)), n.dtype)


def add_at(table, index, values):
    batch = tf.range(tf.shape(table)[0])[:, None] + tf.zeros_like(index)
    return tf.tensor_scatter_nd_add(table, tf.stack([batch, index], axis=2), values)


def traced(x):
    return tf.is_symbolic_tensor(x)


def scope(arrays):
    return weakref.ref(tf.compat.v1.get_default_graph()) if any(map(traced, arrays)) else None


def opaque(x):
    return False


def mapped(x):
    return False


def placed(tensors):
    return contextlib.nullcontext()


def records():
    return False


def branches(x):
    return True  # tf.cond


def in_xla():
    return control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


def device(x):
    """Of the scope that a graph is built in, or of a concrete tensor, or of the first GPU."""
    devices = tf.config.list_logical_devices("GPU")
    place = (x.device or "").upper() if hasattr(x, "device") else ""
    if not devices or "CPU" in place:
        return "cpu", None
    return "gpu", tf.config.experimental.get_device_details(
        tf.config.list_physical_devices("GPU")[0]
    ).get("device_name")


def exporting():
    return False


def platform(x):
    return device(x)[0]


def arange(n):
    return tf.range(n, dtype=tf.int32)


def zeros_like(x):
    return tf.zeros_like(x)


def rotate_left(x, bits):
    left = tf.bitwise.left_shift(x, tf.constant(bits, x.dtype))
    return tf.bitwise.bitwise_or(left, shift_right(x, 32 - bits))


def shift_right(x, bits):
    shifted = tf.bitwise.right_shift(x, tf.constant(bits, x.dtype))
    return tf.bitwise.bitwise_and(shifted, tf.constant((1 << (32 - bits)) - 1, x.dtype))


def words(x):
    return tf.bitcast(tf.cast(x, tf.uint32), tf.int32)


def map_samples(function, n):
    """By a loop of a graph, in eager mode too."""
    if n == 1:
        return function(0)[None]

    def mapped():
        return tf.map_fn(function, tf.range(n), fn_output_signature=tf.int32)

    return tf.function(mapped, autograph=False)() if tf.executing_eagerly() else mapped()
