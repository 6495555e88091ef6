"""The kernels of chains for GPUs, interpreted on any machine, and lowered for CUDA.

With GPU_TESTS=all (`make test-gpu`) every law of every case; else one program of readouts for some.
"""

import dataclasses
import functools

import numpy as np
import pytest

from keras_struct import ops
from keras_struct.ops import dispatch, pallas_testing
from keras_struct.ops.chain import exactness_test
from keras_struct.ops.chain.categorical.cases import CASES as CATEGORICAL
from keras_struct.ops.chain.ctc.cases import CASES as CTC
from keras_struct.ops.chain.linear_chain.cases import CASES as LINEAR_CHAIN
from keras_struct.ops.chain.pallas_tpu_test import ACROSS_TILES, SHORT
from keras_struct.ops.chain.semi_markov.cases import CASES as SEMI_MARKOV
from keras_struct.ops.chain.subset.cases import CASES as SUBSET
from keras_struct.ops.laws import ReadoutLaws, StructureLaws
from keras_struct.ops.pallas_testing import ALL_GPU, GPU, check_readouts, laws_of, lowered_for_gpu
from keras_struct.ops.testing import BACKEND, float64

pytestmark = pytest.mark.skipif(BACKEND != "jax", reason="Pallas is a part of JAX")
interpreter = pallas_testing.interpreter("chain", name=GPU)
Laws = StructureLaws if ALL_GPU else ReadoutLaws
CASES = {"linear_chain": LINEAR_CHAIN, "semi_markov": SEMI_MARKOV, "ctc": CTC, "subset": SUBSET}
SOME = ("semi_markov-forbidden", "subset-ragged")


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=f"{name}-{case.name}")
        for name, cases in CASES.items()
        for case in laws_of(cases, ALL_GPU, GPU)
        if ALL_GPU or f"{name}-{case.name}" in SOME
    ],
)
class TestLaws(Laws):  # type: ignore[misc, valid-type]
    pass


@pytest.mark.parametrize("name", ACROSS_TILES if ALL_GPU else ["ctc"])
def test_readouts_equal_portable(name):
    check_readouts(ACROSS_TILES[name], GPU)


LINKED = ("linear_chain", *["linear_chain_over_time", "linear_chain_each", "semi_markov"] * ALL_GPU)


@pytest.mark.parametrize("name", LINKED)
def test_links_in_tiles(name):
    """As those of more than 64 tags."""
    with pallas_testing.interpreted("chain", name=GPU, block=2):
        check_readouts(ACROSS_TILES[name], GPU)


@pytest.mark.skipif(not ALL_GPU, reason="programs of up to 600 steps; with GPU_TESTS=all")
@pytest.mark.parametrize("name", ["log_space", "over_time", "left_to_right", "semi_markov"])
def test_links_in_tiles_in_float32(name, monkeypatch):
    with pallas_testing.interpreted("chain", name=GPU, block=2):
        test_float32_equals_float64(name, monkeypatch)


@pytest.mark.skipif(not ALL_GPU, reason="programs of up to 600 steps; with GPU_TESTS=all")
@pytest.mark.parametrize(
    "name", ["log_space", "scaled", "over_time", "left_to_right", "semi_markov", "ctc", "subset"]
)
def test_float32_equals_float64(name, monkeypatch):
    if name in SHORT:
        case = (*SHORT[name], *exactness_test.CASES[name][2:])
        monkeypatch.setitem(exactness_test.CASES, name, case)
    exactness_test.test_float32_equals_float64(name, GPU)


@pytest.mark.skipif(not ALL_GPU, reason="two programs; with GPU_TESTS=all")
def test_many_samples():
    case = ACROSS_TILES["linear_chain"]
    with float64():
        got, wanted = (
            case.read(lambda d: d.sample(1, 70), implementation=name) for name in (GPU, "portable")
        )
    np.testing.assert_array_equal(got, wanted)


