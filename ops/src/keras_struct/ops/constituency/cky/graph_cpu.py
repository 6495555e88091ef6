"""CKY in TensorFlow's graphs on the CPU, see `chart/graph_cpu.py`."""

import dataclasses

from keras_struct.ops.chart import graph_cpu
from keras_struct.ops.chart.graph_cpu import GraphChartSweeps
from keras_struct.ops.constituency.cky.portable import CKYSweeps, labelled, rejects_splits


def rejects(call):
    return rejects_splits(call) or graph_cpu.rejects(call)


def sweeps(call):
    return labelled(GraphCKYSweeps(splits=False), call)


@dataclasses.dataclass(frozen=True)
class GraphCKYSweeps(GraphChartSweeps, CKYSweeps):
    @property
    def differentiable(self):
        return CKYSweeps(self.splits)
