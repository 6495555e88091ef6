import keras
import numpy as np
import pytest

from keras_struct import ops
from keras_struct.ops.alignment import cases
from keras_struct.ops.laws import StructureLaws, for_backend
from keras_struct.ops.testing import BACKEND, array, fast, float64, grad, tensor


@pytest.mark.parametrize("case", for_backend(cases.NEEDLEMAN_WUNSCH), ids=str)
class TestNeedlemanWunsch(StructureLaws):
    pass


@pytest.mark.parametrize("case", for_backend(cases.OVERLAP), ids=str)
class TestOverlap(StructureLaws):
    pass


@pytest.mark.parametrize("case", for_backend(cases.SMITH_WATERMAN), ids=str)
class TestSmithWaterman(StructureLaws):
    pass


@pytest.mark.parametrize("case", for_backend(cases.SAIGO_VERT), ids=str)
class TestSaigoVert(StructureLaws):
    pass


@pytest.mark.parametrize("case", for_backend(cases.DTW), ids=str)
class TestDTW(StructureLaws):
    pass


@pytest.mark.parametrize("case", for_backend(cases.MONOTONIC_ALIGNMENT), ids=str)
class TestMonotonicAlignment(StructureLaws):
    pass


@pytest.mark.parametrize("case", for_backend(cases.LEVENSHTEIN), ids=str)
class TestLevenshtein(StructureLaws):
    pass


@pytest.mark.parametrize("case", for_backend(cases.OSA), ids=str)
class TestOSA(StructureLaws):
    pass


@pytest.mark.parametrize("case", for_backend(cases.DAMERAU), ids=str)
class TestDamerau(StructureLaws):
    pass


@pytest.mark.parametrize("case", for_backend(cases.LCS), ids=str)
class TestLCS(StructureLaws):
    pass


# On JAX and TensorFlow, where each case compiles for seconds, one for every kind of start and end.
KINDS = [cases.NEEDLEMAN_WUNSCH, cases.SMITH_WATERMAN, cases.DTW, cases.MONOTONIC_ALIGNMENT]
OTHERS = [cases.OVERLAP, cases.SAIGO_VERT, cases.LEVENSHTEIN, cases.OSA, cases.LCS]
GROUPS = KINDS if BACKEND in ("jax", "tensorflow") else KINDS + OTHERS


@pytest.mark.parametrize("case", [x for group in GROUPS for x in for_backend(group)], ids=str)
def test_checkpointed_equals_portable(case):
    """Values, marginals, paths and the curvature, in blocks of two or three wavefronts."""

    def readouts(d):
        rng = np.random.default_rng(3)
        tangents = tuple(tensor(rng.normal(size=x.shape)) for x in d._marginals)
        sweeps, theta, context, tape = d._sweeps, d._theta, d.structure.context, d._soft[1]
        curvature = sweeps.curvature(theta, context, tape, tangents)
        return {
            "value": d.value(),
            "marginals": d.marginals("all"),
            "argmax": d.argmax(),
            "samples": d.sample(1, 3),
            "curvature": d.structure.unfold(curvature),
        }

    with float64():
        whole, blocks = (
            case.read(readouts, temperature=0.7, implementation=implementation)
            for implementation in ("portable", "checkpointed")
        )
    for x, y in zip(keras.tree.flatten(whole), keras.tree.flatten(blocks), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-10)


def test_checkpointed_keeps_less():
    scores = np.zeros((1, 100, 150), "float32")

    def size(implementation):
        d = ops.needleman_wunsch(scores, -1.0, -0.5, implementation=implementation)
        return sum(np.prod(x.shape) for x in d._soft[1])

    assert size("portable") > 3 * 100 * 250
    assert size("checkpointed") < 100 * 250 / 2


def test_checkpointed_refuses_transpositions():
    x = np.array([1, 2])
    costs = (x[:, None] != x).astype("float32")
    with pytest.raises(NotImplementedError, match="every row has to be kept"):
        ops.damerau(costs, ops.transposition_sources(x, x), implementation="checkpointed").value()


@pytest.mark.skipif(BACKEND not in ("jax", "torch"), reason="vmap of JAX and PyTorch")
@pytest.mark.parametrize("implementation", ["portable", "checkpointed"])
def test_vmap_of_a_gradient_of_the_map(implementation):
    rng = np.random.default_rng(0)
    stacked = rng.normal(size=(3, 2, 4, 5)).astype("float32")
    lengths = (np.array([4, 2]), np.array([5, 4]))

    def loss(scores):
        d = ops.smith_waterman(scores, -1.0, lengths=lengths, implementation=implementation)
        return keras.ops.sum(d.marginals() ** 2) + keras.ops.sum(d.value())

    if BACKEND == "jax":
        import jax

        mapped = jax.jit(jax.vmap(jax.grad(loss)))(stacked)
    else:
        import torch

        mapped = torch.func.vmap(torch.func.grad(loss))(torch.tensor(stacked))
    one_by_one = [array(fast(grad(loss))(tensor(x, "float32"))[0]) for x in stacked]
    np.testing.assert_allclose(array(mapped), one_by_one, rtol=1e-4, atol=1e-5)
