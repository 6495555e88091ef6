"""The sweeps of `cpp/` for the structures that it knows; the strips do all others.

Messages are numbers with an exponent of 32 bits. An example whose scores could leave their range
(some ten million over all moves of a path) is left to the strips, one by one.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_struct.ops import cpp, native, numerics
from keras_struct.ops.alignment import events
from keras_struct.ops.alignment.layout import Layout
from keras_struct.ops.alignment.native_cpu import Strips
from keras_struct.ops.alignment.spec import DTW, MONOTONIC, START, alignment

# Moves of the structures of `with_structure` in `cpp/lattice.cpp`, whose slots are the channels
# here. The last one has slots of its own for a gap that follows one in the other sequence.
PAIRS = True, True
_CROSSING = {(2, 1): 5, (1, 2): 6}
KERNELS = (
    alignment("global", False, "any", PAIRS).moves,
    DTW.moves,
    MONOTONIC.moves,
    alignment("local", False, "any", PAIRS).moves,
    tuple(
        dataclasses.replace(m, channel=_CROSSING.get((m.source, m.target), m.channel))
        for m in alignment("local", True, "any", PAIRS).moves
    ),
)
WHERE = "corner", "border", "anywhere"
FORBIDDEN = -1  # in place of a channel: no path may use the moves of a slot
FORWARD, BACKWARD, CURVATURE = 0, 1, 2
TRACE = 1  # of best paths


class Tape(NamedTuple):
    """What the forward sweep leaves behind.

    Attributes:
        heads: Mantissas and exponents, as integers of the size of the scores, of the messages in
            the last row of every strip but the last, (B, K - 1, S, 2, L2 + 1).
        total: Mantissa and exponent of the sum over all paths, (B, 2), in float64: of a large
            log-partition float64 would not hold the digits after the point, which weights need.
        outside: Whether the range was too small, (B,), int32.
    """

    heads: Any
    total: Any
    outside: Any


class BestTape(NamedTuple):
    """What the sweep for best paths leaves behind.

    Attributes:
        heads: Scores of the best paths to the last row of every strip but the last,
            (B, K - 1, S, L2 + 1), in float64.
        last: Row, column and state where the best path ends, (B, 3), int32; -1 for none.
    """

    heads: Any
    last: Any


class AlignmentNative(Strips):
    def forward(self, problem, op):
        kernel = kernel_of(problem)
        if kernel is None:
            return super().forward(problem, op)
        return self._best(problem, kernel) if op == "max" else self._sums(problem, kernel)

    def _sums(self, problem, kernel):
        batch, dtype = problem.context[0].shape[0], native.dtype_of(problem.potentials[0])
        rows, columns = problem.potentials[0].shape[1:]
        heads = (batch, kernel.strips(rows, dtype) - 1, kernel.states, 2, columns + 1)
        words = "int64" if dtype == "float64" else "int32"
        tape = [heads, (batch, 2), (batch,)], [words, "float64", "int32"]
        results = [*zip(*tape, strict=True), *[((batch,), dtype)] * 2]
        arrays = (*problem.potentials, *problem.context)
        *tape, high, low = native.call(
            self, "_forward_cpp", results, *arrays, static=(problem.spec,)
        )
        return (high, low), Tape(*tape)

    def backward(self, problem, tape):
        if not isinstance(tape, Tape):
            return super().backward(problem, tape)
        return self.parts("_backward_cpp", problem, *tape)

    def curvature(self, problem, tape, tangents):
        if not isinstance(tape, Tape):
            return super().curvature(problem, tape, tangents)
        return self.parts("_curvature_cpp", problem, *tape, *tangents)

    def _best(self, problem, kernel):
        batch, dtype = problem.context[0].shape[0], native.dtype_of(problem.potentials[0])
        rows, columns = problem.potentials[0].shape[1:]
        heads = (batch, kernel.strips(rows, dtype, best=True) - 1, kernel.states, columns + 1)
        results = [(heads, "float64"), ((batch, 3), "int32"), *[((batch,), dtype)] * 2]
        arrays = (*problem.potentials, *problem.context)
        *tape, high, low = native.call(
            self, "_forward_best", results, *arrays, static=(problem.spec,)
        )
        return (high, low), BestTape(*tape)

    def trace(self, problem, tape, draws=None):
        if not isinstance(tape, BestTape):
            return super().trace(problem, tape, draws)
        arrays = (*problem.potentials, *problem.context, *tape)
        rows, columns = problem.potentials[0].shape[1:]
        layout = Layout(rows, columns, problem.spec.by_rows)
        results = [((problem.context[0].shape[0], layout.steps + 1), "int32")]
        (places,) = native.call(self, "_trace_best", results, *arrays, static=(problem.spec,))
        return events.encode(problem.spec, layout, ops.transpose(places))

    def sample(self, problem, tape, noise):
        return super().sample(problem, self._strips(problem, tape), noise)

    def _strips(self, problem, tape):
        """The tape of the strips."""
        return super().forward(problem, "logsumexp")[1] if isinstance(tape, Tape) else tape

    # On NumPy arrays ---------------------------------------------------------------------------

    def _forward_cpp(self, spec, *arrays):
        sweep = _Sweep(spec, arrays)
        heads, totals, outside, high, low = sweep.rest
        sweep.run(FORWARD, heads, totals, outside)
        exists = totals[:, 0] > 0
        values = np.log(np.where(exists, totals[:, 0], 1.0)) + np.log(2.0) * totals[:, 1]
        values[~exists] = numerics.FORBIDDEN
        for example in np.flatnonzero(outside):
            values[example] = sweep.strips(example, self._exact_value)
        high[:] = values
        low[:] = values - high

    def _backward_cpp(self, spec, *arrays):
        sweep = _Sweep(spec, arrays)
        heads, totals, outside, *marginals = sweep.rest
        sweep.run(BACKWARD, heads, totals, outside, marginals)
        for example in np.flatnonzero(outside):
            exact = sweep.strips(example, self._exact_marginals)
            for whole, found in zip(marginals, exact, strict=True):
                whole[example] = found[0]

    def _curvature_cpp(self, spec, *arrays):
        sweep = _Sweep(spec, arrays)
        heads, totals, outside, *rest = sweep.rest
        tangents, products = rest[: len(spec.kinds)], rest[len(spec.kinds) :]
        sweep.run(CURVATURE, heads, totals, outside, products, tangents)
        for example in np.flatnonzero(outside):
            one = [x[example : example + 1] for x in tangents]
            exact = sweep.strips(example, functools.partial(self._exact_products, one))
            for whole, found in zip(products, exact, strict=True):
                whole[example] = found[0]

    def _forward_best(self, spec, *arrays):
        sweep = _Sweep(spec, arrays)
        heads, last, high, low = sweep.rest
        values = np.empty(len(high))
        sweep.run_best(FORWARD, heads, last, values=values)
        high[:] = values
        low[:] = values - high

    def _trace_best(self, spec, *arrays):
        sweep = _Sweep(spec, arrays)
        heads, last, places = sweep.rest
        sweep.run_best(TRACE, heads, last, places=places)

    def _exact_value(self, spec, *arrays):
        return self._exact_tape(spec, *arrays)[2][0]

    def _exact_marginals(self, spec, *arrays):
        found = [np.empty((1, *x.shape[1:]), x.dtype) for x in arrays[: len(spec.kinds)]]
        self._backward(spec, *arrays, *self._exact_tape(spec, *arrays), *found)
        return found

    def _exact_products(self, tangents, spec, *arrays):
        found = [np.empty((1, *x.shape[1:]), x.dtype) for x in arrays[: len(spec.kinds)]]
        self._curvature(spec, *arrays, *self._exact_tape(spec, *arrays), *tangents, *found)
        return found

    def _exact_tape(self, spec, *arrays):
        shapes = self.tape_shapes(spec, *arrays[0].shape[1:])
        tape = [np.empty((1, *shape)) for shape in shapes]
        self._forward(spec, False, *arrays, *tape, np.empty(1), np.empty(1))
        return tape


class Kernel(NamedTuple):
    """A structure of the library for a spec.

    Attributes:
        number: Its place in `KERNELS`.
        slots: The canonical potential of each of its slots, None for a score of 0, or `FORBIDDEN`.
    """

    number: int
    slots: tuple

    @property
    def states(self):
        return 1 + max(move.target for move in KERNELS[self.number])

    def strips(self, rows, dtype, best=False):
        count = cpp.library("lattice").best_rows if best else cpp.library("lattice").lattice_rows
        return rows // count(self.number, dtype == "float64") + 1


def kernel_of(problem):
    """The `Kernel` for a problem, or None where the strips do it."""
    found = _kernel(problem.spec)
    shapes = [tuple(x.shape[1:]) for x in problem.potentials]
    shared = all(
        shape[1] == 1
        for kind, shape in zip(problem.spec.kinds, shapes, strict=True)
        if kind == "gap"
    )
    return found if shared and all(shapes[0]) else None


@functools.cache
def _kernel(spec):
    if cpp.library("lattice") is None:
        return None
    for number, known in enumerate(KERNELS):
        slots = _slots(known, spec)
        if slots is not None:
            return Kernel(number, slots)
    return None


def _slots(known, spec):
    """The channel of `spec` for every slot of known moves, or None if they cannot be its moves."""
    if spec.jumps or spec.states != 1 + max(move.target for move in known):
        return None
    channels = {(m.source, m.target, m.di, m.dj): m.channel for m in spec.moves}
    slots: dict[int, int | None] = {}
    for m in known:
        channel = channels.pop((m.source, m.target, m.di, m.dj), FORBIDDEN)
        if m.source == START and spec.start != "anywhere":
            continue
        if slots.setdefault(m.channel, channel) != channel:
            return None
    kinds = [
        "gap" if slots[k] in (None, FORBIDDEN) else spec.kinds[slots[k]] for k in sorted(slots)
    ]
    if channels or kinds != ["cell"] + ["gap"] * (len(slots) - 1):
        return None
    return tuple(slots[k] for k in sorted(slots))


class _Sweep:
    """The potentials and lengths that a call begins with, and the rest of its arrays."""

    def __init__(self, spec, arrays):
        count = len(spec.kinds)
        self.spec, self.kernel = spec, _kernel(spec)
        self.potentials = [np.require(x, requirements=["C"]) for x in arrays[:count]]
        self.context = arrays[count : count + 2]
        self.rest = arrays[count + 2 :]
        lengths = np.stack(self.context, axis=1)
        self.lengths = np.clip(lengths, 0, self.potentials[0].shape[1:]).astype("int32")
        self.wide = self.potentials[0].dtype == np.float64
        self.used = []

    def run(self, sweep, heads, totals, outside, results=None, tangents=None):
        """One sweep over all examples within range; `heads`, `totals` and `outside` are read, or
        filled by the forward sweep."""
        call = self._call(sweep, results, tangents, heads=heads, totals=totals, outside=outside)
        cpp.library("lattice").lattice(cpp.byref(call), self.kernel.number, self.wide)

    def run_best(self, sweep, heads, last, values=None, places=None):
        """The best paths: `heads`, `last` and `values`, or their `places` (B, times)."""
        call = self._call(sweep, heads=heads, last=last, values=values, places=places)
        call.by_rows = self.spec.by_rows
        call.times = 0 if places is None else places.shape[1]
        cpp.library("lattice").best(cpp.byref(call), self.kernel.number, self.wide)

    def _call(self, sweep, results=None, tangents=None, **arrays):
        cells, batch = self.potentials[0], len(self.lengths)
        rows, columns = cells.shape[1:]
        small = batch * rows * columns <= 4 * native.SMALL
        call = cpp.Call(batch, rows, columns, 1 if small else cpp.threads())
        call.strips = self.kernel.strips(rows, cells.dtype, best="last" in arrays)
        call.sweep = sweep
        call.start, call.end = WHERE.index(self.spec.start), WHERE.index(self.spec.end)
        call.empty = self.spec.empty
        for name, x in {"lengths": self.lengths, **arrays}.items():
            if x is not None:
                setattr(call, name, self._address(x))
        for slot, channel in enumerate(self.kernel.slots):
            if channel == FORBIDDEN:
                call.forbidden |= 1 << slot
            if channel in (None, FORBIDDEN):
                continue
            x = self.potentials[channel]
            call.data[slot] = self._address(x)
            call.strides[slot][0] = x[0].size if len(x) > 1 else 0
            call.strides[slot][1] = x.shape[2] if x.shape[1] > 1 else 0
            if results is not None:
                call.results[slot] = self._address(results[channel])
                call.result_strides[slot] = x[0].size
            if tangents is not None:
                call.tangents[slot] = self._address(np.asarray(tangents[channel], x.dtype))
        return call

    def _address(self, x):
        """Of a contiguous array, which lives as long as the sweep."""
        self.used.append(np.require(x, requirements=["C"]))
        return self.used[-1].ctypes.data

    def strips(self, example, function):
        """`function(spec, *arrays)` for one example."""
        one = [x[example : example + 1] if len(x) > 1 else x for x in self.potentials]
        return function(self.spec, *one, *(x[example : example + 1] for x in self.context))
