"""Transport in tiles against whole plans, autodiff of the same surrogate, and POT."""

import math
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_struct import ops
from keras_struct.ops import autodiff
from keras_struct.ops.testing import (
    BACKEND,
    HAS_GRADIENTS,
    array,
    compilers,
    fast,
    float64,
    grad,
    tensor,
)
from keras_struct.ops.transport import reference, tiles

SIZES, DEPTH, WIDTH, EPSILON = (11, 9), 5, 3, 0.7
LENGTHS = np.array([11, 7, 1]), np.array([9, 9, 4])
MASSES = np.random.default_rng(7).uniform(0.5, 2, (3, 11)), None
(QUERY, KEY), VALUE = np.random.default_rng(8).normal(size=(2, DEPTH)), np.ones(WIDTH)
# Options of `sinkhorn_tail`, and their meaning for the reference.
CASES: dict[str, dict] = {
    "dense": {},
    "band": {"band_width": 3},
    "masses": {"masses": MASSES, "band_width": 5},
    "unbalanced": {"kl_weights": (2.0, 0.5), "masses": MASSES},
    "half unbalanced": {"kl_weights": (None, 1.5), "band_width": 4},
    "spoke": {"dustbin": ops.Dustbin(QUERY, KEY, VALUE, (3.0, 2.0)), "band_width": 2},
    "block": {
        "dustbin": ops.Dustbin(QUERY, KEY, None, (np.array([2.0, 3.0, 1.5]), 2), "block"),
        "band_width": 2,
    },
    "unbalanced spoke": {
        "dustbin": ops.Dustbin(QUERY, KEY, VALUE),
        "band_width": 2,
        "kl_weights": (1.0, 3.0),
    },
}
gradients = pytest.mark.skipif(not HAS_GRADIENTS, reason="the NumPy backend has no gradients")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(tiles, "BLOCK", 4)
    monkeypatch.setattr(tiles, "WHOLE", 0)


def inputs(dtype="float64", padding=np.nan):
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(3, n, d)) for n, d in zip(SIZES, (DEPTH,) * 2, strict=True)]
    arrays.append(rng.normal(size=(3, SIZES[1], WIDTH)))
    for x, lengths in zip(arrays, (LENGTHS[0], LENGTHS[1], LENGTHS[1]), strict=True):
        for row, n in zip(x, lengths, strict=True):
            row[n:] = padding
    return [x.astype(dtype) for x in arrays]


def whole(query, key, value, options):
    """Scores, support, options of the reference, and values, with the dustbin first."""
    dustbin, band = options.get("dustbin"), options.get("band_width")
    lengths: tuple = LENGTHS
    sizes = np.array(SIZES)
    rows, columns, values = map(np.nan_to_num, (query, key, value))
    masses = [np.zeros((3, n)) for n in SIZES]
    if options.get("masses"):
        masses[0] = np.log(options["masses"][0])
    if dustbin is not None:
        first = np.zeros(WIDTH) if dustbin.value is None else dustbin.value
        tokens = dustbin.query, dustbin.key, first
        rows, columns, values = (
            np.concatenate([np.broadcast_to(t, (3, 1, len(t))), x], axis=1)
            for t, x in zip(tokens, (rows, columns, values), strict=True)
        )
        masses = [
            np.concatenate([np.log(np.broadcast_to(c, 3))[:, None], m], axis=1)
            for c, m in zip(dustbin.capacities, masses, strict=True)
        ]
        lengths, sizes = tuple(n + 1 for n in LENGTHS), sizes + 1
        band = band if dustbin.support == "spoke" else None
    exists = reference.support_of(lengths, sizes, band, dustbin is not None)
    scores = np.einsum("bid,bjd->bij", rows, columns) / (EPSILON * math.sqrt(DEPTH))
    weights = options.get("kl_weights", (None, None))
    relax = tuple(1.0 if w is None else w / (1 + w) for w in weights)
    return scores, exists, {"masses": masses, "relax": relax}, values


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("tail", [0, 2])
def test_equals_whole_plans(name, tail):
    options, (q, k, v) = CASES[name], inputs()
    scores, exists, more, values = whole(q, k, v, options)
    f, g = reference.solve(scores, exists, 4 + tail, **more)
    wanted = reference.plan(scores, exists, f, g) @ values
    wanted = wanted[:, 1:] if "dustbin" in options else wanted
    with float64():
        q, k, v = map(tensor, (q, k, v))
        got = ops.sinkhorn_tail(q, k, v, LENGTHS, EPSILON, base_steps=4, tail_steps=tail, **options)
        found = ops.sinkhorn(q, k, LENGTHS, EPSILON, steps=4 + tail, **options)
    np.testing.assert_allclose(array(got), wanted, atol=1e-12)
    again = reference.plan(scores, exists, array(found.rows), array(found.columns))
    np.testing.assert_allclose(again, reference.plan(scores, exists, f, g), atol=1e-12)


