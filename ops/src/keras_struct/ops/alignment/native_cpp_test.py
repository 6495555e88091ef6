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
        cpp.library() is None,
        reason="the C++ kernels are not compiled for this processor (python build.py does it)",
    ),
]
GAP = {"gap_open": -1.5}
EDITS = {"deletion": 1.0, "insertion": 2.0}
STRUCTURES = {
    "needleman_wunsch": (ops.needleman_wunsch, GAP),
    "dtw": (ops.dtw, {}),
    "smith_waterman": (ops.smith_waterman, GAP),
    "lcs": (ops.lcs, {}),
    "levenshtein": (ops.levenshtein, EDITS),
}
FIRST = list(STRUCTURES)[: 2 if BACKEND == "jax" else None]  # JAX compiles each for seconds


def results(name, scores, dtype, **options):
    function, given = STRUCTURES[name]
    d = function(tensor(scores, dtype), **given, **options)
    marginals = {key: array(x) for key, x in d.marginals("all").items()}
    return array(d.value()), marginals, d._soft[1]


def test_structures_are_those_of_the_specs():
    for number, spec in enumerate(native_cpp.KERNELS):
        move = (ctypes.c_int64 * 5)()
        moves: list[tuple[int, ...]] = []
        while not cpp.library().lattice_move(number, len(moves), move):
            moves.append(tuple(move))
        expected = [(m.source, m.target, m.di, m.dj, m.channel) for m in spec.moves]
        assert moves == expected
    assert cpp.library().lattice_move(len(native_cpp.KERNELS), 0, move) == -1


@pytest.mark.parametrize("name", FIRST)
def test_both_sides_of_the_range(name):
    """One batch: plain scores, cold ones, some beyond the exponents, -inf, lengths 0 and 1, masks
    with holes."""
    rng = np.random.default_rng(0)
    sign = -1 if name in ("dtw", "levenshtein") else 1
    scores = (
        rng.normal(size=(8, 75, 40)) * np.array([1, 300, 1e4, 3e6, 1, 1, 1, 1e7])[:, None, None]
    )
    scores[4][rng.random((75, 40)) < 0.3] = -np.inf * sign
    if name == "dtw":
        scores[4, 10:60] = -np.inf * sign  # no path
    scores = scores.astype("float32")
    rows, columns = rng.random((8, 75)) < 0.9, rng.random((8, 40)) < 0.9
    rows[5], columns[6] = False, False
    rows[6], columns[5] = np.arange(75) == 7, np.arange(40) == 7
    scores[:, 20, 5] = np.where(rows[:, 20], scores[:, 20, 5], np.nan)
    mask = rows, columns
    value, marginals, tape = results(name, scores, "float32", mask=mask)
    assert isinstance(tape, native_cpp.Tape)
    outside = [bool(x) for x in array(tape.outside)]
    assert outside[3] and outside[7] and not any(outside[i] for i in (0, 1, 2, 4, 5, 6))
    with float64():
        wide = scores.astype("float64")
        exact, expected, _ = results(name, wide, "float64", mask=mask, implementation="portable")
    np.testing.assert_allclose(value, exact, rtol=1e-6, atol=1e-5)
    for key, x in marginals.items():
        assert np.isfinite(x).all()
        np.testing.assert_allclose(x, expected[key], rtol=1e-5, atol=2e-5, err_msg=key)
        assert (x[expected[key] == 0] == 0).all()


def test_threads_agree(monkeypatch):
    scores = np.random.default_rng(1).normal(size=(9, 70, 30)).astype("float32")
    alone = results("smith_waterman", scores, "float32")
    monkeypatch.setattr(native, "SMALL", 0)
    monkeypatch.setattr(cpp, "threads", lambda: 3)
    together = results("smith_waterman", scores, "float32")
    np.testing.assert_array_equal(together[0], alone[0])
    np.testing.assert_array_equal(together[1]["scores"], alone[1]["scores"])


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
    assert cpp.library.__wrapped__() is None
