"""`torch.compile` without a graph break: every structure, training, one operator for each sweep.

Losses are written in PyTorch: Dynamo cannot read `keras.ops` of Keras below 3.15.
"""

import functools

import keras
import numpy as np
import pytest

from keras_struct import ops
from keras_struct.ops import dispatch, native
from keras_struct.ops.chain.categorical.portable import CategoricalPortable
from keras_struct.ops.structure_cases import Loss, every_structure
from keras_struct.ops.testing import BACKEND, EVERY_CASE, array

if BACKEND != "torch":
    pytest.skip("torch.compile is PyTorch's", allow_module_level=True)

import torch
from functorch.compile import make_boxed_func, min_cut_rematerialization_partition
from torch._dynamo.backends.common import aot_autograd

from keras_struct.ops.autodiff import torch_operator

compiled = functools.partial(torch.compile, fullgraph=True, backend="aot_eager")
RNG = np.random.default_rng(0)
LENGTHS = np.array([4, 2], "int32")
# One program, and compiled for ten seconds each.
ALIGNMENTS = ("overlap", "smith_waterman", "saigo_vert", "dtw", "levenshtein", "osa", "lcs")


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()


def chain(n=4):
    unary, transitions = RNG.normal(size=(2, n, 3)), RNG.normal(size=(3, 3))
    return [torch.tensor(x, dtype=torch.float32) for x in (unary, transitions)]


@pytest.fixture
def readable(case):
    op = case.distribution(dtype="float32").structure.op
    if op == "damerau":
        pytest.skip("its case has keras.ops read NumPy arrays, which Dynamo cannot follow")
    if op in ALIGNMENTS and not EVERY_CASE:
        pytest.skip("needleman_wunsch stands for it; in make test-every")


@every_structure
def test_values_and_gradients_equal_the_eager_ones(case, readable):
    loss = Loss(case)
    args = [torch.tensor(x, requires_grad=True) for x in loss.args]
    results = []
    for function in (loss, compiled(loss)):
        value = function(*args)
        results.append((value, *torch.autograd.grad(value, args)))
    for eager, found in zip(*results, strict=True):
        np.testing.assert_allclose(array(found), array(eager), rtol=1e-9, atol=1e-9)


@every_structure
def test_readouts_equal_the_eager_ones(case, readable):
    names = list(case.arrays())

    def readouts(*args):
        d = case.make(dict(zip(names, args, strict=True)), temperature=0.7)
        top = d.topk(2)
        return (
            d.argmax(), d.entropy(), top.events, top.scores, d.sample(3), d.sample(3, 4),
            d.log_prob(d.argmax()), d.score(top.events), d.kl_divergence(d),
        )  # fmt: skip

    args = [torch.tensor(x) for x in case.arrays().values()]
    for eager, found in zip(readouts(*args), compiled(readouts)(*args), strict=True):
        assert found.shape == eager.shape and found.dtype == eager.dtype
        np.testing.assert_allclose(array(found), array(eager), rtol=1e-9, atol=1e-9)


def test_hard_distributions():
    def readouts(unary, transitions):
        d = ops.linear_chain(unary, transitions, lengths=LENGTHS, temperature=0)
        return d.value(), d.marginals(), d.argmax()

    args = chain()
    for eager, found in zip(readouts(*args), compiled(readouts)(*args), strict=True):
        np.testing.assert_allclose(array(found), array(eager), rtol=1e-6)


def test_what_best_structures_make():
    """The search of sparse marginals is one operator, which sees values; sizes of batches vary."""

    def loss(unary, transitions):
        d = ops.linear_chain(unary, transitions, mask=np.array([[1, 0, 1, 1]] * len(unary), bool))
        return (d.sparse_marginals() ** 2).sum() + (d.implicit_mle() * unary).sum()

    function = compiled(loss, dynamic=True)
    for batch in (2, 3):
        unary, transitions = chain()
        args = [torch.cat([unary] * 2)[:batch].requires_grad_(), transitions.requires_grad_()]
        found, eager = (
            (value, *torch.autograd.grad(value, args)) for value in (function(*args), loss(*args))
        )
        for x, y in zip(found, eager, strict=True):
            np.testing.assert_allclose(array(x), array(y), rtol=1e-5, atol=1e-6)


def _graphs(n):
    """Names of the operators in the graphs of a training step of a chain of n positions."""
    names = []

    def keep(graph, inputs):
        names.append([str(node.target) for node in graph.graph.nodes])
        return make_boxed_func(graph.forward)

    def loss(unary, transitions):
        d = ops.linear_chain(unary, transitions, implementation="portable")
        return d.value().sum() + (d.marginals() ** 2).sum()

    args = [x.requires_grad_() for x in chain(n)]
    backend = aot_autograd(fw_compiler=keep, partition_fn=min_cut_rematerialization_partition)
    function = torch.compile(loss, fullgraph=True, backend=backend)
    torch.autograd.grad(function(*args), args)
    return names