def _readouts(make):
    """All readouts, by which every kernel of the family is called."""
    import jax

    def run(*arrays):
        def loss(*arrays):
            d = make(*arrays)
            return (d.marginals() ** 2).sum() + d.value().sum()

        d = make(*arrays)
        numbers = [n for n, x in enumerate(arrays) if "float" in str(x.dtype)]
        return d.argmax(), d.sample(1, 3), jax.grad(loss, numbers)(*arrays)

    return run


SWEEPS = ("forward_logsumexp", "forward_max", "backward", "tangent", "curvature", "walk_logsumexp")
LOWERED: dict[str, tuple] = {
    "linear_chain": (ops.linear_chain, [(2, 9, 5), (5, 5)]),
    "over_time": (ops.linear_chain, [(2, 9, 5), (2, 8, 5, 5)]),
    "many_tags": (ops.linear_chain, [(2, 9, 100), (100, 100)]),
    "semi_markov": (ops.semi_markov, [(2, 9, 3, 5), (5, 5)]),
    "ctc": (functools.partial(ops.ctc, labels=np.array([[1, 2, 2], [3, 1, 2]])), [(2, 9, 5)]),
    "subset": (functools.partial(ops.subset, k=2), [(2, 9)]),
}


@pytest.mark.parametrize("dtype", ["float32", *["float64"] * ALL_GPU])
@pytest.mark.parametrize("name", LOWERED if ALL_GPU else ["linear_chain", "ctc"])
def test_lowered_for_a_gpu(name, dtype):
    make, shapes = LOWERED[name]
    text = lowered_for_gpu("chain", _readouts(make), [np.zeros(x, dtype) for x in shapes])
    for sweep in (*SWEEPS, "walk_max"):
        assert f"keras_struct_chain_{sweep}" in text, sweep


def test_chosen_on_a_gpu():
    transitions = np.zeros((4, 4), "float32")
    with pallas_testing.uninterpreted("chain"), ops.target("gpu"):
        choice = ops.linear_chain(np.zeros((1, 3, 4), "float32"), transitions).choice
        assert (choice.name, choice.by_portable) == (GPU, ("topk",))
        assert ops.linear_chain(np.zeros((1, 3000, 4), "float32"), transitions).choice.name == (
            "parallel"
        )


def test_says_why_not():
    from keras_struct.ops.chain.pallas_gpu import ChainGPU

    unary = np.zeros((1, 3, 4), "float32")
    call = ops.linear_chain(unary, np.zeros((4, 4), "float32")).choice.call
    call = dataclasses.replace(call, platform="gpu", exporting=False)
    kernel = ChainGPU()
    assert kernel.rejects(call) is None
    categorical = dataclasses.replace(CATEGORICAL[0].call(), platform="gpu")
    subset = dataclasses.replace(SUBSET[0].call(), platform="gpu", options=(("states", 10**6),))
    for facts, reason in (
        ({"backend": "torch"}, "the backend is torch"),
        ({"platform": "cpu"}, "the scores are on the cpu"),
        ({"exporting": True}, "a SavedModel may run anywhere"),
        ({"shapes": ((1, None, 4), (1, 1, 4, 4))}, "shapes that are known"),
        ({"shapes": ((1, 3, 300), (1, 1, 300, 300))}, "more than 256 tags"),
    ):
        assert reason in kernel.rejects(dataclasses.replace(call, **facts))
    assert "one pass over the scores" in kernel.rejects(categorical)
    assert "too many for registers" in kernel.rejects(subset)
    long = dataclasses.replace(call, shapes=((2, 4096, 3), (1, 1, 3, 3)))
    assert "4096 steps one after the other" in kernel.avoids(long)
    many = dataclasses.replace(call, shapes=((1024, 4096, 3), (1, 1, 3, 3)))
    assert kernel.avoids(many) is None and kernel.avoids(call) is None
    assert dispatch.choose(many).name == GPU
