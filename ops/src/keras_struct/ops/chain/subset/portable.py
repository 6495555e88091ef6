"""Subsets of size k on every backend: the state counts the chosen items (see recurrence.md)."""

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.chain.shift import Shift
from keras_struct.ops.structure import time_mask


class SubsetPortable(Shift):
    def event(self, states, problem):
        before = ops.concatenate([ops.zeros_like(states[..., :1]), states[..., :-1]], axis=-1)
        chosen = states - before
        return array.where(time_mask(problem.context[1], ops.shape(states)[-1]), chosen, -1)
