"""Every example in a public docstring runs as printed."""

import doctest

import pytest

from keras_struct import ops
from keras_struct.ops import dispatch
from keras_struct.ops.dispatch import candidates, structures
from keras_struct.ops.testing import BACKEND

OTHERS = [
    "certified_tail_steps",
    "explain",
    "implementations",
    "register_implementation",
    "rescaled_plan",
    "sinkhorn_contraction",
    "sinkhorn_orbit",
    "sinkhorn_plan",
    "sinkhorn_tail_bias",
    "target",
    "use",
    "validation",
]


ON_JAX = ["divided"] if BACKEND == "jax" else []


@pytest.mark.parametrize("name", [*structures(), *OTHERS, *ON_JAX])
def test_example_runs_as_printed(name, monkeypatch):
    monkeypatch.setitem(dispatch._registry, "chain", candidates("chain"))  # an example adds to it
    public = getattr(ops, name)
    assert ">>>" in public.__doc__
    finder = doctest.DocTestFinder(recurse=False)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for test in finder.find(public, name, globs={}):
        for example in test.examples:  # the documented backend is JAX
            example.want = example.want.replace(" on jax,", f" on {BACKEND},")
        assert runner.run(test).failed == 0