def loss(options, gradient="tail", base=4, tail=2):
    weights = np.random.default_rng(1).normal(size=(3, SIZES[0], WIDTH))

    def function(query, key, value, epsilon):
        output = ops.sinkhorn_tail(
            query,
            key,
            value,
            LENGTHS,
            epsilon,
            base_steps=base,
            tail_steps=tail,
            gradient=gradient,
            **options,
        )
        return (
            (output * tensor(weights, output.dtype)).sum()
            if BACKEND == "torch"
            else _sum(output * tensor(weights, output.dtype))
        )

    return function


def _sum(x):
    import keras

    return keras.ops.sum(x)


def by_autodiff(monkeypatch):
    """The same surrogate, differentiated by the framework."""
    monkeypatch.setattr(autodiff, "explicit", lambda sweep, *args: sweep.output(*args))


# One case has everything; where each is compiled for seconds, it must do.
NAMES = CASES if BACKEND == "torch" else ("unbalanced spoke",)


@gradients
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("tail", [0, 1, 2, 4] if BACKEND == "torch" else [2])
def test_adjoint_equals_autodiff_of_the_surrogate(name, dtype, tail, monkeypatch):
    with float64():
        x = [tensor(a, dtype) for a in (*inputs(dtype, 0.0), np.asarray(EPSILON))]
        function = loss(CASES[name], tail=tail)
        got = fast(grad(function))(*x)
        by_autodiff(monkeypatch)
        wanted = fast(grad(function))(*x)
    tolerance = 1e-10 if dtype == "float64" else 1e-5
    for a, b in zip(got, wanted, strict=True):
        scale = max(1.0, abs(array(b)).max())
        np.testing.assert_allclose(array(a) / scale, array(b) / scale, atol=tolerance)


@gradients
@pytest.mark.parametrize("name", NAMES)
def test_second_order_equals_autodiff(name, monkeypatch):
    def second(query, key, value, epsilon):
        first = grad(loss(CASES[name]))(query, key, value, epsilon)
        return sum(keras.ops.sum(g * g) for g in first)

    with float64():
        x = [tensor(a) for a in (*inputs(padding=0.0), np.asarray(EPSILON))]
        got = fast(grad(second))(*x)
        by_autodiff(monkeypatch)
        wanted = fast(grad(second))(*x)
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(array(a), array(b), rtol=1e-8, atol=1e-9)


STEEP = {"moderate": 1.0, "steep": 60.0}  # factor of the queries


@pytest.mark.parametrize("steep", STEEP)
@pytest.mark.parametrize("name", ["dense", "masses of all", "block", "band"])
def test_stored_plans_take_the_same_steps_as_tiles(name, steep):
    options = CASES.get(name, {"masses": MASSES})
    q, k, v = inputs(padding=0.0)
    with float64():
        q, k, v = map(tensor, (q * STEEP[steep], k, v))
        found = {}
        for name in ("stored", "tiled"):
            more = {"implementation": name, **options}
            report = ops.sinkhorn(q, k, LENGTHS, steps=27, **more)
            output = ops.sinkhorn_tail(q, k, v, LENGTHS, base_steps=27, **more)
            found[name] = [array(x) for x in (output, *report)]
    for stored, tiled in zip(*found.values(), strict=True):
        np.testing.assert_allclose(stored, tiled, rtol=1e-9, atol=1e-9)


@gradients
@pytest.mark.parametrize("gradient", ["unrolled", "implicit"] if BACKEND == "torch" else ["tail"])
@pytest.mark.parametrize("width", [None, 4] if BACKEND == "torch" else [None])
def test_stored_plans_have_the_same_gradients_as_tiles(gradient, width):
    with float64():
        x = [tensor(a) for a in (*inputs(padding=0.0), np.asarray(EPSILON))]
        found = []
        for name in ("stored", "tiled"):
            options = {"implementation": name, "band_width": width}
            found.append(fast(grad(loss(options, gradient, base=9)))(*x))
    for stored, tiled in zip(*found, strict=True):
        np.testing.assert_allclose(array(stored), array(tiled), atol=1e-9)


