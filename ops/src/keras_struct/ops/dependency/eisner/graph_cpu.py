"""Eisner's algorithm in TensorFlow's graphs on the CPU, see `chart/graph_cpu.py`."""

import dataclasses

from keras_struct.ops.chart.graph_cpu import GraphChartSweeps, rejects
from keras_struct.ops.dependency.eisner.portable import EisnerSweeps
from keras_struct.ops.labels import LabelledArcs

__all__ = ["GraphEisnerSweeps", "rejects", "sweeps"]


def sweeps(call):
    trees = GraphEisnerSweeps(call.option("single_root"))
    return LabelledArcs(trees) if call.option("labelled") else trees


@dataclasses.dataclass(frozen=True)
class GraphEisnerSweeps(GraphChartSweeps, EisnerSweeps):
    @property
    def differentiable(self):
        return EisnerSweeps(self.single_root)
