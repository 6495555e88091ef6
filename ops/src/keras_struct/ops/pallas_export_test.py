"""Programs for a TPU whose batch is a symbol hold the kernels; interpreted, they are right."""

import re

import numpy as np
import pytest

from keras_struct import ops
from keras_struct.ops.pallas_testing import ALL, interpreted
from keras_struct.ops.testing import BACKEND

pytestmark = pytest.mark.skipif(BACKEND != "jax", reason="Pallas is a part of JAX")


def _readouts(function):
    def run(*arrays):
        import jax

        def loss(*arrays):
            return (function(*arrays).marginals() ** 2).sum()

        d = function(*arrays)
        return d.value(), jax.grad(loss)(*arrays), d.argmax(), d.sample(0, 2)

    return run


def _trees(arcs):
    d, best = ops.spanning_tree(arcs), ops.spanning_tree(arcs, temperature=0)
    return d.value(), d.marginals(), best.value()


def _attention(*arrays):
    import jax

    def loss(*arrays):
        return (ops.sinkhorn_tail(*arrays) ** 2).sum()

    return jax.value_and_grad(loss, (0, 1, 2))(*arrays)


def _ctc(scores):
    labels = np.array([1, 2], "int32") + 0 * scores[:, 0, :2].astype("int32")
    return ops.ctc(scores, labels)


LINKED = ("forward_logsumexp", "forward_max", "backward", "tangent", "curvature")
WALKS = ("walk_logsumexp", "walk_max")
# Family, shapes, function, names of the kernels.
CASES = {
    "needleman_wunsch": (
        "alignment",
        ("b, 9, 3",),
        _readouts(lambda x: ops.needleman_wunsch(x, -1.0)),
        LINKED + WALKS,
    ),
    "smith_waterman": (
        "alignment",
        ("b, 9, 3",),
        _readouts(lambda x: ops.smith_waterman(x, -1.0, -0.5)),
        (*LINKED, *WALKS, "ends_logsumexp", "ends_max"),
    ),
    "linear_chain": ("chain", ("b, 5, 3", "3, 3"), _readouts(ops.linear_chain), LINKED + WALKS),
    "ctc": ("chain", ("b, 5, 3",), _readouts(_ctc), LINKED + WALKS),
    "cky": (
        "chart",
        ("b, 4, 4",),
        _readouts(ops.cky),
        ("forward_logsumexp", "forward_max", "backward", "curvature", *WALKS),
    ),
    "pcfg": (
        "pcfg",
        ("b, 2, 4, 4", "b, 3, 2", "b, 2"),
        _readouts(ops.pcfg),
        ("forward_logsumexp", "forward_max", "backward", "curvature", *WALKS),
    ),
    "spanning_tree": (
        "spanning_tree",
        ("b, 4, 4",),
        _trees,
        ("forward_logsumexp", "forward_max", "backward"),
    ),
    "sinkhorn_tail": (
        "transport",
        ("b, 300, 4",) * 3,
        _attention,
        ("log_sums_near", "sums", "products", "modulated"),
    ),
}


def _exported(function, shapes, **options):
    import jax
    from jax import export

    scope = export.SymbolicScope()
    sizes = [export.symbolic_shape(shape, scope=scope) for shape in shapes]
    arguments = [jax.ShapeDtypeStruct(size, "float32") for size in sizes]
    return export.export(jax.jit(function), **options)(*arguments)


@pytest.mark.parametrize("name", CASES)
def test_a_program_for_any_batch_holds_the_kernels(name):
    family, shapes, function, kernels = CASES[name]
    with ops.target("tpu"):
        program = _exported(function, shapes, platforms=("tpu",))
    found = set(re.findall(rf"keras_struct_{family}_(\w+)", program.mlir_module()))
    assert found == set(kernels)


@pytest.mark.parametrize("name", CASES if ALL else ["spanning_tree"])
def test_it_is_right_for_any_batch(name):
    import jax

    family, shapes, function, _ = CASES[name]
    with interpreted(family):
        program = _exported(function, shapes)
    rng = np.random.default_rng(0)
    for batch in (3, 130):
        sizes = [shape.replace("b", str(batch)).split(",") for shape in shapes]
        arrays = [rng.normal(size=tuple(map(int, size))).astype("float32") for size in sizes]
        with ops.use("portable"):
            expected = jax.tree.leaves(jax.jit(function)(*arrays))
        for x, y in zip(jax.tree.leaves(program.call(*arrays)), expected, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5)