@gradients
def test_modes_agree_where_the_iteration_has_converged():
    options = {"kl_weights": (0.3, 0.3), "band_width": 4}
    with float64():
        x = [tensor(a) for a in (*inputs(padding=0.0), np.asarray(EPSILON))]
        modes = {
            mode: fast(grad(loss(options, mode, base=8, tail=1)))(*x)
            for mode in ("unrolled", "implicit")
        }
        for a, b in zip(modes["unrolled"], modes["implicit"], strict=True):
            np.testing.assert_allclose(array(b), array(a), atol=1e-8)
        if BACKEND != "torch":  # a long tail is compiled for a minute
            return
        longer = fast(grad(loss(options, "tail", base=1, tail=8)))(*x)
        shorter = fast(grad(loss(options, "tail", base=8, tail=1)))(*x)
    for a, c in zip(modes["unrolled"], longer, strict=True):
        np.testing.assert_allclose(array(c), array(a), atol=1e-8)
    for a, d in zip(modes["unrolled"][:2], shorter[:2], strict=True):
        assert abs(array(d) - array(a)).max() > 1e-6  # a short tail is biased


def test_doubly_stochastic_and_its_report():
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(2, 10, 4)).astype("float32") for _ in range(2))
    few, many = (ops.sinkhorn(x, y, epsilon=0.5, steps=n).residual for n in (2, 100))
    assert (array(few) > 1e-2).all() and (array(many) < 1e-4).all()
    eye = np.broadcast_to(np.eye(10, dtype="float32"), (2, 10, 10))
    plan = array(ops.sinkhorn_tail(x, y, eye, epsilon=0.5, base_steps=100))
    np.testing.assert_allclose(plan.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(plan.sum(2), 1, atol=1e-4)
    # The order of the pairs does not matter.
    order = rng.permutation(10)
    other = array(ops.sinkhorn_tail(x[:, order], y, eye, epsilon=0.5, base_steps=100))
    np.testing.assert_allclose(other, plan[:, order], atol=1e-5)


def test_a_schedule_of_epsilon_gets_there_sooner():
    rng = np.random.default_rng(1)
    x, y = (rng.normal(size=(1, 40, 4)).astype("float32") for _ in range(2))
    plain = ops.sinkhorn(x, y, epsilon=0.02, steps=60).residual
    schedule = [(32.0, 5), (16.0, 5), (8.0, 5), (4.0, 5), (2.0, 10)]
    scaled = ops.sinkhorn(x, y, epsilon=0.02, steps=30, schedule=schedule).residual
    assert array(scaled).max() < 0.5 * array(plain).max()


def test_spokes_are_a_block_where_the_band_holds_all():
    q, k, v = inputs("float32", 0.0)
    spoke, block = (
        ops.sinkhorn_tail(
            q, k, v, LENGTHS, band_width=20, dustbin=ops.Dustbin(QUERY, KEY, support=support)
        )
        for support in ("spoke", "block")
    )
    np.testing.assert_allclose(array(spoke), array(block), atol=1e-6)


def test_agrees_with_pot():
    ot = pytest.importorskip("ot")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(1, 12, 3)), rng.normal(size=(1, 8, 3))
    a, b = rng.uniform(0.5, 1.5, (1, 12)), rng.uniform(0.5, 1.5, (1, 8))
    b *= a.sum() / b.sum()
    cost = -(x[0] @ y[0].T) / math.sqrt(3)
    eye = np.eye(8)[None]
    with float64():
        plan, loose = (
            array(
                ops.sinkhorn_tail(
                    tensor(x),
                    tensor(y),
                    tensor(eye),
                    epsilon=0.5,
                    base_steps=200,
                    masses=(tensor(a), tensor(b)),
                    kl_weights=weights,
                )
            )[0]
            for weights in ((None, None), (4.0, 4.0))
        )
    wanted = ot.sinkhorn(a[0], b[0], cost, 0.5, numItermax=5000, stopThr=1e-14)
    np.testing.assert_allclose(plan, wanted, atol=1e-9)
    # POT's plan is against a · b, ours against 1: the scores make up for that.
    shifted = cost + 0.5 * np.log(a[0])[:, None] + 0.5 * np.log(b[0])
    wanted = ot.unbalanced.sinkhorn_unbalanced(
        a[0], b[0], shifted, 0.5, 2.0, numItermax=5000, stopThr=1e-14
    )
    np.testing.assert_allclose(loose, wanted, atol=1e-7)


