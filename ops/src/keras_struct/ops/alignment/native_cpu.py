"""The strips of `strips.py` on the CPU, compiled by Numba, examples in parallel."""

import functools
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_struct.ops import native
from keras_struct.ops.alignment import events
from keras_struct.ops.alignment.layout import Layout
from keras_struct.ops.native import NativeImplementation
from keras_struct.ops.numerics import FORBIDDEN


class Tape(NamedTuple):
    """What the forward sweep leaves behind, in float64.

    Attributes:
        heads: Messages of the last rows of every strip, (B, K - 1, S, H, L2 + 1).
        ends: Log-weights (B, E) of the states in the corner where all paths end, else of the ends
            at each time and, last, of the empty structure, as in `portable.py`.
        value: The log-partition (B,).
    """

    heads: Any
    ends: Any
    value: Any


class Strips(NativeImplementation):
    def rejects(self, call):
        if call.spec.jumps:
            return "a transposition may come from any earlier row, and a strip knows the last ones"
        return super().rejects(call)

    def forward(self, problem, op):
        spec, batch = problem.spec, problem.context[0].shape[0]
        shapes = self.tape_shapes(spec, *problem.potentials[0].shape[1:])
        results = [((batch, *shape), "float64") for shape in shapes]
        results += [((batch,), native.dtype_of(problem.potentials[0]))] * 2
        arrays = (*problem.potentials, *problem.context)
        *tape, high, low = native.call(
            self, "_forward", results, *arrays, static=(spec, op == "max")
        )
        return (high, low), Tape(*tape)

    def tape_shapes(self, spec, rows, columns):
        """Shapes of the arrays of the tape, without the batch."""
        from keras_struct.ops.alignment import strips

        halo = int(_plan(spec, rows, columns).halo)
        ends = spec.states if spec.end == "corner" else rows + columns + spec.window + 2
        return (rows // int(strips.LANES), spec.states, halo, columns + 1), (ends,), ()

    def backward(self, problem, tape):
        return self.parts("_backward", problem, *tape)

    def curvature(self, problem, tape, tangents):
        return self.parts("_curvature", problem, *tape, *tangents)

    def trace(self, problem, tape, draws=None):
        keys = ops.zeros((problem.context[0].shape[0], 2), dtype="int32")
        return self._trace(problem, tape, keys, 1, hard=True)[0]

    def sample(self, problem, tape, noise):
        return self._trace(problem, tape, noise.keys, noise.count, hard=False)

    def _trace(self, problem, tape, keys, n, hard):
        """Events (n, B, ...)."""
        spec, batch = problem.spec, problem.context[0].shape[0]
        rows, columns = problem.potentials[0].shape[1:]
        layout = Layout(rows, columns, spec.by_rows)
        results = [((batch, n, layout.steps + 1), "int32")]
        arrays = (*problem.potentials, *problem.context, *tape, keys)
        (places,) = native.call(self, "_walk", results, *arrays, static=(spec, hard))
        places = ops.reshape(ops.transpose(places, (2, 1, 0)), (-1, n * batch))
        event = events.encode(spec, layout, places)
        return ops.reshape(event, (n, batch, *event.shape[1:]))

    # On NumPy arrays ---------------------------------------------------------------------------

    def _forward(self, spec, hard, *arrays):
        run = _Run(spec, arrays)
        heads, ends, values, high, low = run.rest
        heads[:], ends[:] = 0.0, FORBIDDEN
        if spec.empty:
            ends[:, -1] = 0.0
        run.on_examples("forward", hard, heads, ends)
        values[:] = ends.max(1) if hard else _logsumexp(ends)
        high[:] = values
        low[:] = values - high

    def _backward(self, spec, *arrays):
        run = _Run(spec, arrays)
        (heads, _, values), marginals = run.rest[:3], run.rest[3:]
        run.on_examples("backward", heads, values, run.five(marginals))

    def _curvature(self, spec, *arrays):
        run = _Run(spec, arrays)
        (heads, _, values), count = run.rest[:3], len(spec.kinds)
        tangents, products = run.rest[3 : 3 + count], run.rest[3 + count :]
        run.on_examples("curvature", run.five(tangents), heads, values, run.five(products))

    def _walk(self, spec, hard, *arrays):
        run = _Run(spec, arrays)
        heads, ends, _, keys, places = run.rest
        places[:] = -1
        wide = run.dtype == np.float64
        ends = native.as_double(ends)
        run.on_examples("trace", spec.by_rows, heads, ends, hard, keys, wide, places)


class _Run:
    """The potentials and lengths that a call begins with, and the rest of its arrays."""

    def __init__(self, spec, arrays):
        count = len(spec.kinds)
        self.dtype = arrays[0].dtype
        self.batch = len(arrays[count])
        self.rows, columns = arrays[0].shape[1:]
        self.potentials = self.five(arrays[:count])
        self.plan = _plan(spec, self.rows, columns)
        lengths = np.stack(arrays[count : count + 2], axis=1)
        self.lengths = np.clip(lengths, 0, (self.rows, columns)).astype("uint64")
        self.cells = self.batch * self.rows * columns
        self.rest = arrays[count + 2 :]

    def five(self, arrays):
        """As the kernels take them, contiguous and as many for every structure."""
        from keras_struct.ops.alignment import strip_sweeps

        arrays = [np.require(x, self.dtype, ["C", "W"]) for x in arrays]
        missing = strip_sweeps.MOST_CHANNELS - len(arrays)
        return (*arrays, *[np.zeros((1, 1, 1), self.dtype)] * missing)

    def on_examples(self, name, *arguments):
        """Runs a kernel on all examples."""
        from keras_struct.ops.alignment import strip_sweeps

        kernel = getattr(strip_sweeps, name)
        arguments = self.lengths, self.potentials, *arguments
        native.on_examples(kernel, self.batch, self.cells, self.plan, *arguments)


@functools.lru_cache(maxsize=64)
def _plan(spec, rows, columns):
    from keras_struct.ops.alignment import strips

    return strips.plan(spec, rows, columns)


def _logsumexp(x):
    peak = x.max(1, keepdims=True)
    return np.log(np.exp(x - peak).sum(1)) + peak[:, 0]
