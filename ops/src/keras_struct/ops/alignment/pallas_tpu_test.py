"""The kernels of alignments for TPUs, interpreted on any machine.

With TPU_TESTS=all (`make test-tpu`) every law of every case; else one program of readouts for the
core cases of some structures.
"""

import dataclasses

import numpy as np
import pytest
from keras import ops as K

from keras_struct import ops
from keras_struct.ops import dispatch, pallas_testing
from keras_struct.ops.alignment import alignment_test, cases, precision_test
from keras_struct.ops.alignment.spec import DAMERAU
from keras_struct.ops.laws import ReadoutLaws, StructureLaws
from keras_struct.ops.numerics import FORBIDDEN
from keras_struct.ops.pallas_testing import ALL, NAME, check_readouts, laws_of
from keras_struct.ops.testing import BACKEND, array, tensor

pytestmark = pytest.mark.skipif(BACKEND != "jax", reason="Pallas is a part of JAX")
interpreter = pallas_testing.interpreter("alignment", sizes=(8, 8, 8, 1))
Laws = StructureLaws if ALL else ReadoutLaws


def listed(*names, others=()):
    """Cases of structures, of `others` only for all tests."""
    return [
        pytest.param(case, id=f"{name}-{case.name}")
        for name in (*names, *(others if ALL else ()))
        for case in laws_of(getattr(cases, name))
    ]


@pytest.mark.parametrize(
    "case",
    listed(
        "NEEDLEMAN_WUNSCH",
        "OVERLAP",
        "DTW",
        "MONOTONIC_ALIGNMENT",
        "OSA",
        others=("SMITH_WATERMAN", "SAIGO_VERT", "LEVENSHTEIN", "LCS"),
    ),
)
class TestLaws(Laws):  # type: ignore[misc, valid-type]
    pass


# Two or three strips and three tiles, with lengths 0 and 1.
SHAPE, LENGTHS = (4, 17, 11), ((17, 9, 1, 0), (11, 10, 11, 0))
GAPS = {"gap_open_row": (4, 17, 1), "gap_open_column": (4, 17, 11), "gap_extend": (4, 1, 11)}
PER_CELL = {"gap_open": (4, 17, 11), "gap_extend": (1, 17, 11)}
COSTS = {"deletion": (4, 17), "insertion": (4, 11), "transposition": ()}
ACROSS_TILES = {
    "smith_waterman": cases._case("", ops.smith_waterman, SHAPE, "scores", GAPS, LENGTHS),
    "needleman_wunsch": cases._case("", ops.needleman_wunsch, SHAPE, "scores", GAPS, LENGTHS),
    "overlap": cases._case("", ops.overlap, SHAPE, "scores", GAPS, LENGTHS),
    "per cell": cases._case("", ops.overlap, SHAPE, "scores", PER_CELL, LENGTHS),
    "saigo_vert": cases._case("", ops.saigo_vert, SHAPE, "scores", {"gap_open": ()}, LENGTHS),
    "dtw": cases._case("", ops.dtw, SHAPE, "costs", None, LENGTHS, band=9),
    "monotonic": cases._case(
        "", ops.monotonic_alignment, SHAPE, lengths=((17, 12, 9, 1), (11, 9, 1, 1))
    ),
    "osa": cases._case(
        "", ops.osa, SHAPE, "substitutions", COSTS, LENGTHS, swaps=np.ones(SHAPE, bool)
    ),
}


@pytest.mark.parametrize("name", ACROSS_TILES if ALL else ["osa"])
def test_across_strips_and_tiles(name):
    """With a block of columns to a tile; all of them, with two tiles to a block, too."""
    check_readouts(ACROSS_TILES[name])
    if ALL:
        with pallas_testing.interpreted("alignment", sizes=(8, 8, 16, 1)):
            check_readouts(ACROSS_TILES[name])


@pytest.mark.parametrize("function", ["needleman_wunsch", *["smith_waterman"] * ALL])
def test_without_races_or_fresh_memory(function):
    """Two strips of two tiles."""
    shape, gaps = (2, 9, 3), {"gap_open": ()}
    case = cases._case("", getattr(ops, function), shape, "scores", gaps, ((9, 0), (3, 2)))
    with pallas_testing.interpreted("alignment", strict=True, sizes=(8, 8, 8, 2)):
        check_readouts(case)


@pytest.mark.skipif(not ALL, reason="the precision test does it for one; with TPU_TESTS=all")
@pytest.mark.parametrize("name", ACROSS_TILES)
def test_out_of_range(name):
    """As if scores were too large to be summed as whole numbers."""
    with pallas_testing.interpreted("alignment", sizes=(8, 8, 8, 2), wholes=False):
        check_readouts(ACROSS_TILES[name])