def test_half_precision_and_empty_sides():
    query, key, value = inputs("float32", 0.0)
    short = ops.sinkhorn_tail(tensor(query, "bfloat16"), tensor(key, "bfloat16"), value, LENGTHS)
    full = array(ops.sinkhorn_tail(query, key, value, LENGTHS))
    np.testing.assert_allclose(array(short), full, atol=0.05)
    empty = (np.array([0, 3, 0]), np.array([2, 0, 0]))
    assert (array(ops.sinkhorn_tail(query, key, value, empty, band_width=2)) == 0).all()


@pytest.mark.parametrize("how", compilers())
def test_compiles_with_unknown_sizes(how):
    x = inputs("float32", 0.0)

    def run(query, key, value):
        return ops.sinkhorn_tail(query, key, value, band_width=3, base_steps=3)

    wanted = array(run(*x))
    compiled = compilers()[how](run, [1, 1, 1]) if how == "dynamic" else compilers()[how](run)
    np.testing.assert_allclose(
        array(compiled(*(tensor(a, "float32") for a in x))), wanted, atol=1e-5
    )


MEMORY = """
import resource, sys
import numpy as np, keras
from keras_struct import ops
from keras_struct.ops.testing import grad, fast, tensor, array

def run(n, w):
    rng = np.random.default_rng(0)
    x = [tensor(rng.normal(size=(1, n, 64)), "float32") for _ in range(3)]
    options = {"band_width": w, "base_steps": 1, "tail_steps": 1}
    f = lambda *x: keras.ops.sum(ops.sinkhorn_tail(*x, **options) ** 2)
    if keras.backend.backend() == "torch":  # without the graph of second derivatives
        f(*[a.requires_grad_() for a in x]).backward()
        found = [a.grad for a in x]
    else:
        found = fast(grad(f))(*x) if keras.backend.backend() != "numpy" else [f(*x)]
    assert all(np.isfinite(array(g)).all() for g in found)

peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
run(1024, 256)
before = peak()
run(16384, 256)
print("extra", peak() - before)
"""


def test_no_array_of_all_pairs_exists():
    """One plan of 16,384 x 16,384 would be 1 GiB."""
    command = [sys.executable, "-c", MEMORY]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout.split()[-1]) < 200


def test_errors():
    query, key, value = inputs("float32", 0.0)
    for arguments, message in (
        ({"epsilon": 0.0}, "epsilon=0.0"),
        ({"band_width": -1}, "band_width=-1"),
        ({"tail_steps": -1}, "tail_steps=-1"),
        ({"gradient": "none"}, "gradient='none'"),
        ({"kl_weights": (0.0, None)}, "kl_weights"),
        ({"kl_weights": (1.0,)}, "Expected a pair"),
        ({"masses": (-MASSES[0], None)}, "masses > 0"),
        ({"lengths": (np.array([12, 1, 1]), LENGTHS[1])}, "lengths of query"),
        ({"dustbin": ops.Dustbin(np.ones(2), np.ones(2))}, "size 5 for the dustbin"),
        ({"dustbin": ops.Dustbin(QUERY, KEY, support="all")}, "dustbin.support='all'"),
        ({"dustbin": ops.Dustbin(QUERY, KEY, capacities=(0.0, 1.0))}, "capacities > 0"),
        ({"dustbin": ops.Dustbin(QUERY, KEY, None, (1.0, np.array([1, 0, 2])))}, "capacities > 0"),
        ({"schedule": [(2.0, 0)]}, "steps of the schedule"),
    ):
        with pytest.raises(ValueError, match=message.replace("(", r"\(")):
            ops.sinkhorn_tail(query, key, value, **arguments)
    with pytest.raises(ValueError, match="queries and keys"):
        ops.sinkhorn_tail(query, key[..., :3], value)
    with pytest.raises(ValueError, match="as many values as keys"):
        ops.sinkhorn_tail(query, key, value[:, :3])
