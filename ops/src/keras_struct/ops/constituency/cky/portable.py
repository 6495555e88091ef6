"""CKY on every backend: the chart of `chart/`, one item whose product is itself with itself."""

import dataclasses

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.chart.layout import by_ends, by_width, cuts_by_ends, cuts_by_width
from keras_struct.ops.chart.spec import CKY, CKY_SPLITS
from keras_struct.ops.chart.sweeps import ChartSweeps
from keras_struct.ops.constituency.bracketing import split
from keras_struct.ops.labels import LabelledSpans
from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE


def rejects(call):
    return None


def sweeps(call):
    return labelled(CKYSweeps(call.option("splits")), call)


def labelled(trees, call):
    return LabelledBracketings(trees) if call.option("labelled") else trees


def rejects_splits(call):
    return "it has no scores of splits" if ("splits", True) in call.options else None


@dataclasses.dataclass(frozen=True)
class CKYSweeps(ChartSweeps):
    splits: bool

    @property
    def spec(self):
        return CKY_SPLITS if self.splits else CKY

    def by_width(self, potentials):
        spans, *splits = potentials
        return [by_width(spans, FORBIDDEN)], [cuts_by_width(x, FORBIDDEN) for x in splits]

    def by_part(self, items, cuts):
        return (by_ends(items[0]), *map(cuts_by_ends, cuts))

    def event(self, used):
        return array.where(used[0] > 0, 0, -1)


class LabelledBracketings(LabelledSpans):
    def score_of_others(self, others, event):
        """Of the cuts."""
        (splits,) = others
        cuts = ops.cast(split(event >= 0), splits.dtype)
        return ops.sum(array.where(splits > INFEASIBLE, splits, 0.0) * cuts, axis=(1, 2, 3))
