"""Nussinov's algorithm on every backend: the chart of `chart/`."""

import dataclasses

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.chart.layout import by_ends, by_width
from keras_struct.ops.chart.spec import NUSSINOV
from keras_struct.ops.chart.sweeps import ChartSweeps
from keras_struct.ops.numerics import FORBIDDEN


def rejects(call):
    return None


def sweeps(call):
    return NussinovSweeps()


@dataclasses.dataclass(frozen=True)
class NussinovSweeps(ChartSweeps):
    @property
    def spec(self):
        return NUSSINOV

    def by_width(self, potentials):
        return [by_width(potentials[0], FORBIDDEN)], []

    def by_part(self, items, cuts):
        return (by_ends(items[0]),)

    def event(self, used):
        (pairs,) = used
        both = pairs + ops.swapaxes(pairs, 1, 2)
        partner = ops.cast(array.argmax(both, 2), "int32")
        return array.where(ops.sum(both, axis=2) > 0, partner, -1)
