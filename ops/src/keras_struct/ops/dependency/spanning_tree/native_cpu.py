"""Matrix-Tree on the CPU, compiled by Numba, examples in parallel.

The tape is the mode of every example, (B,): every sweep eliminates again, which takes less time
than to write it down. Results have the dtype of the call.
"""

import dataclasses

import numpy as np

from keras_struct.ops import array, native
from keras_struct.ops.dependency.spanning_tree.portable import SpanningTreeSweeps
from keras_struct.ops.labels import LabelledArcs
from keras_struct.ops.native import rejects

__all__ = ["NativeSpanningTreeSweeps", "rejects", "sweeps"]


def sweeps(call):
    trees = NativeSpanningTreeSweeps(call.option("single_root"))
    return LabelledArcs(trees) if call.option("labelled") else trees


@dataclasses.dataclass(frozen=True)
class NativeSpanningTreeSweeps(native.NativeSweeps, SpanningTreeSweeps):
    @property
    def differentiable(self):
        return SpanningTreeSweeps(self.single_root)

    def forward(self, potentials, context, op):
        batch = potentials[0].shape[:1]
        results = [(batch, native.dtype_of(potentials[0])), (batch, "int32")]
        value, modes = native.call(
            self, "_forward", results, *potentials, *context, static=(op == "max",)
        )
        return value, (modes,)

    def backward(self, potentials, context, tape):
        return self.parts("_backward", potentials, context, *tape)

    def curvature(self, potentials, context, tape, tangents):
        return self.parts("_curvature", potentials, context, *tape, *tangents)

    def trace(self, potentials, context, tape, noise):
        batch, n, _ = potentials[0].shape
        draws = [array.transpose(noise((n, batch, size)), (1, 0, 2)) for size in (n, n, n + 1)]
        results = [((batch, n), "int32")]
        (heads,) = native.call(self, "_trace", results, *potentials, *context, *tape, *draws)
        return heads

    # On NumPy arrays ---------------------------------------------------------------------------

    def _forward(self, hard, scores, lengths, values, modes):
        from keras_struct.ops.compiled import EXACT, HARD

        found = np.empty(len(scores))
        modes[:] = HARD if hard else EXACT
        self._run("forward", scores, lengths, modes, found)
        values[:] = found

    def _backward(self, scores, lengths, modes, marginals):
        found = np.zeros(scores.shape)
        self._run("backward", scores, lengths, modes, found)
        marginals[:] = found

    def _curvature(self, scores, lengths, modes, tangents, products):
        found = np.zeros(scores.shape)
        self._run("curvature", scores, lengths, modes, native.as_double(tangents), found)
        products[:] = found

    def _trace(self, scores, lengths, modes, *arrays):
        *noise, heads = arrays
        heads[:] = -1
        draws = [native.as_double(np.moveaxis(x, 0, 1)) for x in noise]
        self._run("trace", scores, lengths, modes, *draws, heads)

    def _run(self, name, scores, lengths, modes, *arguments):
        """Runs the kernels of this name: first the plain one, which says what it does, then the
        other, if anything is left."""
        from keras_struct.ops.compiled import FAST, HARD
        from keras_struct.ops.dependency.spanning_tree import kernels, plain_kernels

        batch, n, _ = scores.shape
        lengths = np.clip(lengths, 0, n).astype("uint64")
        cells = batch * n**3 // 64
        arguments = lengths, native.as_double(scores), modes, *arguments
        if name != "trace" and (modes != HARD).any():
            kernel = getattr(plain_kernels, name)
            native.on_examples(kernel, batch, cells, self.single_root, *arguments)
        if name == "trace" or (modes != FAST).any():
            kernel = getattr(kernels, name)
            native.on_examples(kernel, batch, cells, self.single_root, *arguments)
