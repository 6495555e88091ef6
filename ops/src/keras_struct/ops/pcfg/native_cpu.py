"""PCFG on the CPU, compiled by Numba, examples in parallel (see `native_inside.py`)."""

from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_struct.ops import native


class Tape(NamedTuple):
    """What inside leaves.

    Attributes:
        logs: Logarithms of the values by first and last word and symbol (B, N N S), float64.
        modes: The arithmetic of every example (B,), `FAST` or `EXACT` of `compiled.py`.
    """

    logs: Any
    modes: Any


class PCFGNative(native.NativeImplementation):
    def forward(self, problem, op):
        rules, terms, _ = problem.potentials
        batch, n, _ = terms.shape
        symbols, dtype = rules.shape[-1], native.dtype_of(terms)
        results = [((batch, n * n * symbols), "float64"), ((batch,), "int32")]
        results += [((batch,), dtype)] * 2
        arrays = *problem.potentials, *problem.context
        logs, modes, *pair = native.call(self, "_inside", results, *arrays, static=(op,))
        return tuple(pair), Tape(logs, modes)

    def backward(self, problem, tape):
        return self.parts("_backward", problem, *tape)

    def curvature(self, problem, tape, tangents):
        return self.parts("_curvature", problem, *tape, *tangents)

    def trace(self, problem, tape, draws=None):
        keys = ops.zeros((problem.context[0].shape[0], 2), "int32")
        return self._trees(problem, tape, keys, 1, False)[:, 0]

    def sample(self, problem, tape, noise):
        events = self._trees(problem, tape, noise.keys, noise.count, True)
        return ops.swapaxes(events, 0, 1)

    def _trees(self, problem, tape, keys, count, noisy):
        """Events (B, n, N, N)."""
        batch, n, _ = problem.potentials[1].shape
        results = [((batch, count, n, n), "int32")]
        arrays = *problem.potentials, *problem.context, tape.logs, keys
        return native.call(self, "_trace", results, *arrays, static=(noisy,))[0]

    # On NumPy arrays ---------------------------------------------------------------------------

    def _inside(self, op, rules, terms, roots, lengths, logs, modes, high, low):
        from keras_struct.ops.pcfg.native_inside import inside

        values = np.empty(len(terms))
        _run(inside, (rules, terms, roots), lengths, op == "max", logs, modes, values)
        high[:] = values
        low[:] = values - high

    def _backward(self, spec, rules, terms, roots, lengths, logs, modes, *results):
        nothing = np.empty((1, 1)), np.empty((1, 1, 1)), np.empty((1, 1))
        _outside((rules, terms, roots), lengths, False, logs, modes, nothing, results)

    def _curvature(self, spec, rules, terms, roots, lengths, logs, modes, *arrays):
        drules, dterms, droots, *results = arrays
        tangents = _flat(drules), native.as_double(dterms), native.as_double(droots)
        _outside((rules, terms, roots), lengths, True, logs, modes, tangents, results)

    def _trace(self, noisy, rules, terms, roots, lengths, logs, keys, events):
        from keras_struct.ops.pcfg.native_trace import trace

        double = terms.dtype == np.float64
        words = np.ascontiguousarray(keys, "int32").view("uint32").astype("uint64")
        _run(trace, (rules, terms, roots), lengths, noisy, logs, words, double, events)


def _outside(potentials, lengths, rates, logs, modes, tangents, results):
    from keras_struct.ops.pcfg.native_outside import outside

    found = [np.zeros(x.shape) for x in results]
    rules, terms, roots = found
    flat = _flat(rules), terms, roots
    _run(outside, potentials, lengths, rates, logs, modes, *tangents, *flat)
    for result, x in zip(results, found, strict=True):
        result[:] = x


def _run(kernel, potentials, lengths, plan, *arguments):
    """Runs a kernel on all examples."""
    rules, terms, roots = potentials
    batch, n, _ = terms.shape
    k, symbols, _ = rules.shape[1:]
    lengths = np.clip(lengths, 0, n).astype("uint64")
    cells = batch * (n * symbols) ** 2 * (n + k) // 64
    potentials = _flat(rules), native.as_double(terms), native.as_double(roots)
    native.on_examples(kernel, batch, cells, plan, lengths, *potentials, *arguments)


def _flat(rules):
    """(B, K, S, S) as (B, K S S)."""
    batch, k, symbols, _ = rules.shape
    return native.as_double(rules.reshape(batch, k * symbols**2))
