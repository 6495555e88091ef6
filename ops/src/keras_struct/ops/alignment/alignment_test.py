import dataclasses
import functools
import importlib.util

import keras
import numpy as np
import pytest

from keras_struct import ops
from keras_struct.ops import native
from keras_struct.ops.alignment import cases, native_cpp, native_cpu
from keras_struct.ops.law_cases import for_backend, others
from keras_struct.ops.laws import ReadoutLaws, StructureLaws
from keras_struct.ops.testing import BACKEND, array, fast, float64, grad, tensor


@pytest.mark.parametrize("case", for_backend(cases.NEEDLEMAN_WUNSCH), ids=str)
class TestNeedlemanWunsch(StructureLaws):
    pass


@pytest.mark.parametrize("case", for_backend(cases.OVERLAP), ids=str)
class TestOverlap(StructureLaws):
    pass


@pytest.mark.parametrize("case", for_backend(cases.SMITH_WATERMAN), ids=str)
class TestSmithWaterman(StructureLaws):
    pass


@pytest.mark.parametrize("case", for_backend(cases.SAIGO_VERT), ids=str)
class TestSaigoVert(StructureLaws):
    pass


@pytest.mark.parametrize("case", for_backend(cases.DTW), ids=str)
class TestDTW(StructureLaws):
    pass


@pytest.mark.parametrize("case", for_backend(cases.MONOTONIC_ALIGNMENT), ids=str)
class TestMonotonicAlignment(StructureLaws):
    pass


@pytest.mark.parametrize("case", for_backend(cases.LEVENSHTEIN), ids=str)
class TestLevenshtein(StructureLaws):
    pass


@pytest.mark.parametrize("case", for_backend(cases.OSA), ids=str)
class TestOSA(StructureLaws):
    pass


@pytest.mark.parametrize("case", for_backend(cases.DAMERAU), ids=str)
class TestDamerau(StructureLaws):
    pass


@pytest.mark.parametrize("case", for_backend(cases.LCS), ids=str)
class TestLCS(StructureLaws):
    pass


LEFT = [
    pytest.param(x, id=f"{name}-{x}") for name, group in cases.ALL.items() for x in others(group)
]


@pytest.mark.parametrize("case", LEFT)
class TestOthers(ReadoutLaws):
    pass


# On JAX and TensorFlow, where each case compiles for seconds, one for every kind of start and end.
KINDS = [cases.NEEDLEMAN_WUNSCH, cases.SMITH_WATERMAN, cases.DTW, cases.MONOTONIC_ALIGNMENT]
OTHERS = [cases.OVERLAP, cases.SAIGO_VERT, cases.LEVENSHTEIN, cases.OSA, cases.LCS]
GROUPS = KINDS if BACKEND in ("jax", "tensorflow") else KINDS + OTHERS


@pytest.mark.compiles_long
def test_checkpointed_keeps_less():
    scores = np.zeros((1, 100, 150), "float32")

    def size(implementation):
        d = ops.needleman_wunsch(scores, -1.0, -0.5, implementation=implementation)
        return sum(np.prod(x.shape) for x in keras.tree.flatten(d._soft[1]))

    assert size("portable") > 6 * 100 * 250
    assert size("checkpointed") < size("portable") / 6


def test_checkpointed_refuses_transpositions():
    x = np.array([1, 2])
    costs = (x[:, None] != x).astype("float32")
    with pytest.raises(NotImplementedError, match="every row has to be kept"):
        ops.damerau(costs, ops.transposition_sources(x, x), implementation="checkpointed").value()


@pytest.mark.skipif(BACKEND not in ("jax", "torch"), reason="vmap of JAX and PyTorch")
@pytest.mark.parametrize("implementation", [None, "portable", "checkpointed"])
def test_vmap_of_a_gradient_of_the_map(implementation):
    rng = np.random.default_rng(0)
    stacked = rng.normal(size=(3, 2, 4, 5)).astype("float32")
    lengths = (np.array([4, 2]), np.array([5, 4]))

    def loss(scores):
        d = ops.smith_waterman(scores, -1.0, lengths=lengths, implementation=implementation)
        return keras.ops.sum(d.marginals() ** 2) + keras.ops.sum(d.value())

    if BACKEND == "jax":
        import jax

        mapped = jax.jit(jax.vmap(jax.grad(loss)))(stacked)
    else:
        import torch

        mapped = torch.func.vmap(torch.func.grad(loss))(torch.tensor(stacked))
    one_by_one = [array(fast(grad(loss))(tensor(x, "float32"))[0]) for x in stacked]
    np.testing.assert_allclose(array(mapped), one_by_one, rtol=1e-4, atol=1e-5)


with_numba = pytest.mark.skipif(
    BACKEND == "tensorflow" or importlib.util.find_spec("numba") is None,
    reason="native_cpu runs on JAX, PyTorch and NumPy, with Numba",
)


LONG = (3, 70, 45)  # three strips
LENGTHS = ((70, 33, 1), (45, 40, 32))
GAPS = {"gap_open_row": (3, 70, 1), "gap_open_column": (3, 70, 45), "gap_extend": (3, 1, 45)}
COSTS = {"deletion": (3, 70), "insertion": (3, 45), "transposition": ()}
ACROSS_STRIPS = [
    cases._case("needleman_wunsch", ops.needleman_wunsch, LONG, "scores", GAPS, LENGTHS),
    cases._case("overlap", ops.overlap, LONG, "scores", GAPS, LENGTHS),
    cases._case("smith_waterman", ops.smith_waterman, LONG, "scores", GAPS, LENGTHS),
    cases._case("dtw", ops.dtw, LONG, "costs", None, LENGTHS, band=20),
    cases._case("monotonic", ops.monotonic_alignment, LONG, lengths=((70, 40, 33), (45, 40, 1))),
    cases._case("osa", ops.osa, LONG, "substitutions", COSTS, LENGTHS, swaps=np.ones(LONG, bool)),
]


