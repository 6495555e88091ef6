"""CKY in TensorFlow's graphs on the CPU, see `chart/graph_cpu.py`."""

import dataclasses

from keras_struct.ops.chart import graph_cpu
from keras_struct.ops.chart.graph_cpu import GraphChartSweeps
from keras_struct.ops.constituency.cky.portable import CKYSweeps, LabelledBracketings


def rejects(call):
    if ("splits", True) in call.options:
        return "it has no scores of splits"
    return graph_cpu.rejects(call)


def sweeps(call):
    trees = GraphCKYSweeps(splits=False)
    return LabelledBracketings(trees) if call.option("labelled") else trees


@dataclasses.dataclass(frozen=True)
class GraphCKYSweeps(GraphChartSweeps, CKYSweeps):
    @property
    def differentiable(self):
        return CKYSweeps(self.splits)
