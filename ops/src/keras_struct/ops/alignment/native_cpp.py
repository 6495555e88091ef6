"""The sweeps of `cpp/lattice.h` for the structures that it knows; the strips do all others.

Messages are numbers with an exponent of 32 bits. An example whose scores could leave their range
(some ten million over all moves of a path) is left to the strips, one by one.
"""

import functools
from typing import Any, NamedTuple

import numpy as np

from keras_struct.ops import cpp, native
from keras_struct.ops.alignment.native_cpu import Strips
from keras_struct.ops.alignment.spec import DTW, alignment

# Structures of `with_structure` in `cpp/lattice.cpp`, whose slots are the channels here.
KERNELS = (
    alignment("global", False, "any", (True, True)),
    DTW,
    alignment("local", False, "any", (True, True)),
)
FORWARD, BACKWARD = 0, 1


class Tape(NamedTuple):
    """What the forward sweep leaves behind.

    Attributes:
        heads: Mantissas and exponents, as integers of the size of the scores, of the messages in
            the last row of every strip but the last, (B, K - 1, S, 2, L2 + 1).
        value: The log-partition (B,), in float64.
        outside: Whether the range was too small, (B,), int32.
    """

    heads: Any
    value: Any
    outside: Any


class AlignmentNative(Strips):
    def forward(self, problem, op):
        kernel = kernel_of(problem) if op == "logsumexp" else None
        if kernel is None:
            return super().forward(problem, op)
        batch, dtype = problem.context[0].shape[0], native.dtype_of(problem.potentials[0])
        rows, columns = problem.potentials[0].shape[1:]
        heads = (batch, kernel.strips(rows, dtype) - 1, kernel.states, 2, columns + 1)
        words = "int64" if dtype == "float64" else "int32"
        tape = [heads, (batch,), (batch,)], [words, "float64", "int32"]
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
        return super().curvature(problem, self._strips(problem, tape), tangents)

    def sample(self, problem, tape, noise):
        return super().sample(problem, self._strips(problem, tape), noise)

    def _strips(self, problem, tape):
        """The tape of the strips."""
        return super().forward(problem, "logsumexp")[1] if isinstance(tape, Tape) else tape

    # On NumPy arrays ---------------------------------------------------------------------------

    def _forward_cpp(self, spec, *arrays):
        sweep = _Sweep(spec, arrays)
        heads, values, outside, high, low = sweep.rest
        sweep.run(FORWARD, heads, values, outside)
        for example in np.flatnonzero(outside):
            values[example] = sweep.strips(example, self._exact_value)
        high[:] = values
        low[:] = values - high

    def _backward_cpp(self, spec, *arrays):
        sweep = _Sweep(spec, arrays)
        heads, values, outside, *marginals = sweep.rest
        sweep.run(BACKWARD, heads, values, outside, marginals)
        for example in np.flatnonzero(outside):
            exact = sweep.strips(example, self._exact_marginals)
            for whole, found in zip(marginals, exact, strict=True):
                whole[example] = found[0]

    def _exact_value(self, spec, *arrays):
        return self._exact_tape(spec, *arrays)[2][0]

    def _exact_marginals(self, spec, *arrays):
        found = [np.empty((1, *x.shape[1:]), x.dtype) for x in arrays[: len(spec.kinds)]]
        self._backward(spec, *arrays, *self._exact_tape(spec, *arrays), *found)
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
        slots: The canonical potential of each of its slots, None for a score of 0.
    """

    number: int
    slots: tuple

    @property
    def states(self):
        return KERNELS[self.number].states

    def strips(self, rows, dtype):
        return rows // cpp.library().lattice_rows(self.number, dtype == "float64") + 1


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
    if cpp.library() is None:
        return None
    for number, known in enumerate(KERNELS):
        slots = _slots(known, spec)
        if slots is not None:
            return Kernel(number, slots)
    return None


def _slots(known, spec):
    """The channel of `spec` for every channel of a known structure, or None for another one."""

    def facts(x):
        return x.start, x.end, x.empty, x.jumps, x.by_rows, x.states, len(x.moves)

    if facts(known) != facts(spec):
        return None
    slots: dict[int, int | None] = {}
    for ours, theirs in zip(known.moves, spec.moves, strict=True):
        same = (ours.source, ours.target, ours.di, ours.dj) == (
            theirs.source,
            theirs.target,
            theirs.di,
            theirs.dj,
        )
        if not same or slots.setdefault(ours.channel, theirs.channel) != theirs.channel:
            return None
    for slot, channel in slots.items():
        if known.kinds[slot] != ("gap" if channel is None else spec.kinds[channel]):
            return None
    return tuple(slots[slot] for slot in range(len(known.kinds)))


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

    def run(self, sweep, heads, values, outside, marginals=None):
        """One sweep over all examples within range; `heads`, `values` and `outside` are read, or
        filled by the forward sweep."""
        cells, batch = self.potentials[0], len(self.lengths)
        rows, columns = cells.shape[1:]
        wide = cells.dtype == np.float64
        small = batch * rows * columns <= 4 * native.SMALL
        arguments = cpp.Call(batch, rows, columns, 1 if small else cpp.threads())
        arguments.strips, arguments.sweep = self.kernel.strips(rows, cells.dtype), sweep
        tape = [np.require(x, requirements=["C"]) for x in (self.lengths, heads, values, outside)]
        names = "lengths", "heads", "values", "outside"
        for name, x in zip(names, tape, strict=True):
            setattr(arguments, name, x.ctypes.data)
        for slot, channel in enumerate(self.kernel.slots):
            if channel is None:
                continue
            x = self.potentials[channel]
            arguments.data[slot] = x.ctypes.data
            arguments.strides[slot][0] = x[0].size if len(x) > 1 else 0
            arguments.strides[slot][1] = x.shape[2] if x.shape[1] > 1 else 0
            if marginals is not None:
                arguments.results[slot] = marginals[channel].ctypes.data
                arguments.result_strides[slot] = marginals[channel][0].size
        cpp.library().lattice(cpp.byref(arguments), self.kernel.number, wide)

    def strips(self, example, function):
        """`function(spec, *arrays)` for one example."""
        one = [x[example : example + 1] if len(x) > 1 else x for x in self.potentials]
        return function(self.spec, *one, *(x[example : example + 1] for x in self.context))
