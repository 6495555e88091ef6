"""The strips of `strips.py` on the CPU, compiled by Numba, examples in parallel.

The tape: messages of the last rows of every strip, `heads` (B, K - 1, S, H, L2 + 1); log-weights of
the states in the corner where all paths end, else of the ends in each row and of the empty
structure, `ends` (B, E); the log-partition (B,); 1 for every example if the local operator was
"max". All of it is float64. The potentials and results have the dtype of the call.
"""

import functools

import numpy as np

from keras_struct.ops import array, native
from keras_struct.ops.alignment import events
from keras_struct.ops.alignment.layout import Layout
from keras_struct.ops.alignment.wavefront import WavefrontSweeps
from keras_struct.ops.native import rejects
from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE

__all__ = ["StripSweeps", "rejects", "sweeps"]


def sweeps(call):
    return StripSweeps(call.option("spec"))


class StripSweeps(native.NativeSweeps, WavefrontSweeps):
    @property
    def differentiable(self):
        return WavefrontSweeps(self.spec)

    def forward(self, potentials, context, op):
        from keras_struct.ops.alignment import strips

        batch, (rows, columns) = context[0].shape[0], potentials[0].shape[1:]
        states = self.spec.states
        halo = int(_plan(self.spec, columns).halo)
        ends = states if self.spec.end == "corner" else rows + 2
        shapes = (rows // int(strips.LANES), states, halo, columns + 1), (ends,), (), ()
        results = [((batch, *shape), "float64") for shape in shapes]
        value = (batch,), native.dtype_of(potentials[0])
        *tape, log_partition = native.call(
            self, "_forward", [*results, value], *potentials, *context, static=(op == "max",)
        )
        return log_partition, tuple(tape)

    def backward(self, potentials, context, tape):
        return self.parts("_backward", potentials, context, *tape)

    def curvature(self, potentials, context, tape, tangents):
        return self.parts("_curvature", potentials, context, *tape, *tangents)

    def trace(self, potentials, context, tape, noise):
        batch, (rows, columns) = context[0].shape[0], potentials[0].shape[1:]
        layout = Layout(rows, columns, self.spec.by_rows)
        draws = [noise((batch, tape[1].shape[1]))]
        if self.spec.end != "corner":
            draws.append(noise((batch, columns + 1, self.spec.states)))
        steps = layout.steps + self.spec.window  # draws as those of the wavefront
        draws.append(array.transpose(noise((steps, batch, len(self.spec.moves))), (1, 0, 2)))
        results = [((batch, layout.steps + 1), "int32")]
        (places,) = native.call(self, "_trace", results, *potentials, *context, *tape, *draws)
        return events.encode(self.spec, layout, array.transpose(places, (1, 0)))

    # On NumPy arrays ---------------------------------------------------------------------------

    def _forward(self, hard, *arrays):
        run = _Run(self.spec, arrays)
        heads, ends, values, maximum, log_partition = run.rest
        heads[:], ends[:], maximum[:] = 0.0, FORBIDDEN, hard
        if self.spec.empty:
            ends[:, -1] = 0.0
        run.on_examples("forward", hard, heads, ends)
        values[:] = ends.max(1) if hard else _logsumexp(ends)
        log_partition[:] = values

    def _backward(self, *arrays):
        run = _Run(self.spec, arrays)
        (heads, _, values, _), marginals = run.rest[:4], run.rest[4:]
        run.on_examples("backward", heads, values, run.five(marginals))

    def _curvature(self, *arrays):
        run = _Run(self.spec, arrays)
        (heads, _, values, _), count = run.rest[:4], len(self.spec.kinds)
        tangents, products = run.rest[4 : 4 + count], run.rest[4 + count :]
        run.on_examples("curvature", run.five(tangents), heads, values, run.five(products))

    def _trace(self, *arrays):
        run = _Run(self.spec, arrays)
        heads, ends, values, hard, ends_noise, *noise, places = run.rest
        end = (ends + ends_noise).argmax(1)
        if self.spec.end == "corner":
            noise.insert(0, np.zeros((run.batch, 1, 1)))
        else:
            end = np.where(end > run.rows, -1, end)
        end = np.where(values > INFEASIBLE, end, -1)
        of_columns, of_moves = map(native.as_double, noise)
        of_moves = native.as_double(np.moveaxis(of_moves, 0, 1))
        places[:] = -1
        by_rows = self.spec.by_rows
        run.on_examples("trace", by_rows, heads, hard, end, of_columns, of_moves, places)


class _Run:
    """The potentials and lengths that a call begins with, and the rest of its arrays."""

    def __init__(self, spec, arrays):
        count = len(spec.kinds)
        self.dtype = arrays[0].dtype
        self.batch = len(arrays[count])
        self.rows, columns = arrays[0].shape[1:]
        self.potentials = self.five(arrays[:count])
        self.plan = _plan(spec, columns)
        lengths = np.stack(arrays[count : count + 2], axis=1)
        self.lengths = np.clip(lengths, 0, (self.rows, columns)).astype("uint64")
        self.cells = self.batch * self.rows * columns
        self.rest = arrays[count + 2 :]

    def five(self, arrays):
        """As the kernels take them, contiguous and as many for every structure."""
        from keras_struct.ops.alignment import strips

        arrays = [np.require(x, self.dtype, ["C", "W"]) for x in arrays]
        return (*arrays, *[np.zeros((1, 1, 1), self.dtype)] * (strips.MOST_CHANNELS - len(arrays)))

    def on_examples(self, name, *arguments):
        """Runs a kernel on all examples."""
        from keras_struct.ops.alignment import strips

        kernel = getattr(strips, name)
        arguments = self.lengths, self.potentials, *arguments
        native.on_examples(kernel, self.batch, self.cells, self.plan, *arguments)


@functools.lru_cache(maxsize=64)
def _plan(spec, columns):
    from keras_struct.ops.alignment import strips

    return strips.plan(spec, columns)


def _logsumexp(x):
    peak = x.max(1, keepdims=True)
    return np.log(np.exp(x - peak).sum(1)) + peak[:, 0]
