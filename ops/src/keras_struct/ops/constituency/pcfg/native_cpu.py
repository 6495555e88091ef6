"""PCFG on the CPU, compiled by Numba, examples in parallel (see `kernels.py`).

The tape: logarithms of the values by first and last word and symbol, (B, N N S), and the mode of
every example, (B,). Results have the dtype of the call.
"""

import dataclasses

import numpy as np

from keras_struct.ops import native
from keras_struct.ops.constituency.pcfg.portable import PCFGSweeps
from keras_struct.ops.native import rejects

__all__ = ["NativePCFGSweeps", "rejects", "sweeps"]


def sweeps(call):
    return NativePCFGSweeps()


@dataclasses.dataclass(frozen=True)
class NativePCFGSweeps(native.NativeSweeps, PCFGSweeps):
    @property
    def differentiable(self):
        return PCFGSweeps()

    def forward(self, potentials, context, op):
        _, terms, roots = potentials
        batch, n, preterminals = terms.shape
        symbols = roots.shape[1] + preterminals
        tape = ((batch, n * n * symbols), "float64"), ((batch,), "int32")
        value = (batch,), native.dtype_of(terms)
        *tape, value = native.call(
            self, "_inside", [*tape, value], *potentials, *context, static=(op == "max",)
        )
        return value, tuple(tape)

    def backward(self, potentials, context, tape):
        return self.parts("_backward", potentials, context, *tape)

    def curvature(self, potentials, context, tape, tangents):
        return self.parts("_curvature", potentials, context, *tape, *tangents)

    def trace(self, potentials, context, tape, noise):
        rules, terms, _ = potentials
        batch, n, _ = terms.shape
        k, symbols, _ = rules.shape[1:]
        draws = [noise((batch, k)), noise((batch, n, symbols**2)), noise((batch, n, n))]
        results = [((batch, n, n), "int32")]
        (event,) = native.call(self, "_trace", results, *potentials, *context, *tape, *draws)
        return event

    # On NumPy arrays ---------------------------------------------------------------------------

    def _inside(self, hard, rules, terms, roots, lengths, logs, modes, values):
        found = np.empty(len(terms))
        self._run("inside", (rules, terms, roots), lengths, hard, logs, modes, found)
        values[:] = found

    def _backward(self, rules, terms, roots, lengths, logs, modes, *results):
        nothing = np.empty((1, 1)), np.empty((1, 1, 1)), np.empty((1, 1))
        self._outside((rules, terms, roots), lengths, False, logs, modes, nothing, results)

    def _curvature(self, rules, terms, roots, lengths, logs, modes, *arrays):
        drules, dterms, droots, *results = arrays
        tangents = _flat(drules), native.as_double(dterms), native.as_double(droots)
        self._outside((rules, terms, roots), lengths, True, logs, modes, tangents, results)

    def _outside(self, potentials, lengths, rates, logs, modes, tangents, results):
        found = [np.zeros(x.shape) for x in results]
        rules, terms, roots = found
        flat = rules.reshape(len(rules), -1), terms, roots
        self._run("outside", potentials, lengths, rates, logs, modes, *tangents, *flat)
        for result, x in zip(results, found, strict=True):
            result[:] = x

    def _trace(self, rules, terms, roots, lengths, logs, modes, *arrays):
        *noise, event = arrays
        event[:] = -1
        draws = map(native.as_double, noise)
        self._run("trace", (rules, terms, roots), lengths, None, logs, modes, *draws, event)

    def _run(self, name, potentials, lengths, plan, *arguments):
        """Runs a kernel on all examples."""
        from keras_struct.ops.constituency.pcfg import kernels

        rules, terms, roots = potentials
        batch, n, _ = terms.shape
        k, symbols, _ = rules.shape[1:]
        lengths = np.clip(lengths, 0, n).astype("uint64")
        cells = batch * (n * symbols) ** 2 * (n + k) // 64
        potentials = _flat(rules), native.as_double(terms), native.as_double(roots)
        kernel = getattr(kernels, name)
        native.on_examples(kernel, batch, cells, plan, lengths, *potentials, *arguments)


def _flat(rules):
    return native.as_double(rules.reshape(len(rules), -1))
