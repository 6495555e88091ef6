"""Chains in float32 beside the same potentials in float64: long, cold, hot, large, second order.

All scales and temperatures of a structure are examples of one batch, so that each structure is
compiled twice.
"""

import functools
from typing import Any

import numpy as np
import pytest
from keras import ops as K

from keras_struct import ops
from keras_struct.ops.testing import BACKEND, HAS_GRADIENTS, array, fast, float64, grad, tensor

SCALES_AND_TEMPERATURES = [
    (0.1, 1e-8),
    (0.1, 1e-2),
    (0.1, 10.0),
    (1.0, 1e-4),
    (1.0, 1e-2),
    (1.0, 1.0),
    (20.0, 1e-8),
    (20.0, 1.0),
    (20.0, 10.0),
    (1e3, 1e-3),
    (1e3, 1.0),
    (1e3, 10.0),
    (1e5, 1e-8),
    (1e5, 10.0),
]
MODERATE = [(0.1, 1.0), (1.0, 1.0), (1.0, 0.3), (20.0, 10.0)]


def _left_to_right(x):
    """Tags that only move up, from the first to the last: distant prefixes must be compared."""
    x["transitions"] = np.where(np.tri(3, k=-1) + np.tri(3, k=-2).T > 0, -np.inf, x["transitions"])
    x["unary"][:, 0, 1:] = -np.inf
    x["unary"][:, -1, :2] = -np.inf
    return x


LABELS = np.random.default_rng(2).integers(1, 12, size=(1, 50))


def _ctc(log_probs, **options):
    labels = np.repeat(LABELS, log_probs.shape[0], axis=0)
    return ops.ctc(log_probs, labels, **options)


sequential = functools.partial(ops.linear_chain, implementation="portable")
parallel = functools.partial(ops.linear_chain, implementation="parallel")
# Name: function, shapes without the batch axis, examples, what is changed in the arrays.
CASES: dict[str, Any] = {
    "subset": (
        functools.partial(ops.subset, k=200),
        {"scores": (1000,)},
        SCALES_AND_TEMPERATURES,
        None,
    ),
    "ctc": (_ctc, {"log_probs": (300, 12)}, SCALES_AND_TEMPERATURES, None),
    "log_space": (
        sequential,
        {"unary": (600, 3), "transitions": (3, 3)},
        SCALES_AND_TEMPERATURES,
        None,
    ),
    "scaled": (sequential, {"unary": (600, 6), "transitions": (6, 6)}, MODERATE, None),
    "over_time": (
        sequential,
        {"unary": (400, 3), "transitions": (399, 3, 3)},
        SCALES_AND_TEMPERATURES,
        None,
    ),
    "parallel": (
        parallel,
        {"unary": (2000, 3), "transitions": (3, 3)},
        SCALES_AND_TEMPERATURES,
        None,
    ),
    "left_to_right": (
        sequential,
        {"unary": (600, 3), "transitions": (3, 3)},
        SCALES_AND_TEMPERATURES,
        _left_to_right,
    ),
    "left_to_right_parallel": (
        parallel,
        {"unary": (600, 3), "transitions": (3, 3)},
        SCALES_AND_TEMPERATURES,
        _left_to_right,
    ),
    "semi_markov": (
        ops.semi_markov,
        {"segments": (300, 4, 3), "transitions": (3, 3)},
        SCALES_AND_TEMPERATURES,
        None,
    ),
    "categorical": (ops.categorical, {"scores": (2000,)}, SCALES_AND_TEMPERATURES, None),
}


def _potentials(name):
    """float32 potentials over the temperature, by name."""
    _, shapes, examples, change = CASES[name]
    rng = np.random.default_rng(0)
    x = {key: rng.normal(size=(len(examples), *shape)) for key, shape in shapes.items()}
    for i, (scale, temperature) in enumerate(examples):
        for key in x:
            x[key][i] *= scale / temperature
    return {key: value.astype("float32") for key, value in (change(x) if change else x).items()}


