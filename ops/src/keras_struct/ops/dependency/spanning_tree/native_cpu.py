"""Matrix-Tree on the CPU, compiled by Numba, examples in parallel.

The tape says whether sums were maxima, (B,): every sweep eliminates again, which takes less time
than to write it down. Results have the dtype of the call.
"""

import dataclasses

import numpy as np
from keras import ops

from keras_struct.ops.dependency.spanning_tree.portable import SpanningTreeSweeps
from keras_struct.ops.labels import LabelledArcs
from keras_struct.ops.native import as_array, as_double, as_tensor, on_examples, rejects

__all__ = ["NativeSpanningTreeSweeps", "rejects", "sweeps"]


def sweeps(call):
    trees = NativeSpanningTreeSweeps(call.option("single_root"))
    return LabelledArcs(trees) if call.option("labelled") else trees


@dataclasses.dataclass(frozen=True)
class NativeSpanningTreeSweeps(SpanningTreeSweeps):
    traceable = False

    @property
    def differentiable(self):
        return SpanningTreeSweeps(self.single_root)

    def forward(self, potentials, context, op):
        values = np.empty(potentials[0].shape[0])
        self._run("forward", potentials, context, op == "max", values)
        hard = np.full(len(values), op == "max", "int32")
        return _like(values, potentials), (as_tensor(hard),)

    def backward(self, potentials, context, tape):
        marginals = np.zeros(potentials[0].shape)
        self._run("backward", potentials, context, marginals)
        return (_like(marginals, potentials),)

    def curvature(self, potentials, context, tape, tangents):
        products = np.zeros(potentials[0].shape)
        self._run("curvature", potentials, context, as_double(tangents[0]), products)
        return (_like(products, potentials),)

    def trace(self, potentials, context, tape, noise):
        batch, n, _ = potentials[0].shape
        draws = (as_double(noise((n, batch, size))) for size in (n, n, n + 1))
        heads = np.full((batch, n), -1, "int32")
        self._run("trace", potentials, context, as_array(tape[0]), *draws, heads)
        return as_tensor(heads)

    def _run(self, name, potentials, context, *arguments):
        """Runs a kernel on all examples."""
        from keras_struct.ops.dependency.spanning_tree import kernels

        scores = as_double(potentials[0])
        batch, n, _ = scores.shape
        lengths = np.clip(as_array(context[0]), 0, n).astype("uint64")
        cells = batch * n**3 // 64
        kernel = getattr(kernels, name)
        on_examples(kernel, batch, cells, self.single_root, lengths, scores, *arguments)


def _like(x, potentials):
    return ops.convert_to_tensor(x, dtype=as_array(potentials[0]).dtype.name)
