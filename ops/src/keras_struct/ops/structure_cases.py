"""One small case of every structure, for tests of what is the same for all of them."""

import importlib

from keras_struct import ops
from keras_struct.ops import dispatch
from keras_struct.ops.laws import Case


def smallest():
    """The first core case of every structure that has cases, by name of the structure."""
    found: dict[str, Case] = {}
    for op in sorted(dispatch.structures()):
        cases = [case for case in _nearest(getattr(ops, op).__module__) if _is_of(op, case)]
        if cases:
            found[op] = next((case for case in cases if case.core), cases[0])
    return found


def _is_of(op, case):
    return case.distribution(dtype="float32").structure.op == op


def _nearest(name):
    """All cases of the `cases.py` beside a module."""
    module = importlib.import_module(name)
    package = name if hasattr(module, "__path__") else module.__package__
    try:
        cases = importlib.import_module(f"{package}.cases")
    except ModuleNotFoundError as error:
        if error.name != f"{package}.cases":
            raise
        return []
    lists = [x for x in vars(cases).values() if isinstance(x, list)]
    return [case for x in lists for case in x if isinstance(case, Case)]
