"""A `Distribution` as a pytree of JAX: through every transformation it stays what it was."""

import keras
import numpy as np
import pytest

from keras_struct import ops
from keras_struct.ops.structure_cases import every_structure
from keras_struct.ops.testing import BACKEND, array

if BACKEND != "jax":
    pytest.skip("pytrees are JAX's", allow_module_level=True)

import jax
from jax import numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

pytestmark = pytest.mark.everywhere
RNG = np.random.default_rng(0)
EACH = np.array([0.5, 2.0], "float32")
MASK = np.array([[0, 1, 1, 0, 1], [1, 0, 1, 1, 1]], bool)
UNARY, TRANSITIONS = (RNG.normal(size=shape).astype("float32") for shape in ((2, 5, 3), (3, 3)))
ARCS, LABELS = (RNG.normal(size=shape).astype("float32") for shape in ((2, 5, 5), (2, 5, 5, 2)))


def chain(unary=UNARY, temperature=0.5):
    return ops.linear_chain(unary, TRANSITIONS, lengths=np.array([5, 2]), temperature=temperature)


MADE = {
    "lengths": lambda: chain(),
    "mask": lambda: ops.linear_chain(UNARY, TRANSITIONS, mask=MASK, temperature=EACH),
    "masks": lambda: ops.needleman_wunsch(ARCS, (-1.0, -0.5), mask=(MASK, ~MASK)),
    "labels": lambda: ops.eisner(ARCS, LABELS, mask=MASK, single_root=True),
    "variables": lambda: ops.categorical(keras.Variable(ARCS), temperature=keras.Variable(0.5)),
    "hard": lambda: chain(temperature=0),
}
made = pytest.mark.parametrize("make", MADE.values(), ids=MADE.keys())


def readouts(d):
    best, top = d.argmax(), d.topk(2)
    found = [d.value(), *d.marginals("all").values(), best, *top, d.sample(7, 3), d.entropy()]
    if not isinstance(d.temperature, float):
        found += [d.log_partition(), d.log_prob(best), d.cross_entropy(d), d.kl_divergence(d)]
    return [*found, d.score(top.events), *d.parts(best).values()]


def same(found, expected):
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_allclose(array(x), array(y), rtol=1e-5, atol=1e-5)


@every_structure
def test_the_tree_is_the_same_inside_and_outside(case):
    potentials = {name: x.astype("float32") for name, x in case.arrays().items()}

    def make(potentials):
        return case.make(potentials, temperature=0.7)

    d, shapes = make(potentials), jax.eval_shape(make, potentials)
    tree, leaves = jax.tree.structure(d), jax.tree.leaves(d)
    assert tree == jax.tree.structure(shapes) and hash(tree) == hash(jax.tree.structure(shapes))
    for x, y in zip(jax.tree.leaves(shapes), leaves, strict=True):
        assert isinstance(y, jax.Array)
        assert (x.shape, x.dtype, x.weak_type) == (y.shape, y.dtype, y.weak_type)
    holes = jax.tree.map(lambda x: None, d)
    assert jax.tree.leaves(holes) == []
    filled = jax.tree.map(lambda hole, x: x, holes, d, is_leaf=lambda x: x is None)
    assert jax.tree.structure(filled) == tree


@made
def test_readouts_after_a_transformation(make):
    expected = readouts(make())
    same(readouts(jax.jit(make)()), expected)
    same(jax.jit(readouts)(make()), expected)


def test_structures_differ_where_their_results_do():
    tree = jax.tree.structure(chain())
    others = chain(temperature=1), chain(temperature=0), MADE["mask"](), MADE["labels"]()
    assert all(jax.tree.structure(other) != tree for other in others)


def test_scan_carries_and_cond_chooses():
    def step(d, x):
        return chain(UNARY + x), (d.value(), d.marginals())

    _, found = jax.lax.scan(step, chain(), np.arange(3.0, dtype="float32"))
    for i, shift in enumerate((0.0, 0.0, 1.0)):
        d = chain(UNARY + np.float32(shift))
        same([x[i] for x in found], (d.value(), d.marginals()))
    chosen = jax.jit(lambda p: jax.lax.cond(p, chain, lambda: chain(2 * UNARY)))
    for p, factor in ((True, 1), (False, 2)):
        same([chosen(p).value()], [chain(factor * UNARY).value()])


@pytest.mark.parametrize("axis", [0, -1])
def test_a_distribution_from_vmap_is_read_inside_of_vmap(axis):
    many = np.stack([UNARY, 2 * UNARY, -UNARY])
    stacked = jax.vmap(chain, out_axes=axis)(many)
    found = jax.vmap(lambda d: d.marginals(), in_axes=axis)(stacked)
    same(found, [chain(x).marginals() for x in many])
    with pytest.raises(ValueError, match="Expected a distribution without further axes"):
        stacked.value()


def test_placed_and_donated():
    expected = chain().value()
    mesh = Mesh(np.array(jax.devices()[:1]), ("batch",))
    everywhere = NamedSharding(mesh, PartitionSpec())
    placed = jax.device_put(chain(), everywhere)
    same([placed.value(), jax.jit(chain, out_shardings=everywhere)().value()], [expected] * 2)
    places = jax.tree.map(lambda x: NamedSharding(mesh, PartitionSpec()), chain())
    placed = jax.jit(lambda d: d, in_shardings=(places,), out_shardings=places)(chain())
    same([placed.value()], [expected])
    same([jax.jit(lambda d: d.value(), donate_argnums=0)(chain())], [expected])


def test_gradient_by_a_distribution():
    """It is a distribution whose potentials are the marginals."""
    gradient = jax.grad(lambda d: jnp.sum(d.value()), allow_int=True)(chain(temperature=1))
    same([gradient.structure.potentials["unary"]], [chain(temperature=1).marginals()])


def test_what_is_kept_does_not_leave_the_program_that_made_it():
    d = chain()
    expected = chain().value(), chain().entropy()
    same([jax.jit(d.value)(), d.value(), d.entropy()], [expected[0], *expected])

    def branches(unary):
        d = chain(unary)
        first = jax.lax.cond(unary[0, 0, 0] > -1e9, d.value, lambda: jnp.zeros(2))
        _, second = jax.lax.scan(lambda c, _: (c, d.value()), 0, None, length=1)
        return first, second[0], d.value(), d.entropy()

    same(jax.jit(branches)(UNARY), [expected[0]] * 3 + [expected[1]])
