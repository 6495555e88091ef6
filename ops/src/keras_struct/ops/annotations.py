"""Types of public signatures. Shapes and dtypes are in the docstrings: four backends share no type
of arrays."""

from typing import Any, TypeAlias

Tensor: TypeAlias = Any  # of the backend
ArrayLike: TypeAlias = Any  # a tensor or a variable, an array of NumPy, a number, lists of numbers
Pair: TypeAlias = Any  # of ArrayLike or None, for the first and the second sequence; None for both
