"""The C++ kernels of alignments: which structures they know, the border of their range, threads."""

import ctypes
import importlib.util

import numpy as np
import pytest

from keras_struct import ops
from keras_struct.ops import cpp, native
from keras_struct.ops.alignment import native_cpp, native_cpu
from keras_struct.ops.cpp import build
from keras_struct.ops.testing import BACKEND, array, float64, tensor

pytestmark = [
    pytest.mark.skipif(
        BACKEND == "tensorflow" or importlib.util.find_spec("numba") is None,
        reason="native_cpu runs on JAX, PyTorch and NumPy, with Numba",
    ),
    pytest.mark.skipif(
        cpp.library("lattice") is None,
        reason="the C++ kernels are not compiled for this processor (python build.py does it)",
    ),
]
GAP = {"gap_open": -1.5}
AFFINE = {"gap_open": -2.5, "gap_extend": -0.5}
STRUCTURES: dict[str, tuple] = {
    "dtw": (ops.dtw, {}),
    "smith_waterman": (ops.smith_waterman, AFFINE),
    "needleman_wunsch": (ops.needleman_wunsch, GAP),
    "needleman_wunsch affine": (ops.needleman_wunsch, {**AFFINE, "adjacent_gaps": "none"}),
    "overlap": (ops.overlap, GAP),
    "overlap affine": (ops.overlap, {**AFFINE, "adjacent_gaps": "ordered"}),
    "smith_waterman linear": (ops.smith_waterman, GAP),
    "saigo_vert": (ops.saigo_vert, AFFINE),
    "monotonic_alignment": (ops.monotonic_alignment, {}),
    "lcs": (ops.lcs, {}),
    "levenshtein": (ops.levenshtein, {"deletion": 1.0, "insertion": 2.0}),
}
FIRST = list(STRUCTURES)[: 2 if BACKEND == "jax" else None]  # JAX compiles each for seconds


def results(name, scores, dtype, scale=1.0, **options):
    """Value, marginals, products of the Hessian with fixed tangents, tape; gaps are scaled."""
    function, given = STRUCTURES[name]
    given = {
        key: x if isinstance(x, str) else tensor((x * scale * np.ones(len(scores))), dtype)
        for key, x in given.items()
    }
    d = function(tensor(scores, dtype), **given, **options)
    marginals = {key: array(x) for key, x in d.marginals("all").items()}
    rng = np.random.default_rng(2)
    tangents = [tensor(rng.normal(size=x.shape), dtype) for x in d._marginals]
    products = d._sweeps.curvature(d._problem, d._soft[1], tuple(tangents))
    return array(d.value()), marginals, [array(x) for x in products], d._soft[1]


def test_structures_are_those_of_the_specs():
    for number, known in enumerate(native_cpp.KERNELS):
        move = (ctypes.c_int64 * 5)()
        moves: list[tuple[int, ...]] = []
        while not cpp.library("lattice").lattice_move(number, len(moves), move):
            moves.append(tuple(move))
        expected = [(m.source, m.target, m.di, m.dj, m.channel) for m in known]
        assert moves == expected
    assert cpp.library("lattice").lattice_move(len(native_cpp.KERNELS), 0, move) == -1


@pytest.mark.parametrize("name", FIRST)
def test_both_sides_of_the_range(name):
    """One batch: plain scores, cold ones, some beyond the exponents, -inf, lengths 0 and 1, masks
    with holes."""
    rng = np.random.default_rng(0)
    sign = -1 if name in ("dtw", "levenshtein") else 1
    scale = np.array([1, 300, 1e4, 3e6, 1, 1, 1, 1e7])
    scores = rng.normal(size=(8, 75, 40)) * scale[:, None, None]
    scores[4][rng.random((75, 40)) < 0.3] = -np.inf * sign
    if name == "dtw":
        scores[4, 10:60] = -np.inf * sign  # no path
    scores = scores.astype("float32")
    rows, columns = rng.random((8, 75)) < 0.9, rng.random((8, 40)) < 0.9
    rows[5], columns[6] = False, False
    rows[6], columns[5] = np.arange(75) == 7, np.arange(40) == 7
    scores[:, 20, 5] = np.where(rows[:, 20], scores[:, 20, 5], np.nan)
    options = {"mask": (rows, columns), "scale": scale}
    value, marginals, products, tape = results(name, scores, "float32", **options)
    assert isinstance(tape, native_cpp.Tape)
    outside = [bool(x) for x in array(tape.outside)]
    assert outside[3] and outside[7] and not any(outside[i] for i in (0, 1, 2, 4, 5, 6))
    with float64():
        wide = scores.astype("float64")
        exact = results(name, wide, "float64", implementation="portable", **options)
    np.testing.assert_allclose(value, exact[0], rtol=1e-6, atol=1e-5)
    for key, x in marginals.items():
        assert np.isfinite(x).all()
        np.testing.assert_allclose(x, exact[1][key], rtol=1e-5, atol=3e-5, err_msg=key)
        assert (x[exact[1][key] == 0] == 0).all()
    size = np.max([np.abs(y).reshape(8, -1).max(1) for y in exact[2]], axis=0)[:, None, None]
    for x, y in zip(products, exact[2], strict=True):
        assert np.isfinite(x).all()
        np.testing.assert_allclose(x / (1 + size), y / (1 + size), atol=2e-4)


