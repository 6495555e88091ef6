import pytest

from keras_struct.ops.chain.semi_markov.cases import CASES
from keras_struct.ops.laws import StructureLaws, for_backend


@pytest.mark.parametrize("case", for_backend(CASES), ids=str)
class TestSemiMarkov(StructureLaws):
    pass
