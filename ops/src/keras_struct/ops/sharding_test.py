"""Every structure on eight simulated devices: a divided batch stays so, without collectives."""

import os
import subprocess
import sys

import pytest

from keras_struct.ops.pallas_testing import ALL_GPU
from keras_struct.ops.testing import BACKEND

pytestmark = pytest.mark.skipif(BACKEND != "jax", reason="JAX divides arrays over devices")
COLLECTIVES = ("all-gather", "all-reduce", "collective-permute", "all-to-all", "reduce-scatter")

PRELUDE = """
import jax, numpy as np
from jax import numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from keras_struct import ops
from keras_struct.ops import cpp, dispatch, native
from keras_struct.ops.chain.categorical.portable import CategoricalPortable

mesh = Mesh(np.array(jax.devices()), ("batch",))
assert mesh.size == 8
rows, whole = NamedSharding(mesh, P("batch")), NamedSharding(mesh, P())
rng = np.random.default_rng(0)
unary = rng.normal(size=(16, 5, 3)).astype("float32")
transitions = rng.normal(size=(3, 3)).astype("float32")
lengths = np.array([5, 4, 3, 2, 1, 5, 5, 0] * 2, "int32")


class NativeSoftmax(native.NativeImplementation, CategoricalPortable):
    def rejects(self, call):
        return None if call.op == "categorical" else "it is a toy"

    def backward(self, problem, tape):
        return self.parts("_softmax", problem)

    def _softmax(self, spec, scores, lengths, result):
        weights = np.exp(scores - scores.max(1, keepdims=True))
        result[:] = weights / weights.sum(1, keepdims=True)


dispatch._registry["chain"] = {"native_toy": NativeSoftmax(), **dispatch._registry["chain"]}


def chain(implementation):
    return lambda u, t, n: ops.linear_chain(u, t, lengths=n, implementation=implementation)


def softmax(implementation):
    return lambda u, t, n: ops.categorical(u[:, :, 0], implementation=implementation)


MAKE = {
    "portable": chain("portable"), "parallel": chain("parallel"),
    "native": softmax("native_toy"), "softmax": softmax("portable"),
}
if cpp.library("chain"):
    MAKE["kernel"] = chain("native_cpu")
"""


def run(code):
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    # XLA's threads sometimes wait for ever for each other to end.
    ending = "\nimport os, sys\nsys.stdout.flush()\nos._exit(0)\n"
    command = [sys.executable, "-c", PRELUDE + code + ending]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


DIVIDED = """
def readouts(u, t, n):
    d = make(u, t, n)
    loss = lambda u: jnp.sum(make(u, t, n).marginals() ** 2)
    return d.value(), d.marginals(), d.argmax(), d.sample(3), jax.grad(loss)(u)

for name, make in MAKE.items():
    places = ((unary, rows), (transitions, whole), (lengths, rows))
    args = [jax.device_put(x, at) for x, at in places]
    compiled = jax.jit(readouts).lower(*args).compile()
    found = {x for x in COLLECTIVES if x in compiled.as_text()}
    assert not found, (name, found)
    divided = compiled(*args)
    for x, y in zip(divided, jax.jit(readouts)(unary, transitions, lengths)):
        assert x.sharding.is_equivalent_to(rows, x.ndim), (name, x.sharding)
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)

# The places of an event are added up for each example.
from keras_struct.ops import array
args = np.zeros((16, 5), "float32"), np.arange(48).reshape(16, 3) % 5, np.ones((16, 3), "float32")
added = jax.jit(array.add_at).lower(*(jax.device_put(x, rows) for x in args)).compile()
assert not {x for x in COLLECTIVES if x in added.as_text()}
wanted = np.zeros((16, 5), "float32")
np.add.at(wanted, (np.arange(16)[:, None], args[1]), args[2])
np.testing.assert_array_equal(added(*(jax.device_put(x, rows) for x in args)), wanted)
"""


def test_a_divided_batch_stays_divided():
    run(f"COLLECTIVES = {COLLECTIVES}\n" + DIVIDED)


SHARED = """
def loss(u, t, n):
    d = MAKE[name](u, t, n)
    return jnp.sum(d.value()) if name.startswith("p") else jnp.sum(d.marginals()[:, 0])

for name in ("portable", "parallel"):
    places = ((unary, rows), (transitions, whole), (lengths, rows))
    args = [jax.device_put(x, at) for x, at in places]
    compiled = jax.jit(jax.grad(loss, 1)).lower(*args).compile()
    text = compiled.as_text()
    assert not [x for x in COLLECTIVES if x in text and x != "all-reduce"], name
    assert "all-reduce" in text
    wanted = jax.jit(jax.grad(loss, 1))(unary, transitions, lengths)
    np.testing.assert_allclose(compiled(*args), wanted, rtol=1e-4, atol=1e-5)
"""


def test_the_gradient_of_a_shared_potential_is_one_sum_over_devices():
    run(f"COLLECTIVES = {COLLECTIVES}\n" + SHARED)


