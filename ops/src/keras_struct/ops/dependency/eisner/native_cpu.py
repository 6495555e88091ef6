"""Eisner's algorithm on the CPU by compiled loops, see `chart/native_cpu.py`."""

import dataclasses

import numpy as np

from keras_struct.ops.chart.native_cpu import NativeChartSweeps, ends_by_width
from keras_struct.ops.dependency.eisner.portable import EisnerSweeps
from keras_struct.ops.labels import LabelledArcs
from keras_struct.ops.native import rejects

__all__ = ["NativeEisnerSweeps", "rejects", "sweeps"]


def sweeps(call):
    trees = NativeEisnerSweeps(call.option("single_root"))
    return LabelledArcs(trees) if call.option("labelled") else trees


@dataclasses.dataclass(frozen=True)
class NativeEisnerSweeps(NativeChartSweeps, EisnerSweeps):
    @property
    def differentiable(self):
        return EisnerSweeps(self.single_root)

    def places(self, n):
        """The root is head of i in place (i, i), word m in place (i, m)."""
        start, end, exists = ends_by_width(n)
        right = end * n + np.where(start == 0, end, start - 1)
        left = np.where(start == 0, -1, (start - 1) * n + end)
        return [np.where(exists, right, -1), np.where(exists, left, -1)]
