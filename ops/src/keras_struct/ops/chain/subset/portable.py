"""Subsets of size k on every backend: the state counts the chosen items (see recurrence.md)."""

import dataclasses

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.chain.shift import ShiftSweeps
from keras_struct.ops.structure import time_mask


def rejects(call):
    return None


def sweeps(call):
    return SubsetSweeps()


@dataclasses.dataclass(frozen=True)
class SubsetSweeps(ShiftSweeps):
    def trace(self, potentials, context, tape, noise):
        return _chosen(super().trace(potentials, context, tape, noise), context[1])

    def topk(self, potentials, context, k):
        states, exists = super().topk(potentials, context, k)
        return _chosen(states, context[1]), exists


def _chosen(states, lengths):
    before = ops.concatenate([ops.zeros_like(states[..., :1]), states[..., :-1]], axis=-1)
    return array.where(time_mask(lengths, ops.shape(states)[-1]), states - before, -1)
