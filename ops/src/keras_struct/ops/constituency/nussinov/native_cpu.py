"""Nussinov's algorithm on the CPU by compiled loops, see `chart/native_cpu.py`."""

import dataclasses

from keras_struct.ops.chart.native_cpu import NativeChartSweeps, places_of_spans
from keras_struct.ops.constituency.nussinov.portable import NussinovSweeps
from keras_struct.ops.native import rejects

__all__ = ["NativeNussinovSweeps", "rejects", "sweeps"]


def sweeps(call):
    return NativeNussinovSweeps()


@dataclasses.dataclass(frozen=True)
class NativeNussinovSweeps(NativeChartSweeps, NussinovSweeps):
    @property
    def differentiable(self):
        return NussinovSweeps()

    def places(self, n):
        return [places_of_spans(n)]
