"""Eisner's algorithm on every backend: the chart of `chart/`, over the root and the N words.

Node 0 is the root, node m + 1 the word m. An arc to the right goes from head i to dependent i + w,
one to the left from head i + w to dependent i.
"""

import dataclasses

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.chart.layout import by_ends, by_width
from keras_struct.ops.chart.spec import eisner
from keras_struct.ops.chart.sweeps import ChartSweeps
from keras_struct.ops.labels import LabelledArcs
from keras_struct.ops.numerics import FORBIDDEN


def rejects(call):
    return None


def sweeps(call):
    trees = EisnerSweeps(call.option("single_root"))
    return LabelledArcs(trees) if call.option("labelled") else trees


@dataclasses.dataclass(frozen=True)
class EisnerSweeps(ChartSweeps):
    single_root: bool

    @property
    def spec(self):
        return eisner(self.single_root)

    def by_width(self, potentials):
        (arcs,) = potentials
        roots = ops.diagonal(arcs, axis1=1, axis2=2)[:, None]
        right = ops.concatenate([roots, ops.swapaxes(arcs, 1, 2)[:, :-1]], axis=1)
        left = ops.concatenate([ops.full_like(roots, FORBIDDEN), arcs[:, :-1]], axis=1)
        return [by_width(right, FORBIDDEN), by_width(left, FORBIDDEN)], []

    def by_part(self, items, cuts):
        right, left = (by_ends(x) for x in items)
        none = ops.zeros_like(right[:, :1])
        below = ops.swapaxes(ops.concatenate([right[:, 1:], none], axis=1), 1, 2)
        above = ops.concatenate([left[:, 1:], none], axis=1)
        places = ops.arange(ops.shape(right)[1], dtype="int32")
        root = ops.equal(places[:, None], places)
        return (below + above + array.where(root, right[:, :1], none),)

    def event(self, used):
        (arcs,) = used
        heads = ops.cast(array.argmax(arcs, 2), "int32")
        return array.where(ops.sum(arcs, axis=2) > 0, heads, -1)