@pytest.mark.compiles_long
@with_numba
@pytest.mark.parametrize("case", ACROSS_STRIPS, ids=str)
def test_native_across_strips(case):
    check = functools.partial(case.check_same, "native_cpu", skip=["argmax"])  # of ties
    check("float64", rtol=1e-10, atol=1e-10)
    check("float32", rtol=2e-3, atol=2e-3)


@with_numba
@pytest.mark.parametrize("compiled", [False, True])  # by the C++ kernels, where there are some
def test_native_is_chosen_and_exact_in_float32(compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(native_cpp, "kernel_of", lambda problem: None)
    costs = np.random.default_rng(0).random((2, 200 + compiled, 150)).astype("float32")
    d = ops.dtw(tensor(costs, "float32"))  # a shape of its own: JAX keeps programs
    assert d.choice.name == "native_cpu"
    with float64():
        exact = ops.dtw(tensor(costs, "float64"))
        value, marginals = array(exact.value()), array(exact.marginals())
    np.testing.assert_allclose(array(d.value()), value, rtol=1e-7)
    np.testing.assert_allclose(array(d.marginals()), marginals, atol=1e-6 if compiled else 1e-7)


@with_numba
def test_native_in_parallel(monkeypatch):
    scores = tensor(np.random.default_rng(0).normal(size=(40, 40, 50)), "float32")
    lengths = (np.arange(1, 41), np.full(40, 50))

    def marginals():
        return array(ops.smith_waterman(scores, -1.0, lengths=lengths).marginals())

    alone = marginals()
    monkeypatch.setattr(native, "_threads", lambda: 3)
    monkeypatch.setattr(native, "SMALL", 0)
    np.testing.assert_array_equal(marginals(), alone)


def test_native_says_why_not(monkeypatch):
    call = ops.dtw(np.zeros((1, 2, 2), "float32"), implementation="portable").choice.call
    call = dataclasses.replace(call, backend="torch", platform="cpu", traced=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    kernel = native_cpu.Strips()
    assert kernel.rejects(call) is None
    for facts, reason in (
        ({"backend": "tensorflow"}, "tensorflow programs cannot hold"),
        ({"platform": "gpu"}, "the scores are on the gpu"),
        ({"traced": True}, "no vmap"),
    ):
        assert reason in kernel.rejects(dataclasses.replace(call, **facts))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install keras-struct-ops[native]" in kernel.rejects(call)


def test_a_pair_is_a_tuple():
    """A list is one value per example or position, whatever its length."""
    scores = np.zeros((2, 2, 3), "float32")
    listed = ops.needleman_wunsch(scores, gap_open=[-1.0, -2.0])
    assert list(listed.structure.potentials) == ["scores", "gap_open"]
    pair = ops.needleman_wunsch(scores, gap_open=(-1.0, -2.0))
    assert list(pair.structure.potentials) == ["scores", "gap_open_row", "gap_open_column"]
    with pytest.raises(ValueError, match="a tuple of two"):
        ops.needleman_wunsch(scores, gap_open=(-1.0, -2.0, -3.0))


@pytest.mark.compiles_long
@pytest.mark.parametrize("implementation", ["portable", "checkpointed", "native_cpu"])
@pytest.mark.parametrize("name", ["needleman_wunsch", "smith_waterman", "dtw", "overlap"])
def test_a_masked_symbol_is_no_part_of_the_sequence(name, implementation):
    if implementation == "native_cpu" and BACKEND == "tensorflow":
        pytest.skip("TensorFlow has no native_cpu")
    rng = np.random.default_rng(4)
    scores = rng.normal(size=(2, 7, 6)).astype("float32")
    masks = rng.random((2, 7)) < 0.7, rng.random((2, 6)) < 0.7
    gap = {} if name == "dtw" else {"gap_open": -0.4}
    function = getattr(ops, name)
    d = function(scores, **gap, mask=masks, implementation=implementation)
    paths, marginals, log_prob = array(d.argmax()), array(d.marginals()), d.log_prob(d.argmax())
    for b in range(2):
        rows, columns = np.flatnonzero(masks[0][b]), np.flatnonzero(masks[1][b])
        alone = function(scores[b][rows][:, columns], **gap, implementation="portable")
        np.testing.assert_allclose(array(d.value())[b], array(alone.value()), rtol=1e-5)
        found = marginals[b][rows][:, columns]
        np.testing.assert_allclose(found, array(alone.marginals()), atol=1e-6)
        assert np.isclose(marginals[b].sum(), found.sum())
        np.testing.assert_allclose(
            array(log_prob)[b], array(alone.log_prob(alone.argmax())), atol=1e-5
        )
        path, expected = paths[b], array(alone.argmax())
        path, expected = path[path[:, 0] >= 0], expected[expected[:, 0] >= 0]
        if name == "dtw":
            expected = np.stack([rows[expected[:, 0]], columns[expected[:, 1]]], 1)
        else:  # a node stands behind the last symbol that it has consumed
            ends = [np.concatenate([[0], x + 1]) for x in (rows, columns)]
            expected = np.stack([end[expected[:, i]] for i, end in enumerate(ends)], 1)
        np.testing.assert_array_equal(path, expected)
