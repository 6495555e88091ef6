"""Types of public signatures; those of arrays are in `keras_struct.ops.annotations`."""

import os
from collections.abc import Callable
from typing import Any, TypeAlias

import keras

Shape: TypeAlias = tuple[Any, ...]  # of integers, None where any size will do
Spec: TypeAlias = Any  # a `keras.KerasTensor`, or several in a tuple or a dictionary
Config: TypeAlias = dict[str, Any]
Initializer: TypeAlias = (
    str | dict[str, Any] | keras.initializers.Initializer | Callable[..., Any] | None
)
Regularizer: TypeAlias = (
    str | dict[str, Any] | keras.regularizers.Regularizer | Callable[..., Any] | None
)
DType: TypeAlias = str | keras.dtype_policies.DTypePolicy | None
StrPath: TypeAlias = str | os.PathLike[str]
Span: TypeAlias = tuple[int, int, str]  # start, end (exclusive), label
