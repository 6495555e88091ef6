"""The kernels of chains for TPUs, interpreted on any machine.

With TPU_TESTS=all (`make test-tpu`) every law of every case; else one program of readouts for some.
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
from keras_struct.ops.chain.semi_markov.cases import CASES as SEMI_MARKOV
from keras_struct.ops.chain.subset.cases import CASES as SUBSET
from keras_struct.ops.law_cases import Case
from keras_struct.ops.laws import ReadoutLaws, StructureLaws
from keras_struct.ops.pallas_testing import ALL, NAME, check_readouts, laws_of
from keras_struct.ops.testing import BACKEND, float64

pytestmark = pytest.mark.skipif(BACKEND != "jax", reason="Pallas is a part of JAX")
interpreter = pallas_testing.interpreter("chain", times=2)
Laws = StructureLaws if ALL else ReadoutLaws
CASES = {"linear_chain": LINEAR_CHAIN, "semi_markov": SEMI_MARKOV, "ctc": CTC, "subset": SUBSET}
SOME = ("semi_markov-forbidden", "subset-ragged")


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=f"{name}-{case.name}")
        for name, cases in CASES.items()
        for case in laws_of(cases)
        if ALL or f"{name}-{case.name}" in SOME
    ],
)
class TestLaws(Laws):  # type: ignore[misc, valid-type]
    pass


def _case(function, shapes, scales=None, **options):
    """A case of random potentials, each example of the first times a number of its own."""

    def potentials(rng):
        made = {name: rng.normal(size=shape) for name, shape in shapes.items()}
        first = next(iter(made))
        if scales is not None:
            made[first] *= np.reshape(scales, (-1,) + (1,) * (made[first].ndim - 1))
        return made

    def build(potentials, **more):
        return function(**potentials, **options, **more)

    return Case("", build, potentials)


LENGTHS = np.array([9, 7, 1, 0], "int32")
# Several tiles; linear chains also of scores that leave the range of plain numbers.
ACROSS_TILES = {
    "linear_chain": _case(
        ops.linear_chain,
        {"unary": (4, 9, 3), "transitions": (3, 3), "start": (3,)},
        scales=(1, 300, 1, 1),
        lengths=LENGTHS,
    ),
    "linear_chain_each": _case(
        ops.linear_chain, {"unary": (4, 9, 17), "transitions": (4, 17, 17)}, lengths=LENGTHS
    ),
    "linear_chain_of_many_tags": _case(
        ops.linear_chain,
        {"unary": (3, 9, 40), "transitions": (40, 40)},
        scales=(1, 300, 1),
        lengths=LENGTHS[:3],
    ),
    "linear_chain_over_time": _case(
        ops.linear_chain, {"unary": (4, 9, 3), "transitions": (4, 8, 3, 3)}, lengths=LENGTHS
    ),
    "semi_markov": _case(
        ops.semi_markov, {"segments": (4, 9, 4, 3), "transitions": (3, 3)}, lengths=LENGTHS
    ),
    "semi_markov_long": _case(
        ops.semi_markov, {"segments": (2, 12, 10, 2), "transitions": (2, 2, 2)}
    ),
    "ctc": _case(
        functools.partial(ops.ctc, labels=np.array([[1, 2, 2, 1]] * 4)),
        {"log_probs": (4, 9, 3)},
        lengths=(None, np.array([4, 3, 1, 0], "int32")),
    ),
    "ctc_of_many_labels": _case(
        functools.partial(ops.ctc, labels=np.arange(18)[None] % 3 + 1), {"log_probs": (1, 25, 4)}
    ),
    "subset": _case(
        functools.partial(ops.subset, k=np.array([3, 0, 1, 0])), {"scores": (4, 9)}, lengths=LENGTHS
    ),
}


@pytest.mark.parametrize("name", ACROSS_TILES if ALL else ["linear_chain"])
def test_across_tiles(name):
    with pallas_testing.interpreted("chain", times=6):
        check_readouts(ACROSS_TILES[name])


@pytest.mark.skipif(not ALL, reason="six programs; with TPU_TESTS=all")
@pytest.mark.parametrize("name", ["linear_chain", "linear_chain_each", "linear_chain_of_many_tags"])
@pytest.mark.parametrize("attributes", [{"mxu_from": 1}, {"turned_to": 0}], ids=str)
def test_of_many_tags(name, attributes):
    """As matrix products, and where links by column do not fit."""
    with pallas_testing.interpreted("chain", times=4, **attributes):
        check_readouts(ACROSS_TILES[name])


@pytest.mark.parametrize("name", ["linear_chain", *["semi_markov", "ctc", "subset"] * ALL])
def test_without_races_or_fresh_memory(name):
    """Two tiles."""
    small = {
        "linear_chain": _case(
            ops.linear_chain,
            {"unary": (2, 2, 2), "transitions": (2, 2)},
            lengths=np.array([2, 0], "int32"),
        ),
        "semi_markov": _case(ops.semi_markov, {"segments": (1, 2, 2, 2), "transitions": (2, 2)}),
        "ctc": _case(functools.partial(ops.ctc, labels=np.array([[1]])), {"log_probs": (1, 2, 2)}),
        "subset": _case(functools.partial(ops.subset, k=1), {"scores": (1, 2)}),
    }
    with pallas_testing.interpreted("chain", strict=True, times=1):
        check_readouts(small[name])


# Moves are slow to interpret.
SHORT = {
    "ctc": (exactness_test.few_labels, {"log_probs": (60, 12)}),
    "subset": (functools.partial(ops.subset, k=16), {"scores": (80,)}),
}


@pytest.mark.skipif(not ALL, reason="programs of up to 600 steps; with TPU_TESTS=all")
@pytest.mark.parametrize(
    "name", ["log_space", "scaled", "over_time", "left_to_right", "semi_markov", "ctc", "subset"]
)
def test_float32_equals_float64(name, monkeypatch):
    if name in SHORT:
        case = (*SHORT[name], *exactness_test.CASES[name][2:])
        monkeypatch.setitem(exactness_test.CASES, name, case)
    with pallas_testing.interpreted("chain", times=None):
        exactness_test.test_float32_equals_float64(name, NAME)


@pytest.mark.skipif(not ALL, reason="two programs; with TPU_TESTS=all")
def test_more_examples_than_lanes_and_samples_than_fit():
    shapes = {"unary": (130, 3, 2), "transitions": (2, 2)}
    case = _case(ops.linear_chain, shapes, lengths=np.arange(130, dtype="int32") % 4)
    check_readouts(case)
    with float64():
        got, wanted = (
            case.read(lambda d: d.sample(1, 70), implementation=name) for name in (NAME, "portable")
        )
    np.testing.assert_array_equal(got, wanted)


def test_chosen_on_a_tpu():
    with ops.target("tpu"):
        choice = ops.linear_chain(
            np.zeros((1, 3, 4), "float32"), np.zeros((4, 4), "float32")
        ).choice
    assert (choice.name, choice.by_portable) == (NAME, ("topk",))


def test_says_why_not():
    from keras_struct.ops.chain.pallas_tpu import ChainTPU

    unary = np.zeros((1, 3, 4), "float32")
    call = ops.linear_chain(unary, np.zeros((4, 4), "float32")).choice.call
    call = dataclasses.replace(call, platform="tpu", exporting=False)
    kernel = ChainTPU()
    assert kernel.rejects(call) is None
    categorical = dataclasses.replace(CATEGORICAL[0].call(), platform="tpu")
    subset = dataclasses.replace(SUBSET[0].call(), platform="tpu", options=(("states", 10**6),))
    for facts, reason in (
        ({"backend": "torch"}, "the backend is torch"),
        ({"dtype": "float64"}, "no float64"),
        ({"shapes": ((1, None, 4), (1, 1, 4, 4))}, "shapes that are known"),
        ({"shapes": ((1, 3, 200), (1, 1, 200, 200))}, "more than 128 tags"),
    ):
        assert reason in kernel.rejects(dataclasses.replace(call, **facts))
    assert "one pass over the scores" in kernel.rejects(categorical)
    assert "does not fit" in kernel.rejects(subset)
    long = dataclasses.replace(call, shapes=((2, 100_000, 64), (1, 1, 64, 64)))
    assert "3 GB, mostly padding" in kernel.avoids(long)
    assert kernel.avoids(call) is None and dispatch.choose(call).name == NAME
    assert dispatch.choose(long).name == "portable"
