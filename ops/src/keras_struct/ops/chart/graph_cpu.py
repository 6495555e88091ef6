"""Charts in TensorFlow's graphs on the CPU, at each width exactly the spans there are.

The tape, see `graph_loops.py`: the log-partition (B,) and the tables, the batch first, in float64.
"""

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.chart.sweeps import ChartSweeps
from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE


def rejects(call):
    if call.backend != "tensorflow":
        return "its arrays change their sizes inside a loop, which only TensorFlow's graphs can"
    if call.platform != "cpu":
        return f"it is made for the CPU, and the scores are on the {call.platform}"
    if call.xla:
        return "its arrays change their sizes inside a loop, which XLA cannot compile"
    return None


class GraphChartSweeps(ChartSweeps):
    """In front of a subclass of `ChartSweeps` without scored products."""

    def forward(self, potentials, context, op):
        loops, scores = self._loops(potentials)
        tape, goals = loops.inside(scores, op == "max")
        value = array.take_along_axis(ops.transpose(goals), context[0][:, None], 1)[:, 0]
        value = array.where(value > INFEASIBLE, value, ops.zeros_like(value) + FORBIDDEN)
        value = array.where(context[0] > 0, value, ops.zeros_like(value))
        tables = [_batch_first(x) for tables in tape for x in tables]
        return ops.cast(value, potentials[0].dtype), (value, *tables)

    def backward(self, potentials, context, tape):
        loops, _ = self._loops(potentials)
        found = loops.outside(self._tape(tape), self._goal(loops, context, tape))
        return self._write(found, potentials[0].dtype)

    def curvature(self, potentials, context, tape, tangents):
        loops, dscores = self._loops(tangents)
        goal, tape = self._goal(loops, context, tape), self._tape(tape)
        found = loops.outside_rates(tape, loops.rates(tape, dscores), goal)
        return self._write(found, potentials[0].dtype)

    def trace(self, potentials, context, tape, noise):
        loops, scores = self._loops(potentials)
        n, _, batch = ops.shape(scores[0])
        draws = [_batch_last(noise((batch, n, 2 * n))) for _ in self.spec.products]
        found = loops.trace(self._tape(tape), self._goal(loops, context, tape), draws)
        return self.event(self._write(found, "int32"))

    def _loops(self, potentials):
        """The loops, and the scores of every scored item by width (W, N, B)."""
        from keras_struct.ops.chart.graph_loops import Loops

        scores, _ = self.by_width(potentials)
        scores = [_batch_last(x) for x in scores]
        return Loops(self.spec, scores[0]), scores

    def _tape(self, tape):
        from keras_struct.ops.chart.graph_loops import Tape

        tables = [_batch_last(x) for x in tape[1:]]
        products, rights = len(self.spec.products), len(self.spec.pushed)
        return Tape(tables[:products], tables[products : products + rights], tables[-products:])

    def _goal(self, loops, context, tape):
        """1 at the length of every example that has a structure, (N + 1, B)."""
        lengths = array.where(tape[0] > INFEASIBLE, context[0], 0)
        widths = ops.arange(loops.n + 1, dtype="int32")[:, None]
        is_whole = ops.logical_and(ops.equal(widths, lengths), widths > 0)
        return ops.cast(is_whole, "float64")

    def _write(self, found, dtype):
        """One array for each potential, from what every item got."""
        items = [_batch_first(found[k][1:, :-1]) for k in self.spec.scored]
        return self.by_part([ops.cast(x, dtype) for x in items], [])


def _batch_last(x):
    return ops.cast(ops.transpose(x, (1, 2, 0)), "float64")


def _batch_first(x):
    return ops.transpose(x, (2, 0, 1))
