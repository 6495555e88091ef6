"""Attributes that are computed once."""

import keras

from keras_struct.ops import array
from keras_struct.ops.problem import Problem


class Once:
    """An attribute that is computed once, and anew where what is kept cannot be used.

    What was made while JAX or TensorFlow traced one program, such as a branch or the body of a
    loop, is unknown in another; what was made on PyTorch without gradients has none.
    """

    def __init__(self, function):
        self.function, self.name = function, f"{function.__name__} once"

    def __get__(self, instance, owner=None):
        if instance is None:
            return self
        value, arrays, scope = vars(instance).get(self.name, (None, (), self))
        if scope is not None and scope != array.scope(arrays):
            value = self.function(instance)
            kept = (value.potentials, value.context) if isinstance(value, Problem) else value
            arrays = keras.tree.flatten(kept)
            vars(instance)[self.name] = value, arrays, array.scope(arrays)
        return value

    def keep(self, instance, value):
        """Let a value be known."""
        vars(instance)[self.name] = value, (), None