@pytest.mark.parametrize("op, steps, scores, expected", [
    ("logsumexp", 1000, [8000.0, -8000.0, FORBIDDEN], True),
    ("logsumexp", 1000, [9000.0], False),
    ("logsumexp", 1000, [0.0, -1e9], False),
    ("logsumexp", 1000, [np.inf], False),
    ("max", 1000, [5.0, -4.0, 0.25, FORBIDDEN], True),
    ("max", 1000, [5.0, 0.1], False),
    ("max", 1000, [1e9, 1.0], False),
    ("max", 1000, [0.0], True),
    ("max", 2, [0.1], False),
    ("max", 2, [1 + 2**-10], True),
])  # fmt: skip
def test_what_is_in_range(op, steps, scores, expected):
    from keras_struct.ops.alignment.tpu_sums import in_range

    scores = tensor(scores, "float32")
    assert bool(in_range([scores[None, None]], steps, op)[0]) == expected


def test_best_path_of_scores_on_a_grid():
    """Sums of such scores have no rounding error, so messages are single numbers."""
    rng = np.random.default_rng(5)
    scores = rng.integers(-4, 12, (3, 17, 11)).astype("float32") / 4
    wanted, found = (
        ops.needleman_wunsch(scores, -0.75, lengths=([17, 9, 0], [11, 10, 3]), implementation=name)
        for name in ("portable", NAME)
    )
    np.testing.assert_array_equal(found.argmax(), wanted.argmax())


def test_scores_in_bfloat16_are_read_as_such():
    """Values and marginals are those of the same numbers in float32, to the last digit."""
    rng = np.random.default_rng(6)
    scores = rng.normal(0, 4, (3, 17, 11))
    scores[0, 3, 4] = -np.inf
    scores = tensor(scores, "bfloat16")
    narrow, wide = (
        ops.needleman_wunsch(x, -1.0, lengths=([17, 9, 0], [11, 10, 3]), implementation=NAME)
        for x in (scores, K.cast(scores, "float32"))
    )
    assert (narrow._problem.narrow, wide._problem.narrow) == ("bfloat16", None)
    for found, wanted in zip(narrow._pair, wide._pair, strict=True):
        np.testing.assert_array_equal(array(found), array(wanted))
    found, wanted = narrow.marginals(), K.cast(wide.marginals(), "bfloat16")
    np.testing.assert_array_equal(array(found), array(wanted))


def test_what_is_not_bfloat16_any_more():
    import jax

    scores = tensor(np.zeros((1, 3, 4)), "bfloat16")
    d = ops.needleman_wunsch(scores, -1.0)
    assert d._problem.replace(potentials=d._problem.potentials).narrow is None
    for other in (
        ops.needleman_wunsch(scores, -1.0, temperature=0.5),
        jax.tree.map(lambda x: x + 1e-3, d),
    ):
        assert other._problem.narrow is None


def test_more_examples_than_lanes():
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 4, 130), rng.integers(0, 3, 130)
    check_readouts(
        cases._case("", ops.needleman_wunsch, (130, 3, 2), "scores", {"gap_open": (130,)}, lengths)
    )


@pytest.mark.parametrize("name", precision_test.STRUCTURES if ALL else ["smith_waterman"])
def test_float32_at_every_temperature(name):
    precision_test.test_marginals_at_every_temperature(name, NAME)
    if ALL:
        precision_test.test_second_order_at_cold_temperatures(name, NAME)


def test_ties_of_sums_that_float32_cannot_hold():
    precision_test.test_ties_of_sums_that_float32_cannot_hold(NAME)


@pytest.mark.skipif(not ALL, reason="four programs; with TPU_TESTS=all")
def test_vmap_of_a_gradient_of_the_map():
    alignment_test.test_vmap_of_a_gradient_of_the_map(NAME)


def test_chosen_on_a_tpu():
    scores = np.zeros((1, 3, 4), "float32")
    with ops.target("tpu"):
        choice = ops.smith_waterman(scores, -1.0).choice
    assert (choice.name, choice.by_portable) == (NAME, ("topk",))


def test_says_why_not():
    from keras_struct.ops.alignment.pallas_tpu import AlignmentTPU

    call = ops.needleman_wunsch(np.zeros((1, 3, 4), "float32"), -1.0, -0.5).choice.call
    call = dataclasses.replace(call, platform="tpu", exporting=False)
    kernel = AlignmentTPU()
    assert kernel.rejects(call) is None
    gap = (1, 1, 1)
    for facts, reason in (
        ({"backend": "torch"}, "the backend is torch"),
        ({"platform": "gpu"}, "the scores are on the gpu"),
        ({"dtype": "float64"}, "no float64"),
        ({"exporting": True}, "a SavedModel may run anywhere"),
        ({"shapes": ((1, None, 4), gap, gap)}, "shapes that are known"),
        ({"shapes": ((1, 3, 40000), gap, gap)}, "do not fit in VMEM"),
        ({"spec": DAMERAU}, "any earlier row"),
    ):
        assert reason in kernel.rejects(dataclasses.replace(call, **facts))
    long = dataclasses.replace(call, shapes=((1, 3, 16384), gap, gap))
    assert kernel.rejects(long) and kernel.rejects(dataclasses.replace(long, device_kind="v5p"))
    assert kernel.rejects(dataclasses.replace(long, device_kind="TPU v5 lite")) is None
    assert kernel.made_for(long) is kernel.made_for(call)
    for shape in (1, 3, 4), (2, 4096, 4096):
        assert dispatch.choose(dataclasses.replace(call, shapes=(shape, gap, gap))).name == NAME
