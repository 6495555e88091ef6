"""The sweeps of every structure over spans (see `recurrence.md`). Memory N², time N³.

The spec of a structure (`problem.spec`) has the `Spec` of its chart as `chart`, and the functions
between its potentials and spans by width: `by_width`, `by_part` and `event`. Context: lengths (B,).
"""

from typing import NamedTuple

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.chart.chart import Chart, swap
from keras_struct.ops.chart.outside import Choice, Posterior, PosteriorRates, descend
from keras_struct.ops.chart.ranked import best_structures
from keras_struct.ops.implementation import Implementation
from keras_struct.ops.numerics import INFEASIBLE


class Tape(NamedTuple):
    """All as `Scaled`, the batch first.

    Attributes:
        products: For each product of the spec, its values by width (B, W, N).
        lost: For each item on the right, what falls off its moving frame (B, W, N, 1).
    """

    products: tuple
    lost: tuple


class ChartPortable(Implementation):
    def forward(self, problem, op):
        chart = _chart(problem)
        products, lost = chart.inside(array.max if op == "max" else array.sum)
        tape = Tape(tuple(map(swap, products)), tuple(map(swap, lost)))
        return chart.log_partition(products, problem.context[0]), tape

    def backward(self, problem, tape):
        chart, products, lost, lengths = _read(problem, tape)
        items, cuts = descend(chart, Posterior(chart, products, lost), lengths)
        return problem.spec.by_part([swap(p) for (p,) in items], [swap(p) for (p,) in cuts])

    def curvature(self, problem, tape, tangents):
        chart, products, lost, lengths = _read(problem, tape)
        share = PosteriorRates(chart, products, lost, *problem.spec.by_width(tangents))
        items, cuts = descend(chart, share, lengths)
        return problem.spec.by_part([swap(dp) for _, dp in items], [swap(dp) for _, dp in cuts])

    def trace(self, problem, tape, draws=None):
        chart, products, lost, lengths = _read(problem, tape)
        items, _ = descend(chart, Choice(chart, products, lost, draws), lengths)
        return _event(problem.spec, [swap(used) > 0.5 for (used,) in items])

    def topk(self, problem, k):
        spec = problem.spec
        scores, cuts = spec.by_width(problem.potentials)
        chart = Chart(spec.chart, scores, cuts)
        cuts = iter(map(swap, cuts))
        cuts = [next(cuts) if p.scored else None for p in spec.chart.products]
        scores = [swap(x) for x in scores]
        items, exists = best_structures(chart, scores, cuts, problem.context[0], k)
        events = ops.stack([_event(spec, [swap(item[i]) for item in items]) for i in range(k)])
        shape = (*ops.shape(exists), *([1] * (len(events.shape) - 2)))
        return array.where(ops.reshape(exists, shape), events, -1), exists


def _chart(problem):
    return Chart(problem.spec.chart, *problem.spec.by_width(problem.potentials))


def _read(problem, tape):
    """The chart, its products and lost columns, and the lengths, 0 where nothing exists."""
    chart, (lengths,) = _chart(problem), problem.context
    products, lost = [swap(x) for x in tape.products], [swap(x) for x in tape.lost]
    high, _ = chart.log_partition(products, lengths)
    return chart, products, lost, array.where(high > INFEASIBLE, lengths, 0)


def _event(spec, used):
    """The event, from which spans (B, W, N) of every scored item are used."""
    return spec.event(spec.by_part([ops.cast(x, "int32") for x in used], []))
