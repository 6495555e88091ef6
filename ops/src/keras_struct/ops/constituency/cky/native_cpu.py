"""CKY on the CPU by compiled loops, see `chart/native_cpu.py`."""

import dataclasses

from keras_struct.ops import native
from keras_struct.ops.chart.native_cpu import NativeChartSweeps, places_of_spans
from keras_struct.ops.constituency.cky.portable import CKYSweeps, labelled, rejects_splits


def rejects(call):
    return rejects_splits(call) or native.rejects(call)


def sweeps(call):
    return labelled(NativeCKYSweeps(splits=False), call)


@dataclasses.dataclass(frozen=True)
class NativeCKYSweeps(NativeChartSweeps, CKYSweeps):
    @property
    def differentiable(self):
        return CKYSweeps(self.splits)

    def places(self, n):
        return [places_of_spans(n)]
