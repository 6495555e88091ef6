"""Sequences that are divided over eight simulated devices: equal to one device."""

import numpy as np
import pytest

from keras_struct import ops
from keras_struct.ops.sharding_test import run
from keras_struct.ops.testing import BACKEND

jax_only = pytest.mark.skipif(BACKEND != "jax", reason="JAX divides arrays over devices")

CHAIN = """
import re

grid = Mesh(np.array(jax.devices()).reshape(2, 4), ("batch", "time"))
places = NamedSharding(grid, P("batch", "time"))
unary = rng.normal(size=(4, 16, 3)).astype("float32")
steps = rng.normal(size=(4, 15, 3, 3)).astype("float32")
ends = rng.normal(size=(2, 3)).astype("float32")
weights = rng.normal(size=(4, 16, 3)).astype("float32")
lengths = np.array([16, 9, 0, 1], "int32")  # the last parts of some are empty

def chain(u, t, e):
    return ops.linear_chain(u, t, e[0], e[1], lengths=lengths, temperature=0.5)

def readouts(u, t, e):
    d = chain(u, t, e)
    value = lambda *x: jnp.sum(chain(*x).value())
    loss = lambda *x: jnp.sum(chain(*x).marginals() * weights)
    gradients = [jax.grad(f, (0, 1, 2))(u, t, e) for f in (value, loss)]
    return d.value(), d.marginals("all"), gradients

def divided(*args):
    with ops.divided(grid, "time", "batch"):
        assert chain(*args).choice.name == "divided"
        return readouts(*args)

args = jax.device_put(unary, places), TRANSITIONS, ends
for x, y in zip(*(jax.tree.leaves(jax.jit(f)(*args)) for f in (readouts, divided))):
    np.testing.assert_allclose(x, y, rtol=1e-4, atol=2e-5)

def gradient(u):
    with ops.divided(grid, "time", "batch"):
        return jax.grad(lambda u: jnp.sum(ops.linear_chain(u, transitions).value()))(u)

compiled = jax.jit(gradient).lower(args[0]).compile()
assert compiled(args[0]).sharding.is_equivalent_to(places, 3)
found = re.findall(r"= \\w+\\[([\\d,]+)\\]\\S* (all-\\S+?|collective\\S+?)\\(", compiled.as_text())
# The transfers of all parts to all devices, as pairs, and nothing else.
assert sorted(set(found)) == [("4,2,3,3", "all-gather")] and len(found) == 2, found
"""


@jax_only
@pytest.mark.parametrize("transitions", ["transitions", "steps"])
def test_a_chain_is_parallel_in_time(transitions):
    run(CHAIN.replace("TRANSITIONS", transitions))


BAND = """
import re

grid = Mesh(np.array(jax.devices()).reshape(2, 4), ("batch", "time"))
places = NamedSharding(grid, P("batch", None, "time"))
sides = [rng.normal(size=(2, 2, 32, 4)).astype("float32") for _ in range(3)]
weights = rng.normal(size=(2, 2, 32, 4)).astype("float32")
lengths = np.array([[32], [19]], "int32") + np.zeros((1, 2), "int32")

def attend(q, k, v):
    return ops.sinkhorn_tail(q, k, v, (lengths, lengths), band_width=5, base_steps=4, OPTIONS)

def readouts(*sides):
    loss = lambda *x: jnp.sum(attend(*x) * weights)
    return attend(*sides), *jax.grad(loss, (0, 1, 2))(*sides)

def divided(*sides):
    with ops.divided(grid, "time", "batch"):
        return readouts(*sides)

args = [jax.device_put(x, places) for x in sides]
compiled = jax.jit(divided).lower(*args).compile()
for x, y in zip(jax.jit(readouts)(*args), compiled(*args)):
    assert y.sharding.is_equivalent_to(places, 4)
    np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
text = compiled.as_text()
assert not [x for x in ("all-gather", "all-to-all", "reduce-scatter") if x in text]
sent = re.findall(r"= \\w+\\[([\\d,]+)\\]\\S* collective-permute\\(", text)
assert sent and all(x.split(",")[1] == "5" for x in sent), sent  # half a band
means = re.findall(r"= \\w+\\[([\\d,]*)\\]\\S* all-reduce\\(", text)
assert all(x == "2" for x in means), means  # of a potential of each head
"""


@jax_only
@pytest.mark.parametrize("options", ["", 'gradient="implicit", kl_weights=(2.0, None)'])
def test_a_band_asks_its_neighbours(options):
    run(BAND.replace("OPTIONS", options))


@jax_only
def test_what_cannot_be_divided_is_explained():
    import jax

    class Mesh:
        shape = {"time": 4, "batch": 2}  # noqa: RUF012

    x, k = np.zeros((2, 10, 3), "float32"), np.zeros((3, 3), "float32")
    q = np.zeros((2, 16, 3), "float32")
    with ops.divided(Mesh(), "time", ["batch"]):
        cases = {
            "10 positions are not 4 equal parts": lambda: ops.linear_chain(x, k),
            "3 examples": lambda: ops.linear_chain(np.zeros((3, 16, 3), "float32"), k),
            "it has no subset": lambda: ops.subset(q[..., 0], 2),
            "without a band": lambda: ops.sinkhorn(q, q),
            "not as many queries as keys": lambda: ops.sinkhorn(q, q[:, :8], band_width=2),
            "16 positions are not 4 equal parts of 5": lambda: ops.sinkhorn(q, q, band_width=5),
        }
        for reason, call in cases.items():
            assert reason in dict(ops.explain(call).rejected)["divided"]
    assert "no sequence is divided" in dict(ops.explain(ops.linear_chain, x, k).rejected)["divided"]
    with (
        pytest.raises(ValueError, match="sequence='space'"),
        ops.divided(jax.sharding.Mesh(np.array(jax.devices()[:1]), ("time",)), "space"),
    ):
        pass


@pytest.mark.skipif(BACKEND == "jax", reason="JAX divides arrays over devices")
def test_other_backends_say_so():
    error = pytest.raises(NotImplementedError, match="Expected the JAX backend")
    with error, ops.divided(None, "time"):
        pass
