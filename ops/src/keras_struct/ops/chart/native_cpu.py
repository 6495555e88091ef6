"""Charts on the CPU, compiled by Numba, examples in parallel.

The tape, see `kernels.py`: items (B, K cells), products (B, P cells), slopes (B, 2), and the
log-partition (B,), all in float64. Results have the dtype of the call.
"""

import functools

import numpy as np

from keras_struct.ops import native
from keras_struct.ops.chart.sweeps import ChartSweeps


class NativeChartSweeps(native.NativeSweeps, ChartSweeps):
    """In front of a subclass of `ChartSweeps` of one potential (B, N, N) and no scored products."""

    def places(self, n):
        """Where in a flat (N, N) the scores of every scored item are, at [w - 1, i]; else -1."""
        raise NotImplementedError

    def forward(self, potentials, context, op):
        batch, n = context[0].shape[0], potentials[0].shape[1]
        items, products = len(self.spec.items), len(self.spec.products)
        cells = (n + 1) * (n + 2) // 2
        shapes = (items * cells,), (products * cells,), (2,), ()
        results = [((batch, *shape), "float64") for shape in shapes]
        value = ((batch,), native.dtype_of(potentials[0]))
        *tape, log_partition = native.call(
            self, "_inside", [*results, value], *potentials, *context, static=(op,)
        )
        return log_partition, tuple(tape)

    def backward(self, potentials, context, tape):
        return self.parts("_outside", potentials, context, *tape)

    def curvature(self, potentials, context, tape, tangents):
        return self.parts("_curvature", potentials, context, *tape, *tangents)

    def trace(self, potentials, context, tape, noise):
        batch, n = context[0].shape[0], potentials[0].shape[1]
        draws = [noise((batch, n, 2 * n)) for _ in self.spec.products]
        used = self.parts("_trace", potentials, context, *tape, *draws, dtype="int32")
        return self.event(used)

    # On NumPy arrays ---------------------------------------------------------------------------

    def _inside(self, op, scores, lengths, *results):
        *tape, log_partition = results
        self._run("inside", lengths, scores.shape[1], _flat(scores), op == "max", *tape)
        log_partition[:] = tape[-1]

    def _outside(self, scores, lengths, *arrays):
        *tape, marginals = arrays
        self._write(marginals, "outside", lengths, *tape)

    def _curvature(self, scores, lengths, *arrays):
        *tape, tangents, products = arrays
        self._write(products, "curvature", lengths, *tape, _flat(tangents))

    def _trace(self, scores, lengths, items, products, slopes, values, *arrays):
        *noise, used = arrays
        draws = native.as_double(np.stack(noise))
        self._write(used, "trace", lengths, items, slopes, values, draws)

    def _write(self, result, kernel, lengths, *arguments):
        found = np.zeros((len(lengths), result[0].size), "float64")
        self._run(kernel, lengths, result.shape[1], *arguments, found)
        result[:] = found.reshape(result.shape)

    def _run(self, kernel, lengths, n, *arguments):
        """Runs a kernel on all examples."""
        from keras_struct.ops.chart import kernels

        lengths = np.clip(lengths, 0, n).astype("uint64")
        cells = len(lengths) * n**3 // 64
        function = getattr(kernels, kernel)
        native.on_examples(function, len(lengths), cells, _plan(self, n), lengths, *arguments)


def _flat(scores):
    return native.as_double(scores.reshape(len(scores), -1))


def places_of_spans(n):
    """Where span (i, j) of an array (N, N) is, at [w - 1, i]; -1 where there is none."""
    start, end, exists = ends_by_width(n)
    return np.where(exists, start * n + end, -1)


def ends_by_width(n):
    """First and last position of the spans at [w - 1, i], and which there are."""
    last, start = np.indices((n, n))
    last += start
    return start, last, last < n


@functools.lru_cache(maxsize=64)
def _plan(sweeps, n):
    from keras_struct.ops.chart import kernels

    return kernels.plan(sweeps.spec, sweeps.places(n))
