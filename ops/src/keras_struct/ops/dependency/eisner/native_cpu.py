"""Eisner's algorithm on the CPU by compiled loops, see `chart/native_cpu.py`."""

import dataclasses

from keras_struct.ops.chart.native_cpu import NativeChartSweeps
from keras_struct.ops.dependency.eisner.portable import EisnerSweeps
from keras_struct.ops.labels import LabelledArcs
from keras_struct.ops.native import rejects_in_xla as rejects

__all__ = ["NativeEisnerSweeps", "rejects", "sweeps"]


def sweeps(call):
    trees = NativeEisnerSweeps(call.option("single_root"))
    return LabelledArcs(trees) if call.option("labelled") else trees


@dataclasses.dataclass(frozen=True)
class NativeEisnerSweeps(NativeChartSweeps, EisnerSweeps):
    @property
    def differentiable(self):
        return EisnerSweeps(self.single_root)
