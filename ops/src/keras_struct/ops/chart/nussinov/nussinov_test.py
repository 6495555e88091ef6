import numpy as np
import pytest

from keras_struct import ops
from keras_struct.ops.chart.nussinov.cases import CASES
from keras_struct.ops.law_cases import for_backend, others
from keras_struct.ops.laws import ReadoutLaws, StructureLaws
from keras_struct.ops.testing import array, fast, float64, tensor


@pytest.mark.parametrize("case", for_backend(CASES), ids=str)
class TestNussinov(StructureLaws):
    pass


@pytest.mark.parametrize("case", others(CASES), ids=str)
class TestOtherNussinov(ReadoutLaws):
    pass


def motzkin(length, min_loop):
    """Number of nested pairings, by the first position."""
    counts = [1]
    for n in range(1, length + 1):
        paired = (counts[j - 1] * counts[n - 1 - j] for j in range(1 + min_loop, n))
        counts.append(counts[n - 1] + sum(paired))
    return counts[length]


@pytest.mark.parametrize("min_loop", [0, 3])
def test_pairings_are_counted_by_motzkin_numbers(min_loop):
    """Also in parts: 24 positions run in three."""
    lengths = np.arange(1, 25, dtype="int32")
    with float64():
        pairs = tensor(np.zeros((24, 24, 24)))
        value = fast(lambda x: ops.nussinov(x, min_loop=min_loop, lengths=lengths).value())(pairs)
    counts = [motzkin(int(length), min_loop) for length in lengths]
    np.testing.assert_allclose(np.exp(array(value)), counts, rtol=1e-9)


def test_most_pairs_of_an_rna_sequence():
    """GGGAAAUCC at temperature 0: three pairs around a loop of three, as in Nussinov (1978)."""
    sequence = "GGGAAAUCC"
    couples = {"GC", "CG", "AU", "UA", "GU", "UG"}
    pairs = np.where([[a + b in couples for b in sequence] for a in sequence], 1.0, -np.inf)
    np.fill_diagonal(pairs, 0.0)
    d = ops.nussinov(tensor(pairs, "float32"), min_loop=3, temperature=0)
    assert float(array(d.value())) == 3.0
    partner = array(d.argmax())
    assert sum(partner > np.arange(9)) == 3
    for i, j in enumerate(partner):
        assert partner[j] == i
        assert i == j or (sequence[i] + sequence[j] in couples and abs(i - j) > 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pairs": np.zeros((3, 4))}, "Expected pairs of shape"),
        ({"pairs": np.zeros((3, 3)), "min_loop": -1}, "Received: min_loop=-1"),
        ({"pairs": np.zeros((3, 3)), "lengths": np.array(4)}, "Received: lengths=4"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        ops.nussinov(**arguments)
