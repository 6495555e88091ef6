import numpy as np
import pytest

from keras_struct import ops
from keras_struct.ops import dispatch
from keras_struct.ops.testing import array

UNARY, TRANSITIONS = np.zeros((1, 3, 2), "float32"), np.zeros((2, 2), "float32")


def test_explain_says_what_the_call_does(capsys):
    choice = ops.explain(ops.linear_chain, UNARY, TRANSITIONS)
    assert choice.name == ops.linear_chain(UNARY, TRANSITIONS).choice.name == "portable"
    assert "linear_chain" in capsys.readouterr().out


def test_nearest_request_wins(monkeypatch):
    monkeypatch.setenv(dispatch.ENVIRONMENT, "reference")
    assert ops.linear_chain(UNARY, TRANSITIONS).choice.name == "reference"
    with ops.use("portable"):
        assert ops.linear_chain(UNARY, TRANSITIONS).choice.name == "portable"
        with ops.use("reference", op="linear_chain"):
            choice = ops.linear_chain(UNARY, TRANSITIONS).choice
            assert (choice.name, choice.requested_by) == ("reference", "requested by ops.use")
            assert ops.subset(UNARY[..., 0], 1).choice.name == "portable"
            by_argument = ops.linear_chain(UNARY, TRANSITIONS, implementation="portable").choice
            assert by_argument.name == "portable"
    monkeypatch.delenv(dispatch.ENVIRONMENT)
    assert ops.linear_chain(UNARY, TRANSITIONS).choice.requested_by is None


def test_a_request_is_that_implementation_or_an_error():
    call = ops.linear_chain(UNARY, TRANSITIONS).choice.call
    traced = dispatch.dataclasses.replace(call, traced=True)
    with pytest.raises(NotImplementedError, match="concrete values"):
        dispatch.choose(traced, "reference")
    with pytest.raises(ValueError, match="Received: implementation='fastest'"):
        ops.linear_chain(UNARY, TRANSITIONS, implementation="fastest")
    with pytest.raises(ValueError, match="Received: implementation='fastest'"), ops.use("fastest"):
        pass
    with pytest.raises(ValueError, match="Received: op="):
        ops.implementations("no_such_structure")


def test_every_implementation_of_every_structure_exists():
    for op, (_, names) in dispatch.IMPLEMENTATIONS.items():
        assert callable(getattr(ops, op))
        for name in names:
            module = dispatch._module(op, name)
            assert callable(module.rejects) and callable(module.sweeps)


def test_portable_rejects_nothing_and_reference_is_only_on_request():
    for op, (_, names) in dispatch.IMPLEMENTATIONS.items():
        assert "portable" in names and names[-1] == "reference", op
        assert dispatch._module(op, "portable").rejects(None) is None


def test_the_reference_runs_as_an_implementation():
    slow = ops.linear_chain(UNARY, TRANSITIONS, implementation="reference")
    np.testing.assert_allclose(array(slow.value()), np.log(8), rtol=1e-6)
