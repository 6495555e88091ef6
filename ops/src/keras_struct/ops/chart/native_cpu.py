"""Charts on the CPU, compiled by Numba, examples in parallel."""

import functools
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_struct.ops import native


class Tape(NamedTuple):
    """What `native_plan.py` names, in float64.

    Attributes:
        items: By start and width (B, K cells).
        products: By width and start (B, P cells).
        slopes: And whether there is one (B, 2).
        values: The log-partition (B,).
    """

    items: Any
    products: Any
    slopes: Any
    values: Any


class ChartNative(native.NativeImplementation):
    """The spec of a structure has one potential (B, N, N), and besides what `portable` needs

    `places(n)`: where in a flat (N, N) the scores of every scored item are, at [w - 1, i]; else -1;
    `marks`: what an event says about the scored parts, one of `native_trace.MARKS`.
    """

    def rejects(self, call):
        if any(product.scored for product in call.spec.chart.products):
            return "it has no scores of splits"
        return super().rejects(call)

    def forward(self, problem, op):
        (scores,), (lengths,), chart = problem.potentials, problem.context, problem.spec.chart
        batch, n, _ = scores.shape
        cells = (n + 1) * (n + 2) // 2
        shapes = (len(chart.items) * cells,), (len(chart.products) * cells,), (2,), ()
        results = [((batch, *shape), "float64") for shape in shapes]
        results += [((batch,), native.dtype_of(scores))] * 2
        static = (problem.spec, op)
        found = native.call(self, "_inside", results, scores, lengths, static=static)
        return found[4:], Tape(*found[:4])

    def backward(self, problem, tape):
        return self.parts("_outside", problem, *tape)

    def curvature(self, problem, tape, tangents):
        return self.parts("_curvature", problem, *tape, *tangents)

    def trace(self, problem, tape, draws=None):
        batch = problem.context[0].shape[0]
        keys = ops.zeros((batch, 2), "int32")
        return self._structures(problem, tape, keys, 1, False)[:, 0]

    def sample(self, problem, tape, noise):
        events = self._structures(problem, tape, noise.keys, noise.count, True)
        return ops.swapaxes(events, 0, 1)

    def _structures(self, problem, tape, keys, count, noisy):
        """Events (B, n, ...)."""
        scores, (lengths,) = problem.potentials[0], problem.context
        batch, n, _ = scores.shape
        event = (n, n) if problem.spec.marks == "spans" else (n,)
        results = [((batch, count, *event), "int32")]
        static = (problem.spec, n, noisy, native.dtype_of(scores) == "float64")
        arrays = (lengths, tape.items, tape.slopes, tape.values, keys)
        return native.call(self, "_trace", results, *arrays, static=static)[0]

    # On NumPy arrays ---------------------------------------------------------------------------

    def _inside(self, spec, op, scores, lengths, *results):
        from keras_struct.ops.chart.native_inside import inside

        *tape, high, low = results
        _run(inside, spec, lengths, scores.shape[1], _flat(scores), op == "max", *tape)
        high[:] = tape[-1]
        low[:] = tape[-1] - high

    def _outside(self, spec, scores, lengths, *arrays):
        from keras_struct.ops.chart.native_outside import outside

        *tape, marginals = arrays
        _write(marginals, outside, spec, lengths, *tape)

    def _curvature(self, spec, scores, lengths, *arrays):
        from keras_struct.ops.chart.native_curvature import curvature

        *tape, tangents, products = arrays
        _write(products, curvature, spec, lengths, *tape, _flat(tangents))

    def _trace(self, spec, n, noisy, double, lengths, items, slopes, values, keys, events):
        from keras_struct.ops.chart.native_trace import MARKS, trace

        words = np.ascontiguousarray(keys, "int32").view("uint32").astype("uint64")
        found = np.empty((*events.shape[:2], events[0, 0].size if events.size else 0), "int32")
        arguments = items, slopes, values, words, noisy, double, MARKS.index(spec.marks), found
        _run(trace, spec, lengths, n, *arguments)
        events[:] = found.reshape(events.shape)


def _write(result, kernel, spec, lengths, *arguments):
    batch, n, _ = result.shape
    found = np.zeros((batch, n * n), "float64")
    _run(kernel, spec, lengths, n, *arguments, found)
    result[:] = found.reshape(result.shape)


def _run(kernel, spec, lengths, n, *arguments):
    """Runs a kernel on all examples."""
    lengths = np.clip(lengths, 0, n).astype("uint64")
    cells = len(lengths) * n**3 // 64
    native.on_examples(kernel, len(lengths), cells, _plan(spec, n), lengths, *arguments)


def _flat(scores):
    batch, n, _ = scores.shape
    return native.as_double(scores.reshape(batch, n * n))


@functools.lru_cache(maxsize=64)
def _plan(spec, n):
    from keras_struct.ops.chart.native_plan import plan

    return plan(spec.chart, spec.places(n))
