"""The strips of `strips.py` on the CPU, compiled by Numba, examples in parallel.

The tape: messages of the last rows of every strip, `heads` (B, K - 1, S, H, L2 + 1); log-weights of
the states in the corner where all paths end, else of the ends in each row and of the empty
structure, `ends` (B, E); the log-partition (B,); 1 for every example if the local operator was
"max". All of it is float64. The potentials and results have the dtype of the call.
"""

import functools

import numpy as np
from keras import ops

from keras_struct.ops.alignment import events
from keras_struct.ops.alignment.layout import Layout
from keras_struct.ops.alignment.wavefront import WavefrontSweeps
from keras_struct.ops.native import as_array, as_double, as_tensor, on_examples, rejects
from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE

__all__ = ["StripSweeps", "rejects", "sweeps"]


def sweeps(call):
    return StripSweeps(call.option("spec"))


class StripSweeps(WavefrontSweeps):
    traceable = False

    @property
    def differentiable(self):
        return WavefrontSweeps(self.spec)

    def forward(self, potentials, context, op):
        run = _Run(self.spec, potentials, context)
        heads, ends = run.new_tape()
        run.on_examples(run.strips.forward, run.potentials, op == "max", heads, ends)
        value = ends.max(1) if op == "max" else _logsumexp(ends)
        hard = np.full(len(value), float(op == "max"))
        log_partition = ops.convert_to_tensor(value, dtype=run.dtype)
        return log_partition, tuple(as_tensor(x) for x in (heads, ends, value, hard))

    def backward(self, potentials, context, tape):
        run = _Run(self.spec, potentials, context)
        heads, _, value, _ = map(as_double, tape)
        marginals = run.new_marginals()
        run.on_examples(run.strips.backward, run.potentials, heads, value, run.five(marginals))
        return marginals

    def curvature(self, potentials, context, tape, tangents):
        run = _Run(self.spec, potentials, context)
        heads, _, value, _ = map(as_double, tape)
        products = run.new_marginals()
        arguments = run.five(tangents), heads, value, run.five(products)
        run.on_examples(run.strips.curvature, run.potentials, *arguments)
        return products

    def trace(self, potentials, context, tape, noise):
        run = _Run(self.spec, potentials, context)
        heads, ends, value, hard = map(as_double, tape)
        end = (ends + as_array(noise(ends.shape))).argmax(1)
        if self.spec.end == "corner":
            end_noise = ops.zeros((run.batch, 1, 1))
        else:
            end = np.where(end > run.rows, -1, end)
            end_noise = noise((run.batch, run.columns + 1, self.spec.states))
        end = np.where(value > INFEASIBLE, end, -1)
        layout = Layout(run.rows, run.columns, self.spec.by_rows)
        steps = layout.steps + self.spec.window  # draws as those of the wavefront
        draws = noise((steps, run.batch, len(self.spec.moves)))
        places = np.full((run.batch, layout.steps + 1), -1, "int32")
        arguments = heads, hard, end, as_double(end_noise), as_double(draws), places
        run.on_examples(run.strips.trace, run.potentials, self.spec.by_rows, *arguments)
        return events.encode(self.spec, layout, ops.transpose(as_tensor(places)))


class _Run:
    """Potentials and lengths as NumPy arrays that share memory with the tensors."""

    def __init__(self, spec, potentials, context):
        from keras_struct.ops.alignment import strips

        self.spec, self.strips = spec, strips
        self.rows, self.columns = potentials[0].shape[1:]
        self.batch = context[0].shape[0]
        self.shapes = [tuple(x.shape[1:]) for x in potentials]
        self.dtype = as_array(potentials[0]).dtype.name
        self.potentials = self.five(potentials)
        self.plan = _plan(spec, self.columns)
        lengths = np.stack([as_array(x) for x in context[:2]], axis=1)
        self.lengths = np.clip(lengths, 0, (self.rows, self.columns)).astype("uint64")

    def five(self, tensors):
        """As the kernels take them, contiguous and as many for every structure."""
        arrays = [np.require(as_array(x), self.dtype, ["C", "W"]) for x in tensors]
        spare = np.zeros((1, 1, 1), self.dtype)
        return tuple(arrays + [spare] * (self.strips.MOST_CHANNELS - len(arrays)))

    def new_tape(self):
        states, strips = self.spec.states, self.rows // int(self.strips.LANES)
        ends = states if self.spec.end == "corner" else self.rows + 2
        ends = np.full((self.batch, ends), FORBIDDEN)
        if self.spec.empty:
            ends[:, -1] = 0.0
        shape = (self.batch, strips, states, int(self.plan.halo), self.columns + 1)
        return np.zeros(shape), ends

    def new_marginals(self):
        return tuple(ops.empty((self.batch, *shape), dtype=self.dtype) for shape in self.shapes)

    def on_examples(self, kernel, *arguments):
        """Runs a kernel on all examples."""
        cells = self.batch * self.rows * self.columns
        on_examples(kernel, self.batch, cells, self.plan, self.lengths, *arguments)


@functools.lru_cache(maxsize=64)
def _plan(spec, columns):
    from keras_struct.ops.alignment import strips

    return strips.plan(spec, columns)


def _logsumexp(x):
    peak = x.max(1, keepdims=True)
    return np.log(np.exp(x - peak).sum(1)) + peak[:, 0]
