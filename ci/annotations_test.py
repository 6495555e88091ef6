"""Every public callable of every distribution has types, all of whose names exist."""

import functools
import importlib
import inspect
import typing
from collections.abc import Callable, Iterator

import pytest

from keras_struct.ops.dispatch import Call  # which `Implementation` names, and cannot import

PACKAGES = ("ops", "layers", "parsers", "runs", "treebank", "protein")


def callables(package: str) -> Iterator[Callable]:
    """Functions in `__all__`, and methods and properties that its classes have of ours."""
    module = importlib.import_module(f"keras_struct.{package}")
    for public in (getattr(module, name) for name in module.__all__):
        if inspect.isfunction(public):
            yield inspect.unwrap(public)
        elif inspect.isclass(public):
            for name in dir(public):
                found = inspect.getattr_static(public, name)
                if isinstance(found, (staticmethod, classmethod)):
                    found = found.__func__
                elif isinstance(found, property):
                    found = found.fget
                elif isinstance(found, functools.cached_property):
                    found = found.func
                shown = not name.startswith("_") or name in ("__init__", "__call__")
                if inspect.isfunction(found) and shown and "keras_struct." in found.__module__:
                    yield inspect.unwrap(found)


@pytest.mark.parametrize("package", PACKAGES)
def test_public_callables_are_typed(package):
    found = {x.__qualname__: x for x in callables(package)}
    assert len(found) > 10
    for name, function in found.items():
        if name.endswith(".__init__") and function.__code__.co_filename == "<string>":
            continue  # of a dataclass
        signature = inspect.signature(function)
        untyped = [x.name for x in signature.parameters.values() if x.annotation is x.empty]
        assert set(untyped) <= {"self", "cls"}, f"{name}: {untyped}"
        assert signature.return_annotation is not signature.empty, name
        typing.get_type_hints(function, localns={"Call": Call, "ParserTask": object})
