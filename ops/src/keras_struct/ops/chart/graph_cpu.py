"""Charts in TensorFlow's graphs on the CPU, at each width exactly the spans there are."""

from typing import Any, NamedTuple

import keras
from keras import ops

from keras_struct.ops import array
from keras_struct.ops.chart.outside import noise_places
from keras_struct.ops.implementation import Implementation
from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE


class Tape(NamedTuple):
    """See `graph_loops.py`; the batch first, in float64.

    Attributes:
        value: The log-partition (B,).
        tables: Lists of tables, as in `graph_loops.Tape`.
    """

    value: Any
    tables: tuple


class ChartGraph(Implementation):
    def rejects(self, call):
        if any(product.scored for product in call.spec.chart.products):
            return "it has no scores of splits"
        if call.backend != "tensorflow":
            return "its arrays change their sizes inside a loop, which only TensorFlow's graphs can"
        if call.platform != "cpu":
            return f"it is made for the CPU, and the scores are on the {call.platform}"
        if call.xla:
            return "its arrays change their sizes inside a loop, which XLA cannot compile"
        return None

    def forward(self, problem, op):
        (lengths,), like = problem.context, problem.potentials[0]
        loops, scores = _loops(problem, problem.potentials)
        tables, goals = loops.inside(scores, op == "max")
        value = array.take_along_axis(ops.transpose(goals), lengths[:, None], 1)[:, 0]
        value = array.where(value > INFEASIBLE, value, ops.zeros_like(value) + FORBIDDEN)
        value = array.where(lengths > 0, value, ops.zeros_like(value))
        high = ops.cast(value, like.dtype)
        low = ops.cast(value - ops.cast(high, "float64"), like.dtype)
        return (high, low), Tape(value, tuple(tuple(map(_batch_first, x)) for x in tables))

    def backward(self, problem, tape):
        loops, _ = _loops(problem, problem.potentials)
        found = loops.outside(_tables(tape), _goal(loops, problem, tape))
        return _write(problem, found, problem.potentials[0].dtype)

    def curvature(self, problem, tape, tangents):
        loops, dscores = _loops(problem, tangents)
        goal, tables = _goal(loops, problem, tape), _tables(tape)
        found = loops.outside_rates(tables, loops.rates(tables, dscores), goal)
        return _write(problem, found, problem.potentials[0].dtype)

    def trace(self, problem, tape, draws=None):
        loops, scores = _loops(problem, problem.potentials)
        noise = None
        if draws is not None:
            dtype = keras.backend.standardize_dtype(problem.potentials[0].dtype)
            places = noise_places(ops.shape(scores[0])[1])
            count = len(problem.spec.chart.products)
            noise = [_batch_last(draws.gumbel(k, places, dtype)) for k in range(count)]
        found = loops.trace(_tables(tape), _goal(loops, problem, tape), noise)
        return problem.spec.event(_write(problem, found, "int32"))


def _loops(problem, potentials):
    """The loops, and the scores of every scored item by width (W, N, B)."""
    from keras_struct.ops.chart.graph_loops import Loops

    scores, _ = problem.spec.by_width(potentials)
    scores = [_batch_last(x) for x in scores]
    return Loops(problem.spec.chart, scores[0]), scores


def _tables(tape):
    from keras_struct.ops.chart.graph_loops import Tape as Tables

    return Tables(*(list(map(_batch_last, x)) for x in tape.tables))


def _goal(loops, problem, tape):
    """1 at the length of every example that has a structure, (N + 1, B)."""
    lengths = array.where(tape.value > INFEASIBLE, problem.context[0], 0)
    widths = ops.arange(loops.n + 1, dtype="int32")[:, None]
    is_whole = ops.logical_and(ops.equal(widths, lengths), widths > 0)
    return ops.cast(is_whole, "float64")


def _write(problem, found, dtype):
    """One array for each potential, from what every item got."""
    items = [_batch_first(found[k][1:, :-1]) for k in problem.spec.chart.scored]
    return problem.spec.by_part([ops.cast(x, dtype) for x in items], [])


def _batch_last(x):
    return ops.cast(ops.transpose(x, (1, 2, 0)), "float64")


def _batch_first(x):
    return ops.transpose(x, (2, 0, 1))