def test_a_sweep_is_one_node_however_long_the_chain():
    short, long = _graphs(4), _graphs(128)
    assert [len(names) for names in short] == [len(names) for names in long]
    sweeps = [sum("keras_struct.sweep" in name for name in names) for names in long]
    # Forward and backward for the two readouts, merged; then the curvature.
    assert sweeps == [2, 1]


def test_opcheck():
    d = ops.linear_chain(*chain(), lengths=LENGTHS, implementation="portable")
    problem, sweeps = d._problem, d._sweeps
    tensors: list = []
    tree = torch_operator._flatten((problem,), tensors)
    key = torch_operator._key(torch_operator._Call(sweeps, "forward", ("logsumexp",), tree))
    torch.library.opcheck(torch.ops.keras_struct.sweep, (key, tensors))


def test_batches_of_unknown_size():
    def loss(scores, transitions):
        return (ops.linear_chain(scores, transitions).marginals() ** 2).sum()

    function = compiled(loss, dynamic=True)
    for batch in (2, 3, 5):
        scores = torch.tensor(RNG.normal(size=(batch, 4, 3)), requires_grad=True)
        transitions = torch.tensor(RNG.normal(size=(3, 3)))
        (found,) = torch.autograd.grad(function(scores, transitions), scores)
        (eager,) = torch.autograd.grad(loss(scores, transitions), scores)
        np.testing.assert_allclose(array(found), array(eager), rtol=1e-9)


def test_tapes_differ_from_length_to_length():
    """The parallel chain keeps an array for each level of its tree."""

    def loss(scores, transitions):
        d = ops.linear_chain(scores, transitions, implementation="parallel")
        return (d.marginals() ** 2).sum()

    for n in (4, 9, 4):
        torch._dynamo.reset()
        args = chain(n)
        np.testing.assert_allclose(array(compiled(loss)(*args)), array(loss(*args)), rtol=1e-6)


class NativeSoftmax(native.NativeImplementation, CategoricalPortable):
    """In NumPy, which sees concrete arrays only."""

    def backward(self, problem, tape):
        return self.parts("_softmax", problem)

    def _softmax(self, spec, scores, lengths, result):
        weights = np.exp(scores - scores.max(1, keepdims=True))
        result[:] = weights / weights.sum(1, keepdims=True)


def test_native_implementations_run_inside(monkeypatch):
    entries = {"native_toy": NativeSoftmax(), **dispatch._registry["chain"]}
    monkeypatch.setitem(dispatch._registry, "chain", entries)

    def loss(scores, implementation):
        return (ops.categorical(scores, implementation=implementation).marginals() ** 2).sum()

    scores = torch.tensor(RNG.normal(size=(3, 4)), requires_grad=True)
    value = compiled(loss)(scores, "native_toy")
    eager = loss(scores, "portable")
    np.testing.assert_allclose(array(value), array(eager), rtol=1e-12)
    (found,), (wanted,) = (torch.autograd.grad(x, scores) for x in (value, eager))
    np.testing.assert_allclose(array(found), array(wanted), rtol=1e-12)


class ChainLoss(keras.losses.Loss):
    """Negative log-likelihood of tags."""

    def call(self, y_true, y_pred):
        d = ops.linear_chain(y_pred, keras.ops.zeros((3, 3)))
        return -d.log_prob(y_true)


def test_a_compiled_keras_model_trains():
    torch.compiler.set_default_backend("aot_eager")
    x, y = RNG.normal(size=(8, 5, 4)).astype("float32"), RNG.integers(3, size=(8, 5))
    weights = []
    for jit_compile in (False, True):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((5, 4)), keras.layers.Dense(3)])
        model.compile("sgd", ChainLoss(), jit_compile=jit_compile)
        model.fit(x, y, epochs=2, batch_size=4, shuffle=False, verbose=0)
        weights.append(model.get_weights()[0])
    np.testing.assert_allclose(weights[1], weights[0], rtol=1e-5)


def test_inductor():
    """The default compiler, for one small function; the other tests stop before it."""

    def readouts(unary, transitions):
        d = ops.linear_chain(unary, transitions, lengths=LENGTHS)
        return (d.marginals() ** 2).sum(), d.sample(5, 3)

    args = [x.requires_grad_() for x in chain()]
    (value, events), (wanted, drawn) = (
        torch.compile(readouts, fullgraph=True)(*args),
        readouts(*args),
    )
    np.testing.assert_array_equal(array(events), array(drawn))
    gradients = torch.autograd.grad(value, args), torch.autograd.grad(wanted, args)
    for found, eager in zip(*gradients, strict=True):
        np.testing.assert_allclose(array(found), array(eager), rtol=1e-4, atol=1e-6)
