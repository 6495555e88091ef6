"""Matrix-Tree on the CPU, compiled by Numba, examples in parallel."""

from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_struct.ops import native


class Tape(NamedTuple):
    """Every sweep eliminates again, which takes less time than to write it down.

    Attributes:
        modes: The arithmetic of every example (B,), `FAST` or `EXACT` of `compiled.py`.
    """

    modes: Any


class SpanningTreeNative(native.NativeImplementation):
    def forward(self, problem, op):
        (scores,), (lengths,) = problem.potentials, problem.context
        batch = scores.shape[:1]
        results = [(batch, "int32")] + [(batch, native.dtype_of(scores))] * 2
        static = (problem.spec, op)
        modes, *pair = native.call(self, "_forward", results, scores, lengths, static=static)
        return tuple(pair), Tape(modes)

    def backward(self, problem, tape):
        return self.parts("_backward", problem, *tape)

    def curvature(self, problem, tape, tangents):
        return self.parts("_curvature", problem, *tape, *tangents)

    def trace(self, problem, tape, draws=None):
        keys = ops.zeros((problem.context[0].shape[0], 2), "int32")
        return self._trees(problem, keys, 1, False)[:, 0]

    def sample(self, problem, tape, noise):
        events = self._trees(problem, noise.keys, noise.count, True)
        return ops.swapaxes(events, 0, 1)

    def _trees(self, problem, keys, count, noisy):
        """Events (B, n, N)."""
        (scores,), (lengths,) = problem.potentials, problem.context
        batch, n, _ = scores.shape
        results, static = [((batch, count, n), "int32")], (problem.spec, noisy)
        return native.call(self, "_trace", results, scores, lengths, keys, static=static)[0]

    # On NumPy arrays ---------------------------------------------------------------------------

    def _forward(self, spec, op, scores, lengths, modes, high, low):
        from keras_struct.ops.compiled import EXACT
        from keras_struct.ops.spanning_tree import native_plain, native_scaled

        values = np.empty(len(scores))
        modes[:] = EXACT
        if op != "max":
            _run(native_plain.forward, spec.single_root, scores, lengths, modes, values)
        plan = spec.single_root, op == "max"
        if (modes == EXACT).any():
            _run(native_scaled.forward, plan, scores, lengths, modes, values)
        high[:] = values
        low[:] = values - high

    def _backward(self, spec, scores, lengths, modes, marginals):
        found = np.zeros(scores.shape)
        _run_both("backward", spec, scores, lengths, modes, found)
        marginals[:] = found

    def _curvature(self, spec, scores, lengths, modes, tangents, products):
        found = np.zeros(scores.shape)
        _run_both("curvature", spec, scores, lengths, modes, native.as_double(tangents), found)
        products[:] = found

    def _trace(self, spec, noisy, scores, lengths, keys, heads):
        from keras_struct.ops.spanning_tree.native_trace import trace

        double = scores.dtype == np.float64
        words = np.ascontiguousarray(keys, "int32").view("uint32").astype("uint64")
        _run(trace, (spec.single_root, noisy), scores, lengths, words, double, heads)


def _run_both(name, spec, scores, lengths, modes, *arguments):
    """Runs the kernels of this name that do the examples: the plain one, and the other."""
    from keras_struct.ops.compiled import EXACT, FAST
    from keras_struct.ops.spanning_tree import native_plain, native_scaled

    for module, mode in ((native_plain, FAST), (native_scaled, EXACT)):
        if (modes == mode).any():
            kernel = getattr(module, name)
            _run(kernel, spec.single_root, scores, lengths, modes, *arguments)


def _run(kernel, plan, scores, lengths, *arguments):
    """Runs a kernel on all examples."""
    batch, n, _ = scores.shape
    lengths = np.clip(lengths, 0, n).astype("uint64")
    cells = batch * n**3 // 64
    native.on_examples(kernel, batch, cells, plan, lengths, native.as_double(scores), *arguments)
