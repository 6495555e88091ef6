"""The few array primitives that run inside loops, straight from the active framework.

`keras.ops` costs 5 to 25 microseconds of dispatch per call under torch; inside a loop over time
that is more than the arithmetic. Everything outside loops uses `keras.ops`.

Every framework module defines the same names:

- `exp, log, sum, cumsum, max, argmax, maximum, round, where, matmul, concatenate, stack, reshape,
  transpose, take_along_axis, top_k`
- `exp_or_zero(x)`: `exp`, also fast where the result is 0: PyTorch's own takes up to 20 times as
  long there, so it is `exp2` (a result below 1e-30 may be off by 1e-5 of itself)
- `take_rows(x, index, axis)`: of x (B, ..., N, ...) along an axis the places (B, N) of each example
- `contiguous(x)`: laid out in memory as it is indexed, where that is not the compiler's choice
- `logsumexp(x, axis)`
- `pad(x, widths, fill)`: pairs of widths, one for each axis
- `scan(step, carry, xs, like, reverse=False)`: `jax.lax.scan` over the leading axis of every array
  in the tuple `xs`; `carry` and the outputs are tuples; `like` holds, for each output, an array of
  its shape and dtype (TensorFlow must know them before the loop).
- `until(done, step, state, most)`: `step(*state)` until the booleans `done(*state)` are all True,
  `most` times at most; where PyTorch traces, no loop ends by a value and it is `most` times
- `power_of_two(n)`: `2**n` exactly for whole numbers n, 0 far below; a constant for gradients
- `get_row(table, i)`: `table[:, i]`
- `put_row(table, i, row)`: `table[:, i] = row`, and `add_at(table, index, x)`:
  `table[b, index[b]] += x[b]`; both may change `table` in place.
- `arange(n)` int32; `rotate_left(x, bits)`, `shift_right(x, bits)` (zeros come in) of int32 words,
  and `words(x)`: the lower 32 bits of integers as int32
- `map_samples(function, n)`: `function(i)` for i = 0, ..., n - 1, integers, on a new first axis;
  `MAPS_SAMPLES`: whether a compiler makes one loop of it
- `traced(x)`: whether the value is unknown now (jit, graph, vmap), and `branches(x)`: whether
  `keras.ops.cond` can decide by such a value all the same
- `scope(arrays)`: None if arrays can be used everywhere, else what is equal for all such arrays in
  the program (jit, branch, loop, graph) that is traced now, or with gradients off
- `opaque(x)`: whether the program being traced holds each sweep as one operator, which will see
  concrete values (`torch.compile`), and `records()`: whether a compiler reads the Python code of
  the caller now, so that a distribution is to be a `Recorded` one; `mapped(x)`: whether
  `torch.func` hides the value, which an operator with a rule for it sees
- `in_xla()`: whether XLA compiles what runs now, so that no shape may depend on a value
- `device(x)`: where a tensor is, or the program being traced will run as far as can be known:
  "cpu", "gpu" or "tpu", and the kind of device or None; `platform(x)` is the first of it
- `placed(tensors)`: a context in which new tensors are made where the first of these is
- `exporting()`: whether the program being traced goes to a file that another process will run.
"""

import keras

if keras.backend.backend() == "jax":
    from keras_struct.ops.array.jax import *  # noqa: F403
elif keras.backend.backend() == "tensorflow":
    from keras_struct.ops.array.tensorflow import *  # noqa: F403
elif keras.backend.backend() == "torch":
    from keras_struct.ops.array.torch import *  # noqa: F403
elif keras.backend.backend() == "numpy":
    from keras_struct.ops.array.numpy import *  # noqa: F403
else:
    raise ValueError(
        'Expected a Keras backend among "jax", "tensorflow", "torch" and "numpy". '
        f"Received: backend={keras.backend.backend()!r}"
    )
