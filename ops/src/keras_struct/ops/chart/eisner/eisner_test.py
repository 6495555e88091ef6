import math

import keras
import numpy as np
import pytest

from keras_struct import ops
from keras_struct.ops.chart.eisner.cases import CASES
from keras_struct.ops.law_cases import for_backend, others
from keras_struct.ops.laws import ReadoutLaws, StructureLaws
from keras_struct.ops.testing import BACKEND, array, fast, float64, tensor


@pytest.mark.parametrize("case", for_backend(CASES), ids=str)
class TestEisner(StructureLaws):
    pass


@pytest.mark.parametrize("case", others(CASES), ids=str)
class TestOtherEisner(ReadoutLaws):
    pass


def read(function, arcs, dtype="float64", **options):
    """NumPy results of `function(distribution)`."""
    results = fast(lambda x: function(ops.eisner(x, **options)))(tensor(arcs, dtype))
    return [array(x) for x in results]


@pytest.mark.parametrize("single_root", [True, False])
def test_projective_trees_are_counted(single_root):
    """binom(3n - 2, n - 1) / n with one root, binom(3n, n) / (2n + 1) with any number."""
    n = 20
    lengths = np.arange(1, n + 1, dtype="int32")
    with float64():
        (value,) = read(
            lambda d: (d.value(),), np.zeros((n, n, n)), lengths=lengths, single_root=single_root
        )
    for length, found in zip(lengths.tolist(), value, strict=True):
        count = math.comb(3 * length, length) / (2 * length + 1)
        if single_root:
            count = math.comb(3 * length - 2, length - 1) / length
        np.testing.assert_allclose(np.exp(found), count, rtol=1e-9)


def test_fewer_trees_than_without_the_order_of_words():
    """Projective trees are spanning trees; every word has one head in both."""
    arcs = np.random.default_rng(0).normal(size=(3, 20, 20))
    lengths = np.array([20, 11, 3], "int32")
    with float64():
        value, marginals = read(lambda d: (d.value(), d.marginals()), arcs, lengths=lengths)
        all_trees = array(ops.spanning_tree(tensor(arcs), lengths=lengths).value())
        assert (value < all_trees).all()
        for p, n in zip(marginals, lengths, strict=True):
            np.testing.assert_allclose(p[:n].sum(1), 1.0, rtol=1e-12)
            np.testing.assert_allclose(np.trace(p), 1.0, rtol=1e-12)
            assert (p[n:] == 0).all()


@pytest.mark.parametrize("structure", [ops.cky, ops.eisner])
def test_memory_is_quadratic(structure):
    """What stays between the sweeps: a few numbers for each span."""

    def size(n):
        d = structure(np.zeros((1, n, n), "float32"))
        return sum(np.prod(x.shape) for x in keras.tree.flatten(d._soft[1]))

    assert size(64) < 4.1 * size(32)
    assert size(64) <= 14 * 64**2


def test_padding_of_long_sentences():
    """Long sentences run in parts; a short one among them has the result that it has alone."""
    arcs = np.random.default_rng(1).normal(size=(2, 24, 24))
    summary = lambda d: (d.value(), d.marginals(), d.argmax())  # noqa: E731
    with float64():
        together = read(summary, arcs, lengths=np.array([24, 9], "int32"))
        alone = read(summary, arcs[1, :9, :9])
    np.testing.assert_allclose(together[0][1], alone[0], rtol=1e-12)
    np.testing.assert_allclose(together[1][1, :9, :9], alone[1], atol=1e-12)
    np.testing.assert_array_equal(together[2][1, :9], alone[2])


def test_float32_marginals_of_long_sentences_with_large_scores():
    arcs = np.float32(np.random.default_rng(2).normal(size=(2, 40, 40)) * 100)
    (marginals,) = read(lambda d: (d.marginals(),), arcs, "float32")
    with float64():
        (exact,) = read(lambda d: (d.marginals(),), arcs)
    np.testing.assert_allclose(marginals, exact, atol=1e-4)


@pytest.mark.skipif(BACKEND != "torch", reason="torch-struct runs on PyTorch")
@pytest.mark.parametrize("single_root", [True, False])
def test_agrees_with_torch_struct(single_root):
    """Its arcs are [head, dependent]."""
    torch_struct = pytest.importorskip("torch_struct")
    arcs = tensor(np.random.default_rng(3).normal(size=(3, 12, 12)))
    d = ops.eisner(arcs, single_root=single_root)
    theirs = arcs.transpose(1, 2).requires_grad_() * 1.0  # it writes into what it is given
    peer = torch_struct.DependencyCRF(theirs, multiroot=not single_root)
    np.testing.assert_allclose(array(d.value()), array(peer.partition), rtol=1e-10)
    marginals = array(peer.marginals.transpose(1, 2))
    np.testing.assert_allclose(array(d.marginals()), marginals, atol=1e-10)


@pytest.mark.parametrize(
    ("heads", "possible"),
    [
        ([1, 1, 1], True),
        ([2, 2, 2], True),
        ([0, 0, 1], True),
        ([0, 1, 1], False),  # two roots
        ([1, 0, 2], False),  # a cycle
        ([2, 1, 1], False),  # the arc from 2 to 0 leads over the root
    ],
)
def test_which_events_are_possible(heads, possible):
    log_prob = array(ops.eisner(tensor(np.zeros((3, 3)), "float32")).log_prob(heads))
    assert np.isfinite(log_prob) == possible
    if possible:
        np.testing.assert_allclose(np.exp(log_prob), 1 / 7, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"arcs": np.zeros((3, 4))}, "Expected arcs with equal axes"),
        ({"arcs": np.zeros((3, 3)), "labels": np.zeros((3, 4, 2))}, "Expected labels"),
        ({"arcs": np.zeros((3, 3)), "single_root": 1}, "Received: single_root=1"),
        ({"arcs": np.zeros((3, 3)), "lengths": np.array(4)}, "Received: lengths=4"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        ops.eisner(**arguments)
