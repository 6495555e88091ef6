import inspect
import typing

import pytest

from keras_struct import ops

READOUTS = [
    name
    for name, x in inspect.getmembers(ops.Distribution, inspect.isfunction)
    if not name.startswith("_")
]
FUNCTIONS = [name for name in ops.__all__ if inspect.isfunction(getattr(ops, name))]


def test_there_are_functions():
    assert len(FUNCTIONS) > 30 and {"value", "topk", "entropy"} <= set(READOUTS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_public_functions_are_typed(name):
    check(getattr(ops, name))


def test_readouts_are_typed():
    for name in READOUTS:
        check(getattr(ops.Distribution, name))


def check(function):
    signature = inspect.signature(function)
    missing = [x.name for x in signature.parameters.values() if x.annotation is x.empty]
    assert set(missing) <= {"self"}, f"{function.__name__}: {missing}"
    assert signature.return_annotation is not signature.empty, function.__name__
    typing.get_type_hints(inspect.unwrap(function))  # every name in them exists
