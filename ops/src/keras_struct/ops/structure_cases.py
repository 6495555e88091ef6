"""One small case of every structure, for tests of what is the same for all of them."""

import importlib

import numpy as np
import pytest

from keras_struct import ops
from keras_struct.ops import dispatch
from keras_struct.ops.array import sum as sum_of
from keras_struct.ops.array import where
from keras_struct.ops.law_cases import ENGINES, Case
from keras_struct.ops.testing import BACKEND, EVERY_CASE, tensor


def smallest():
    """The first core case of every structure that has cases, by name of the structure."""
    return {
        op: next((case for case in cases if case.core), cases[0])
        for op, cases in every_case().items()
    }


def every_case():
    """All cases of every structure that has any, by name of the structure."""
    found: dict[str, list[Case]] = {}
    for op in sorted(dispatch.structures()):
        cases = [case for case in _nearest(getattr(ops, op).__module__) if _is_of(op, case)]
        if cases:
            found[op] = cases
    return found


def _is_of(op, case):
    return case.call().op == op


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


_all = EVERY_CASE or BACKEND != "jax"
_cases = {op: case for op, case in smallest().items() if _all or op in ENGINES}
every_structure = pytest.mark.parametrize("case", _cases.values(), ids=_cases.keys())


class Loss:
    """Weighted sum of value and marginals of a case, as a function of all its potentials.

    Attributes:
        args: Its arguments, potentials and temperature, as NumPy arrays.
        directions: One random direction for each.
    """

    def __init__(self, case, marginals=True, sparse=False):
        exists = case.exists()
        self.case, self.exists = case, tensor(exists, "bool")
        self.names, rng = list(case.arrays()), np.random.default_rng(5)
        self.args = [*case.arrays().values(), np.array(0.7)]
        self.directions = [rng.normal(size=x.shape) for x in self.args]
        self.marginals, self.sparse = marginals, sparse
        shapes = {
            name: tuple(x.shape)
            for name, x in case.distribution(dtype="float32").marginals("all").items()
        }
        self.weights = {name: tensor(rng.normal(size=shape)) for name, shape in shapes.items()}
        self.rows = tensor(rng.normal(size=exists.shape))

    def __call__(self, *args):
        d = self.case.make(dict(zip(self.names, args[:-1], strict=True)), temperature=args[-1])
        if self.sparse:
            named = d.sparse_marginals("all")
            return sum(sum_of(x * self.weights[name], None) for name, x in named.items())
        total = sum_of(where(self.exists, d.value(), 0.0) * self.rows, None)
        if self.marginals:
            for name, x in d.marginals("all").items():
                total = total + sum_of(x * self.weights[name], None)
        return total

    def tensors(self):
        return tuple(map(tensor, self.args)), tuple(map(tensor, self.directions))
