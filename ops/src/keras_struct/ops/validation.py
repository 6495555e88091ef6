"""Whether values are checked, and all checks of a call with at most one read from the device.

The values of NumPy arrays and Python numbers are always checked. Those of tensors are read where
that is cheap: on the CPU, outside of any compiler. On an accelerator a read would stop the program
until the device has caught up, so there is none, unless it is asked for by `with ops.validation():`
or by `KERAS_STRUCT_VALIDATION=1` in the environment.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
from collections.abc import Iterator

import numpy as np
from keras import ops

from keras_struct.ops import array

ENVIRONMENT = "KERAS_STRUCT_VALIDATION"

_asked: contextvars.ContextVar[bool | None] = contextvars.ContextVar(
    "keras_struct_validation", default=None
)
# True while Keras infers the output shape of a symbolic readout with invented values.
SYMBOLIC: contextvars.ContextVar[bool] = contextvars.ContextVar("symbolic", default=False)


@contextlib.contextmanager
def validation(on: bool = True) -> Iterator[None]:
    """Within this context, the values of tensors are checked, or are not.

    By default they are on the CPU and are not on an accelerator, where each call would wait for
    them.

    Args:
        on: Whether lengths, labels and temperatures are read and checked.

    Example:

    >>> import numpy as np
    >>> from keras_struct import ops
    >>> with ops.validation():
    ...     d = ops.categorical(np.zeros((2, 3), "float32"), lengths=np.array([3, 1]))
    """
    token = _asked.set(bool(on))
    try:
        yield
    finally:
        _asked.reset(token)


def readable(x):
    """Whether the values of a tensor can and shall be read."""
    if SYMBOLIC.get() or array.traced(x):
        return False
    asked = _asked.get()
    if asked is None and os.environ.get(ENVIRONMENT):
        asked = os.environ[ENVIRONMENT] != "0"
    return array.platform(x) == "cpu" if asked is None else asked


def concrete(x):
    """The value as a NumPy array, or None while tracing (whatever is asked of `validation`)."""
    return None if SYMBOLIC.get() or array.traced(x) else ops.convert_to_numpy(x)


class Checks:
    """The checks of one call, done together by `run`."""

    def __init__(self):
        self._pending = []

    def add(self, given, tensors, check):
        """`check(*arrays)`, which raises, now or in `run`.

        Args:
            given: The values as the user gave them: read at once if they are no tensors.
            tensors: The same as tensors.
            check: Function of NumPy arrays (float64 where they were read from a device).
        """
        if all(not ops.is_tensor(x) and not hasattr(x, "numpy") for x in given):
            check(*(np.asarray(x) for x in given))
        elif all(readable(x) for x in tensors):
            self._pending.append((tensors, check))

    def run(self):
        """All that `add` has put off, by one read."""
        if not self._pending:
            return
        tensors = [x for group, _ in self._pending for x in group]
        flat = [ops.reshape(ops.cast(x, "float32"), (-1,)) for x in tensors]
        flat = ops.concatenate(flat)
        if array.traced(flat):  # constants inside of a function that is traced
            arrays = iter([ops.convert_to_numpy(x) for x in tensors])
        else:
            values = ops.convert_to_numpy(ops.stop_gradient(flat)).astype("float64")
            shapes = [tuple(x.shape) for x in tensors]
            ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
            pieces = zip(np.split(values, ends[:-1]), shapes, strict=True)
            arrays = iter([piece.reshape(shape) for piece, shape in pieces])
        for group, check in self._pending:
            check(*(next(arrays) for _ in group))
        self._pending.clear()
