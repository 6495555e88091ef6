"""The sweeps of `cpp/` over time: chains on the CPU, examples in parallel.

An example is multiplied as plain numbers where none of its sums is too small for that, which the
forward sweep tests; else its messages are pairs in log space, in float64.
"""

from typing import Any, NamedTuple

import numpy as np

from keras_struct.ops import cpp, native
from keras_struct.ops.chain.linear_chain import LinearChainSpec
from keras_struct.ops.native import NativeImplementation

VALUE, MARGINALS, PRODUCTS, BEST, EVENTS = range(5)  # as in `cpp/chain.cpp`
SCALED, EXACT, IMPOSSIBLE = range(3)  # as in `cpp/scaled_chain.h`
TAPE, RESULTS = "sums shifts kinds", "of_unary of_transitions"


class Tape(NamedTuple):
    """What the forward sweep leaves behind.

    Attributes:
        sums: Sums over all prefixes before each tag of the next position, (B, N, K); of examples
            that are `SCALED`.
        shifts: The unit of each position, (B, N, 2): the score that the weights of its tags are
            over, and a power of two.
        kinds: How an example is computed, (B,), int32.
    """

    sums: Any
    shifts: Any
    kinds: Any


class BestTape(NamedTuple):
    """What the sweep for best sequences leaves behind.

    Attributes:
        scores: Of the best prefixes by their last tag, (B, N, K), in float64.
    """

    scores: Any


class ChainNative(NativeImplementation):
    samples = False

    def rejects(self, call):
        if not isinstance(call.spec, LinearChainSpec):
            return f"it has no {call.op}"
        return super().rejects(call)

    def missing(self):
        if cpp.library("chain") is None:
            return "there is no library of C++ kernels for this processor"
        return None

    def forward(self, problem, op):
        unary = problem.potentials[0]
        shape, dtype = tuple(unary.shape), native.dtype_of(unary)
        ends = [(shape[:1], dtype)] * 2
        arrays = (*problem.potentials, *problem.context)
        if op == "max":
            results = [(shape, "float64"), *ends]
            scores, high, low = native.call(self, "_best", results, *arrays, static=(problem.spec,))
            return (high, low), BestTape(scores)
        tape = [(shape, dtype), ((*shape[:2], 2), dtype), (shape[:1], "int32")]
        results = [*tape, *ends]
        *tape, high, low = native.call(self, "_value", results, *arrays, static=(problem.spec,))
        return (high, low), Tape(*tape)

    def backward(self, problem, tape):
        return self.parts("_marginals", problem, *tape)

    def curvature(self, problem, tape, tangents):
        return self.parts("_products", problem, *tape, *tangents)

    def trace(self, problem, tape, draws=None):
        arrays = (*problem.potentials, *problem.context, *tape)
        results = [(tuple(problem.potentials[0].shape[:2]), "int32")]
        (events,) = native.call(self, "_events", results, *arrays, static=(problem.spec,))
        return events

    # On NumPy arrays ---------------------------------------------------------------------------

    def _value(self, spec, *arrays):
        _run(VALUE, spec, arrays, TAPE, "high low")

    def _marginals(self, spec, *arrays):
        _run(MARGINALS, spec, arrays, TAPE, RESULTS)

    def _products(self, spec, *arrays):
        _run(PRODUCTS, spec, arrays, TAPE, "unary_tangent transitions_tangent", RESULTS)

    def _best(self, spec, *arrays):
        _run(BEST, spec, arrays, "sums high low")

    def _events(self, spec, *arrays):
        _run(EVENTS, spec, arrays, "sums events")


def _run(sweep, spec, arrays, *names):
    """One sweep over arrays, of which the first are the potentials and the lengths."""
    every = " ".join(("unary transitions lengths", *names)).split()
    given = dict(zip(every, arrays, strict=True))
    unary, transitions = arrays[:2]
    batch, steps, tags = unary.shape
    wide = unary.dtype == np.float64
    small = batch * steps * tags * max(tags, 16) <= 4 * native.SMALL
    call = cpp.ChainCall(batch, steps, tags, 1 if small else cpp.threads(), sweep)
    call.over_time = spec.over_time
    call.stride = transitions[0].size if len(transitions) > 1 else 0
    given["lengths"] = np.clip(given["lengths"], 0, steps).astype("int32")
    used = []  # lives as long as the sweep
    for name, x in given.items():
        if name.endswith("_tangent"):
            x = np.asarray(x, unary.dtype)
        used.append(np.require(x, requirements=["C"]))
        setattr(call, name, used[-1].ctypes.data)
    cpp.library("chain").chain(cpp.byref(call), wide)
