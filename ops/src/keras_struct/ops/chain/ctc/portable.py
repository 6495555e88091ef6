"""CTC on every backend: the state is the position in the extended label sequence."""

import dataclasses

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.chain.shift import ShiftSweeps
from keras_struct.ops.structure import time_mask


def rejects(call):
    return None


def sweeps(call):
    return CTCSweeps()


@dataclasses.dataclass(frozen=True)
class CTCSweeps(ShiftSweeps):
    def trace(self, potentials, context, tape, noise):
        return _inside(super().trace(potentials, context, tape, noise), context[1])

    def topk(self, potentials, context, k):
        states, exists = super().topk(potentials, context, k)
        return _inside(states, context[1]), exists


def _inside(states, lengths):
    return array.where(time_mask(lengths, ops.shape(states)[-1]), states, -1)