def compiled(function):
    """As `fast`, and a graph on TensorFlow, where the steps of a loop are slow outside of one."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(function, autograph=False)
    return fast(function)


@functools.cache
def _readouts(name, dtype, implementation):
    """Function of potentials: value, marginals, and the gradient of a function of the marginals."""
    build, shapes, examples, _ = CASES[name]
    if implementation is not None:
        build = functools.partial(build, implementation=implementation)
    rng = np.random.default_rng(1)
    weights = [rng.normal(size=(len(examples), *shape)) for shape in shapes.values()]

    def of_marginals(*args):
        marginals = build(**dict(zip(shapes, args, strict=True))).marginals("all").values()
        return sum(K.sum(tensor(w, dtype) * p) for w, p in zip(weights, marginals, strict=True))

    def run(*args):
        d = build(**dict(zip(shapes, args, strict=True)))
        gradients = grad(of_marginals)(*args) if HAS_GRADIENTS else ()
        return d.value(), tuple(d.marginals("all").values()), tuple(gradients)

    run = compiled(run)

    def read(arrays):
        value, marginals, gradients = run(*[tensor(x, dtype) for x in arrays.values()])
        return array(value), [array(x) for x in marginals], [array(x) for x in gradients]

    return read


@pytest.mark.parametrize("name", CASES)
def test_float32_equals_float64(name, implementation=None):
    arrays = _potentials(name)
    value, marginals, gradients = _readouts(name, "float32", implementation)(arrays)
    rng = np.random.default_rng(3)
    # What half a unit in the last place of the scores changes is not determined by them.
    nearby = {k: x * (1 + 3e-8 * rng.choice([-1, 1], x.shape)) for k, x in arrays.items()}
    with float64():
        exact_value, exact, exact_gradients = _readouts(name, "float64", None)(arrays)
        _, moved, moved_gradients = _readouts(name, "float64", None)(nearby)
    np.testing.assert_allclose(value, exact_value, rtol=3e-7)
    for x, e, m in zip(marginals, exact, moved, strict=True):
        assert np.isfinite(x).all()
        room = 3 * np.max(abs(e - m), axis=tuple(range(1, e.ndim)), keepdims=True)
        error = abs(x - e) - room
        assert (error <= 1e-4 * np.maximum(1, abs(e))).all(), error.max()
    for x, e, m, p in zip(gradients, exact_gradients, moved_gradients, exact, strict=False):
        assert np.isfinite(x).all()
        axes = tuple(range(1, e.ndim))
        room = 3 * np.max(abs(e - m), axis=axes, keepdims=True)
        # The gradient of a shared score is a sum over its uses, which may cancel.
        size = np.max(np.maximum(abs(e), p), axis=axes, keepdims=True)
        assert (abs(x - e) - room <= 1e-4 * np.maximum(1, size)).all()


def test_probabilities_of_long_subsets():
    """Rounding does not add up over 2,000 items."""
    scores = (20 * np.random.default_rng(0).normal(size=(1, 2000))).astype("float32")
    p = array(compiled(lambda x: ops.subset(x, 200).marginals())(tensor(scores, "float32")))
    assert p.max() <= 1 + 1e-6
    np.testing.assert_allclose(p.sum(dtype="float64"), 200, atol=1e-3)


def few_labels(log_probs, **options):
    labels = np.repeat(LABELS[:, :20], log_probs.shape[0], axis=0)
    return ops.ctc(log_probs, labels, **options)


SHORT: dict[str, Any] = {
    "subset": (functools.partial(ops.subset, k=20), {"scores": (120,)}),
    "ctc": (few_labels, {"log_probs": (60, 12)}),
    "sequential": (sequential, {"unary": (120, 6), "transitions": (6, 6)}),
    "over_time": (sequential, {"unary": (120, 3), "transitions": (119, 3, 3)}),
    "parallel": (parallel, {"unary": (120, 3), "transitions": (3, 3)}),
    "semi_markov": (ops.semi_markov, {"segments": (60, 4, 3), "transitions": (3, 3)}),
    "categorical": (ops.categorical, {"scores": (120,)}),
}


@pytest.mark.parametrize("name", SHORT)
def test_monotone_approach_to_temperature_zero(name):
    """The expected score rises to that of the best structure as the temperature falls."""
    build, shapes = SHORT[name]
    rng = np.random.default_rng(4)
    temperatures = 10.0 ** -np.arange(-1.0, 9.0)
    x = {
        k: np.repeat(rng.normal(size=(1, *s)).astype("float32"), 10, axis=0)
        for k, s in shapes.items()
    }

    def run(*args):
        named = dict(zip(x, args, strict=True))
        soft = build(**named, temperature=tensor(temperatures, "float32"))
        return soft.marginals("all"), build(**named, temperature=0).marginals("all")

    soft, hard = compiled(run)(*[tensor(v, "float32") for v in x.values()])
    expected = sum(
        np.sum(array(soft[k]).astype("float64") * x[k], axis=tuple(range(1, x[k].ndim))) for k in x
    )
    assert (np.diff(expected) >= -1e-6 * abs(expected).max()).all(), expected
    for key in x:
        np.testing.assert_allclose(array(soft[key])[-1], array(hard[key])[-1], atol=1e-6)


@pytest.mark.parametrize("name", ["sequential", "scaled", "parallel", "semi_markov", "ctc"])
def test_log_partition_as_a_pair(name):
    """The digits that a float32 sum of 40,000 loses are in the second number."""
    tags = np.random.default_rng(0).integers(0, 3, 2000)
    unary = np.where(np.arange(6)[:, None] == tags, 20.3, 0.0).T[None].astype("float32")
    builds = {
        "sequential": lambda x: sequential(x[:, :, :3], K.zeros((3, 3), dtype=x.dtype)),
        "scaled": lambda x: sequential(x, K.zeros((6, 6), dtype=x.dtype)),
        "parallel": lambda x: parallel(x[:, :, :3], K.zeros((3, 3), dtype=x.dtype)),
        "semi_markov": lambda x: ops.semi_markov(x[:, :, None, :3], K.zeros((3, 3), dtype=x.dtype)),
        "ctc": lambda x: ops.ctc(x, np.array([[1, 2, 1]])),
    }
    build = builds[name]

    def pair(x):
        return build(x)._soft[0]

    high, low = compiled(pair)(tensor(unary, "float32"))
    with float64():
        exact = array(compiled(lambda x: build(x).value())(tensor(unary)))
    np.testing.assert_allclose(array(high).astype("float64") + array(low), exact, atol=2e-4)


@pytest.mark.skipif(not HAS_GRADIENTS, reason="the NumPy backend has no gradients")
@pytest.mark.parametrize("name", ["subset", "ctc"])
def test_where_nothing_is_possible(name):
    """Too few items or frames: marginals 0, gradients 0; the other examples have theirs."""
    x = np.random.default_rng(0).normal(size=(3, 60, 4)).astype("float32")
    lengths = np.array([10, 60, 0], "int32")
    if name == "subset":
        x = x[..., 0]
        x[1, ::3] = -np.inf
        build = lambda x: ops.subset(x, 20, lengths=lengths)  # noqa: E731
    else:
        x[1, ::3, 2] = -np.inf
        labels = np.repeat(np.array([[1, 2, 3] * 5]), 3, axis=0)
        build = lambda x: ops.ctc(x, labels, lengths=(lengths, None))  # noqa: E731

    def run(x):
        gradient = grad(lambda x: K.sum(build(x).marginals() ** 2))(x)[0]
        return build(x).value(), build(x).marginals(), gradient

    value, p, gradient = (array(y) for y in compiled(run)(tensor(x, "float32")))
    assert np.isneginf(value[[0, 2]]).all() and np.isfinite(value[1])
    assert (p[[0, 2]] == 0).all() and (gradient[[0, 2]] == 0).all()
    assert np.isfinite(gradient).all() and abs(gradient[1]).max() > 1e-3
    assert (p[np.isneginf(x)] == 0).all()


EMPTY: dict[str, Any] = {
    "categorical": (ops.categorical, [(0, 4)], ()),
    "sequential": (sequential, [(0, 5, 3), (3, 3)], (5,)),
    "scaled": (sequential, [(0, 5, 6), (6, 6)], (5,)),
    "parallel": (parallel, [(0, 5, 3), (3, 3)], (5,)),
    "semi_markov": (ops.semi_markov, [(0, 5, 2, 3), (3, 3)], (5, 2)),
    "ctc": (lambda x: ops.ctc(x, np.zeros((0, 2), "int32")), [(0, 5, 3)], (5,)),
    "subset": (lambda x: ops.subset(x, np.zeros((0,), "int32")), [(0, 5)], (5,)),
}


@pytest.mark.parametrize("name", EMPTY)
def test_no_examples(name):
    build, shapes, event = EMPTY[name]

    def run(*args):
        d = build(*args)
        return d.value(), d.marginals(), d.argmax(), d.sample(0), d.sample(0, 3), d.topk(2).events

    args = [tensor(np.zeros(shape), "float32") for shape in shapes]
    found = [tuple(x.shape) for x in compiled(run)(*args)]
    assert found == [(0,), shapes[0], (0, *event), (0, *event), (3, 0, *event), (2, 0, *event)]


@pytest.mark.parametrize("function", [ops.categorical, functools.partial(ops.subset, k=1)])
def test_no_positions(function):
    with pytest.raises(ValueError, match="at least one item"):
        function(np.zeros((2, 0), "float32"))
