"""The gradient of implicit MLE by its formula."""

import numpy as np
import pytest
from keras import ops as K

from keras_struct import ops
from keras_struct.ops.testing import HAS_GRADIENTS, array, fast, grad, tensor

STEP, T, GAP = 3.0, 0.5, np.float32(-0.5)
RNG = np.random.default_rng(0)
SCORES = RNG.normal(size=(2, 4, 4)).astype("float32")
WEIGHTS = RNG.normal(size=(2, 4, 4)).astype("float32")
MASK = np.array([[1, 1, 1, 1], [0, 1, 1, 1]], bool)


def alignment(scores, gap):
    return ops.needleman_wunsch(scores, gap, mask=(MASK, None), temperature=T)


def test_the_best_structure():
    d = alignment(SCORES, GAP)
    found, expected = d.implicit_mle(name="all"), d.parts()
    for name, x in expected.items():
        np.testing.assert_array_equal(array(found[name]), array(x))


@pytest.mark.skipif(not HAS_GRADIENTS, reason="NumPy has no gradients")
def test_gradient_is_the_formula():
    """Of cells under a mask and of a gap that the batch shares, whose marginals have no axes."""

    def loss(scores, gap):
        return K.sum(alignment(scores, gap).implicit_mle(STEP) * tensor(WEIGHTS, "float32"))

    found = fast(grad(loss))(tensor(SCORES, "float32"), tensor(GAP, "float32"))
    before = alignment(SCORES, GAP).parts()
    after = alignment(SCORES - T * STEP * WEIGHTS, GAP).parts()
    cells, gaps = (
        (array(before[name]) - array(after[name])) / STEP / T for name in ("scores", "gap_open")
    )
    assert (cells != 0).any() and gaps.sum() != 0
    np.testing.assert_allclose(array(found[0]), cells, atol=1e-6)
    np.testing.assert_allclose(array(found[1]), gaps.sum(), atol=1e-6)


def test_user_errors():
    with pytest.raises(ValueError, match="Received: step=0"):
        ops.subset(np.zeros((1, 3), "float32"), 2).implicit_mle(0)
