"""Charts on the CPU, compiled by Numba, examples in parallel.

The tape: items (B, K (N + 1)^2) and products (B, P (N + 1)^2) by start and width, and the
log-partition (B,), all in log space and float64. Results have the dtype of the call.
"""

import functools

import numpy as np
from keras import ops

from keras_struct.ops.chart.sweeps import ChartSweeps
from keras_struct.ops.native import as_array, as_double, as_tensor, on_examples


class NativeChartSweeps(ChartSweeps):
    """In front of a subclass of `ChartSweeps` without scored products."""

    traceable = False

    def forward(self, potentials, context, op):
        run = _Run(self, potentials, context)
        items, products = len(self.spec.items), len(self.spec.products)
        cells = (run.n + 1) ** 2
        shapes = (run.batch, items * cells), (run.batch, products * cells), (run.batch,)
        tape = tuple(map(np.empty, shapes))
        run(run.kernels.inside, run.by_item(potentials), op == "max", *tape)
        log_partition = ops.convert_to_tensor(tape[-1], dtype=run.dtype)
        return log_partition, tuple(map(as_tensor, tape))

    def backward(self, potentials, context, tape):
        run = _Run(self, potentials, context)
        marginals = run.new()
        run(run.kernels.outside, *run.read(tape), marginals)
        return run.by_part(marginals)

    def curvature(self, potentials, context, tape, tangents):
        run = _Run(self, potentials, context)
        products = run.new()
        run(run.kernels.curvature, *run.read(tape), run.by_item(tangents), products)
        return run.by_part(products)

    def trace(self, potentials, context, tape, noise):
        run = _Run(self, potentials, context)
        shape = (run.batch, run.n, 2 * run.n)
        draws = np.stack([as_double(noise(shape)) for _ in self.spec.products])
        used = run.new("bool")
        run(run.kernels.trace, *run.read(tape), draws, used)
        return self.event([as_tensor(used[:, k]) for k in self.spec.scored])


class _Run:
    def __init__(self, sweeps, potentials, context):
        from keras_struct.ops.chart import kernels

        self.sweeps, self.kernels, self.spec = sweeps, kernels, sweeps.spec
        first, (lengths,) = potentials[0], context
        self.batch, self.n = lengths.shape[0], first.shape[1]
        self.dtype = as_array(first).dtype.name
        self.lengths = np.clip(as_array(lengths), 0, self.n).astype("uint64")

    def __call__(self, kernel, *arguments):
        """Runs a kernel on all examples."""
        cells = self.batch * self.n**3 // 64
        on_examples(kernel, self.batch, cells, _plan(self.spec, self.n), self.lengths, *arguments)

    def new(self, dtype="float64"):
        return np.zeros((self.batch, len(self.spec.items), self.n, self.n), dtype)

    def by_item(self, potentials):
        """(B, K, N, N): scores by item, width and start; 0 for items without."""
        found = self.new()
        for k, x in zip(self.spec.scored, self.sweeps.by_width(potentials)[0], strict=True):
            found[:, k] = as_array(x)
        return found

    def by_part(self, items):
        items = [ops.convert_to_tensor(items[:, k], dtype=self.dtype) for k in self.spec.scored]
        return self.sweeps.by_part(items, [])

    def read(self, tape):
        x, z, values = map(as_double, tape)
        return values, x, z


@functools.lru_cache(maxsize=64)
def _plan(spec, n):
    from keras_struct.ops.chart import kernels

    return kernels.plan(spec, n)
