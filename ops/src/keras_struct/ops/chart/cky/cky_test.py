import math

import numpy as np
import pytest

from keras_struct.ops.chart.cky import cky
from keras_struct.ops.chart.cky.cases import CASES
from keras_struct.ops.law_cases import for_backend, others
from keras_struct.ops.laws import ReadoutLaws, StructureLaws
from keras_struct.ops.testing import BACKEND, array, float64, tensor


@pytest.mark.parametrize("case", for_backend(CASES), ids=str)
class TestCKY(StructureLaws):
    pass


@pytest.mark.parametrize("case", others(CASES), ids=str)
class TestOtherCKY(ReadoutLaws):
    pass


@pytest.mark.parametrize("n", [1, 2, 7, 20])
def test_bracketings_are_counted_by_catalan_numbers(n):
    with float64():
        value = cky(tensor(np.zeros((n, n)))).value()
    expected = math.comb(2 * n - 2, n - 1) / n
    np.testing.assert_allclose(np.exp(array(value)), expected, rtol=1e-10)


def test_widths_in_parts_equal_widths_in_one():
    """Sentences of 20 words run in parts; padded to 20, short ones must not see it."""
    rng = np.random.default_rng(0)
    spans, lengths = rng.normal(size=(3, 20, 20)), np.array([20, 7, 15])
    with float64():
        together = cky(tensor(spans), lengths=lengths)
        value, marginals = array(together.value()), array(together.marginals())
        best = array(together.argmax())
        for b, n in enumerate(lengths):
            alone = cky(tensor(spans[b, :n, :n]))
            np.testing.assert_allclose(value[b], array(alone.value()), rtol=1e-12)
            np.testing.assert_allclose(marginals[b, :n, :n], array(alone.marginals()), atol=1e-12)
            np.testing.assert_array_equal(best[b, :n, :n], array(alone.argmax()))
            np.testing.assert_allclose(marginals[b].sum(), 2 * n - 1)


def test_float32_marginals_of_long_sentences_with_large_scores():
    """Exponents are whole numbers, so scores of hundreds cost no precision."""
    spans = np.float32(np.random.default_rng(1).normal(size=(2, 40, 40)) * 100)
    marginals = array(cky(tensor(spans, "float32")).marginals())
    with float64():
        exact = array(cky(tensor(spans)).marginals())
    np.testing.assert_allclose(marginals, exact, atol=1e-4)


@pytest.mark.skipif(BACKEND != "torch", reason="torch-struct runs on PyTorch")
def test_agrees_with_torch_struct():
    torch_struct = pytest.importorskip("torch_struct")
    rng = np.random.default_rng(2)
    labels = tensor(rng.normal(size=(3, 12, 12, 4)))
    d = cky(tensor(np.zeros((3, 12, 12))), labels)
    peer = torch_struct.TreeCRF(labels)
    np.testing.assert_allclose(array(d.value()), array(peer.partition), rtol=1e-10)
    np.testing.assert_allclose(array(d.marginals("labels")), array(peer.marginals), atol=1e-10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"spans": np.zeros((3, 4))}, r"Expected spans of shape \(\.\.\., N, N\)"),
        ({"spans": np.zeros(3)}, "Received: shape of spans="),
        ({"spans": np.zeros((3, 3)), "labels": np.zeros((3, 4, 2))}, "Expected labels of shape"),
        ({"spans": np.zeros((3, 3)), "splits": np.zeros((3, 3, 2))}, "Expected splits of shape"),
        ({"spans": np.zeros((3, 3)), "lengths": np.array(4)}, "Received: lengths=4"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        cky(**arguments)
