"""Every example in a public docstring runs as printed."""

import doctest

import pytest

from keras_struct import ops
from keras_struct.ops.dispatch import IMPLEMENTATIONS
from keras_struct.ops.testing import BACKEND

OTHERS = [
    "certified_tail_steps",
    "explain",
    "implementations",
    "rescaled_plan",
    "sinkhorn",
    "sinkhorn_contraction",
    "sinkhorn_orbit",
    "sinkhorn_plan",
    "sinkhorn_tail",
    "sinkhorn_tail_bias",
    "use",
]


@pytest.mark.parametrize("name", [*IMPLEMENTATIONS, *OTHERS])
def test_example_runs_as_printed(name):
    public = getattr(ops, name)
    assert ">>>" in public.__doc__
    finder = doctest.DocTestFinder(recurse=False)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for test in finder.find(public, name, globs={}):
        for example in test.examples:  # the documented backend is JAX
            example.want = example.want.replace(" on jax,", f" on {BACKEND},")
        assert runner.run(test).failed == 0