SHARD_MAP = """
weights = rng.normal(size=(16, 5)).astype("float32")

def loss(u, t, n, w):
    d = make(u, t, n)
    m = d.marginals()
    m = m if m.ndim == 2 else m[..., 0]
    return jnp.sum(m * w) + jnp.sum(jnp.where(n > 0, d.value(), 0.0))

def total(u, t, n, w):
    part = lambda *args: jax.lax.psum(loss(*args), "batch")
    specs = P("batch"), P(), P("batch"), P("batch")
    return jax.shard_map(part, mesh=mesh, in_specs=specs, out_specs=P())(u, t, n, w)

for name, make in MAKE.items():
    args = unary, transitions, lengths, weights
    for order in (lambda f: jax.grad(f, (0, 1)), lambda f: jax.grad(lambda *a: sum(
        jnp.sum(jnp.sin(g)) for g in jax.grad(f, (0, 1))(*a)), (0, 1))):
        divided, wanted = jax.jit(order(total))(*args), jax.jit(order(loss))(*args)
        for x, y in zip(divided, wanted):
            np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4, err_msg=name)
    moved = jax.jit(lambda *a: jax.jvp(lambda u: total(u, *a[1:]), a[:1], a[:1])[1])(*args)
    alone = jax.jit(lambda *a: jax.jvp(lambda u: loss(u, *a[1:]), a[:1], a[:1])[1])(*args)
    np.testing.assert_allclose(moved, alone, rtol=1e-3, atol=1e-4)
"""


def test_derivatives_under_shard_map_with_its_checks():
    run(SHARD_MAP)


KERNELS = """
import jax.export
from keras_struct.ops import pallas_testing

query = rng.normal(size=(16, 5, 4)).astype("float32")

def potentials(x):
    return ops.sinkhorn(x, x, steps=2, implementation="pallas_tpu").rows

with pallas_testing.interpreted("transport", sizes=((128, 128),)):
    wanted = jax.jit(potentials)(query)
    grid = Mesh(np.array(jax.devices()).reshape(2, 4), ("a", "b"))
    for sharding in (rows, NamedSharding(grid, P(("a", "b")))):
        x = jax.device_put(query, sharding)
        compiled = jax.jit(potentials).lower(x).compile()
        found = {name for name in COLLECTIVES if name in compiled.as_text()}
        assert not found, found
        assert compiled(x).sharding.is_equivalent_to(sharding, 2)
        np.testing.assert_allclose(compiled(x), wanted, atol=1e-5)
    x = jax.device_put(query[:6], NamedSharding(grid, P("a")))  # the other axis is too long
    np.testing.assert_allclose(jax.jit(potentials)(x), wanted[:6], atol=1e-5)

size = jax.export.symbolic_shape("1024*b, 4, 4")  # a block for each device, whatever b is
arcs = jax.ShapeDtypeStruct(size, "float32", sharding=rows)
with ops.target("tpu"):
    value = jax.jit(lambda x: ops.spanning_tree(x).value(), in_shardings=rows)
    text = jax.export.export(value, platforms=("tpu",))(arcs).mlir_module()
(call,) = [line for line in text.splitlines() if "manual_computation" in line]
assert '{"batch"}' in call and "keras_struct_spanning_tree" in text, call

make = chain("pallas_gpu")  # all examples share the transitions
with pallas_testing.interpreted("chain", name="pallas_gpu"):
    def both(u, t, n):
        return make(u, t, n).value(), jax.vmap(lambda u: make(u, t, n).marginals())(u[None])[0]

    places = ((unary, rows), (transitions, whole), (lengths, rows))
    args = [jax.device_put(x, at) for x, at in places]
    compiled = jax.jit(both).lower(*args).compile()
    found = {name for name in COLLECTIVES if name in compiled.as_text()}
    assert not found, found
    d = chain("portable")(unary, transitions, lengths)
    for x, y in zip(compiled(*args), (d.value(), d.marginals())):
        assert x.sharding.is_equivalent_to(rows, x.ndim)
        np.testing.assert_allclose(x, y, atol=1e-5)
"""


def test_kernels_of_pallas_are_divided():
    run(f"COLLECTIVES = {COLLECTIVES}\n" + KERNELS)


LAUNCHES = """
from keras_struct.ops import pallas_testing
from keras_struct.ops.alignment.gpu_plan import Sizes

costs = rng.normal(size=(8, 6, 3)).astype("float32")
lengths = np.array([6, 4, 3, 2, 1, 6, 5, 0], "int32"), np.array([3, 3, 2, 1, 1, 3, 0, 3], "int32")

def readouts(x, *lengths, name="pallas_gpu"):
    make = lambda x: ops.dtw(x, lengths=lengths, implementation=name)
    loss = lambda x: jnp.sum(make(x).marginals() ** 2)
    one = lambda x, *n: ops.dtw(x, lengths=n, implementation=name).marginals()
    mapped = jax.vmap(one)(*(x[:, None] for x in (x, *lengths)))[:, 0]
    return make(x).argmax(), mapped, jax.grad(loss)(x)

wanted = readouts(costs, *lengths, name="portable")
for times in (None, 6):  # in one launch, and in several
    with pallas_testing.interpreted("alignment", name="pallas_gpu", sizes=Sizes(4, 1, times)):
        args = [jax.device_put(x, rows) for x in (costs, *lengths)]
        compiled = jax.jit(readouts).lower(*args).compile()
        found = {name for name in COLLECTIVES if name in compiled.as_text()}
        assert not found, found
        for x, y in zip(compiled(*args), wanted):
            assert x.sharding.is_equivalent_to(rows, x.ndim)
            np.testing.assert_allclose(x, y, atol=1e-5)
"""


@pytest.mark.skipif(not ALL_GPU, reason="programs of all sweeps; with GPU_TESTS=all")
def test_strips_of_a_gpu_are_divided():
    run(f"COLLECTIVES = {COLLECTIVES}\n" + LAUNCHES)