@pytest.mark.parametrize("name", FIRST)
def test_best_paths(name):
    """The score of a path that has the best score of all, under masks, lengths 0 and 1, -inf."""
    rng = np.random.default_rng(3)
    sign = -1 if name in ("dtw", "levenshtein") else 1
    scores = rng.normal(size=(6, 75, 40)).astype("float32")
    scores[1][rng.random((75, 40)) < 0.3] = -np.inf * sign
    scores[2] *= 1e6
    rows, columns = rng.random((6, 75)) < 0.9, rng.random((6, 40)) < 0.9
    rows[3], columns[4] = False, False
    rows[4], columns[3], columns[5] = np.arange(75) == 7, np.arange(40) == 7, np.arange(40) == 3
    function, given = STRUCTURES[name]

    def best(dtype, **options):
        x = tensor(scores.astype(dtype), dtype)
        d = function(x, **given, mask=(rows, columns), temperature=0, **options)
        return d, array(d.value()), array(d.argmax())

    d, value, path = best("float32")
    assert isinstance(d._max[1], native_cpp.BestTape)
    with float64():
        exact, expected, _ = best("float64", implementation="portable")
        np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-5)
        found = array(exact.score(tensor(path, "int32")))
    some = np.isfinite(expected)
    np.testing.assert_allclose(found[some], expected[some], rtol=1e-6, atol=1e-5)
    assert (path[~some] == -1).all()


def test_threads_agree(monkeypatch):
    scores = np.random.default_rng(1).normal(size=(9, 70, 30)).astype("float32")
    alone = results("smith_waterman", scores, "float32")
    monkeypatch.setattr(native, "SMALL", 0)
    monkeypatch.setattr(cpp, "threads", lambda: 3)
    together = results("smith_waterman", scores, "float32")
    np.testing.assert_array_equal(together[0], alone[0])
    for key, x in alone[1].items():
        np.testing.assert_array_equal(together[1][key], x)
    for x, y in zip(together[2], alone[2], strict=True):
        np.testing.assert_array_equal(x, y)


def test_gaps_of_columns_are_left_to_the_strips():
    scores = tensor(np.zeros((1, 4, 5)), "float32")
    gaps = tensor(np.zeros((1, 5)), "float32"), tensor(np.zeros((1, 4)), "float32")
    assert isinstance(ops.levenshtein(scores, 1.0, gaps[0])._soft[1], native_cpu.Tape)
    assert isinstance(ops.levenshtein(scores, gaps[1], 1.0)._soft[1], native_cpp.Tape)


def test_without_a_compiler_there_are_no_libraries(monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    assert build.build() == []
    monkeypatch.setattr(cpp, "supports", lambda processor: False)
    assert cpp.library.__wrapped__("lattice") is None


@pytest.mark.parametrize("affine", [False, True])
def test_probabilities_do_not_fade_along_a_path(affine):
    """A weight that is a digit too small at every step would be missing at the end of 2,000."""
    scores = 30 * np.random.default_rng(3).normal(size=(1, 1000, 1000)).astype("float32")
    gaps = (-2.0, -1.0) if affine else (-1.0,)
    d = ops.needleman_wunsch(tensor(scores, "float32"), *gaps, implementation="native_cpu")
    assert isinstance(d._soft[1], native_cpp.Tape)
    with float64():
        wide = ops.needleman_wunsch(tensor(scores), *gaps, implementation="native_cpu")
        exact, entropy = array(wide.marginals()), array(wide.entropy())
    np.testing.assert_allclose(array(d.marginals()), exact, atol=4e-6)
    digit = array(d.log_partition()) * 2.0**-23
    assert abs(array(d.entropy()) - entropy) < 8 * digit
