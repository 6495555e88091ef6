import dataclasses

import numpy as np
import pytest

from keras_struct import ops
from keras_struct.ops import dispatch
from keras_struct.ops.testing import array

UNARY, TRANSITIONS = np.zeros((1, 3, 5), "float32"), np.zeros((5, 5), "float32")


def chain_call():
    return ops.linear_chain(UNARY, TRANSITIONS).choice.call


@pytest.fixture
def registry():
    """What a test registers is gone after it."""
    before = {family: dispatch.candidates(family) for family in dispatch.FAMILIES}
    yield
    for family, entries in before.items():
        dispatch._registry[family].clear()
        dispatch._registry[family].update(entries)


def test_explain_says_what_the_call_does(capsys):
    choice = ops.explain(ops.linear_chain, UNARY, TRANSITIONS)
    assert choice.name == ops.linear_chain(UNARY, TRANSITIONS).choice.name
    printed = capsys.readouterr().out
    assert f"linear_chain on {choice.call.backend}, cpu: {choice.name}" in printed


def test_facts_decide():
    many = dataclasses.replace(chain_call(), backend="tensorflow")
    choice = dispatch.choose(many)
    assert choice.name == "portable"
    assert "not parallel: it does K times more work" in str(choice)
    few = dataclasses.replace(many, shapes=((1, 3, 2), (1, 1, 2, 2)))
    assert dispatch.choose(few).name == "parallel"


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
    traced = dataclasses.replace(chain_call(), traced=True)
    with pytest.raises(NotImplementedError, match="concrete values"):
        dispatch.choose(traced, "reference")
    with pytest.raises(NotImplementedError, match="it has no subset"):
        ops.subset(UNARY[..., 0], 1, implementation="parallel")
    with pytest.raises(ValueError, match="Received: implementation='fastest'"):
        ops.linear_chain(UNARY, TRANSITIONS, implementation="fastest")
    with pytest.raises(ValueError, match="Received: implementation='fastest'"), ops.use("fastest"):
        pass
    with pytest.raises(ValueError, match="Received: op="):
        ops.implementations("no_such_structure")


def test_every_structure_has_its_family_and_portable_takes_everything():
    for op, family in dispatch.structures().items():
        assert callable(getattr(ops, op))
        names = ops.implementations(op)
        if family == "transport":
            continue
        assert "portable" in names and names[-1] == "reference", op
        portable = dispatch.candidates(family)["portable"]
        assert dispatch._lacking(portable) == ()


def test_the_reference_runs_as_an_implementation():
    slow = ops.linear_chain(UNARY, TRANSITIONS, implementation="reference")
    np.testing.assert_allclose(array(slow.value()), np.log(125), rtol=1e-6)


def test_a_kernel_may_start_as_one_function(registry):
    """Whoever registers an implementation gets every other sweep from `portable`."""
    from keras_struct.ops.chain.linear_chain.portable import Sequential

    used = []

    class Kernel(ops.Implementation):
        def rejects(self, call):
            return None if call.op == "linear_chain" else "it is for linear chains"

        def forward(self, problem, op):
            used.append(op)
            return Sequential().forward(problem, op)

    ops.register_implementation("chain", "kernel", Kernel(), before="native_cpu")
    assert ops.implementations("linear_chain")[:3] == ("divided", "kernel", "native_cpu")
    d = ops.linear_chain(UNARY, TRANSITIONS)
    assert d.choice.name == "kernel"
    assert d.choice.by_portable == ("backward", "curvature", "trace", "sample", "topk")
    assert "backward, curvature, trace, sample, topk: portable" in str(d.choice)
    plain = ops.linear_chain(UNARY, TRANSITIONS, implementation="portable")
    np.testing.assert_allclose(array(d.value()), array(plain.value()), rtol=1e-6)
    np.testing.assert_allclose(array(d.marginals()), array(plain.marginals()), rtol=1e-6)
    np.testing.assert_array_equal(array(d.argmax()), array(plain.argmax()))
    np.testing.assert_array_equal(array(d.sample(0, 3)), array(plain.sample(0, 3)))
    assert used
    assert ops.categorical(UNARY[0]).choice.rejected[1:3] == (
        ("kernel", "it is for linear chains"),
        ("native_cpu", "it has no categorical"),
    )
    with pytest.raises(ValueError, match="Received: family='nothing'"):
        ops.register_implementation("nothing", "kernel", Kernel())
    with pytest.raises(ValueError, match="Received: before='nothing'"):
        ops.register_implementation("chain", "kernel", Kernel(), before="nothing")


def test_a_target_is_where_the_program_will_run(capsys):
    with ops.target("tpu", "v5e"):
        choice = ops.explain(ops.linear_chain, UNARY, TRANSITIONS)
    assert (choice.call.platform, choice.call.device_kind) == ("tpu", "v5e")
    assert "tpu (v5e)" in capsys.readouterr().out
    assert ops.linear_chain(UNARY, TRANSITIONS).choice.call.platform == "cpu"
    with pytest.raises(ValueError, match="Received: platform='abacus'"), ops.target("abacus"):
        pass
