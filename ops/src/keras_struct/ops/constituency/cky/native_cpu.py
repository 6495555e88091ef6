"""CKY on the CPU by compiled loops, see `chart/native_cpu.py`."""

import dataclasses

from keras_struct.ops import native
from keras_struct.ops.chart.native_cpu import NativeChartSweeps, places_of_spans
from keras_struct.ops.constituency.cky.portable import CKYSweeps, LabelledBracketings


def rejects(call):
    if ("splits", True) in call.options:
        return "it has no scores of splits"
    return native.rejects_in_xla(call)


def sweeps(call):
    trees = NativeCKYSweeps(splits=False)
    return LabelledBracketings(trees) if call.option("labelled") else trees


@dataclasses.dataclass(frozen=True)
class NativeCKYSweeps(NativeChartSweeps, CKYSweeps):
    @property
    def differentiable(self):
        return CKYSweeps(self.splits)

    def places(self, n):
        return [places_of_spans(n)]
