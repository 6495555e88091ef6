"""Nussinov's algorithm in TensorFlow's graphs on the CPU, see `chart/graph_cpu.py`."""

import dataclasses

from keras_struct.ops.chart.graph_cpu import GraphChartSweeps, rejects
from keras_struct.ops.constituency.nussinov.portable import NussinovSweeps

__all__ = ["GraphNussinovSweeps", "rejects", "sweeps"]


def sweeps(call):
    return GraphNussinovSweeps()


@dataclasses.dataclass(frozen=True)
class GraphNussinovSweeps(GraphChartSweeps, NussinovSweeps):
    @property
    def differentiable(self):
        return NussinovSweeps()
