import pytest

from keras_struct.ops.chain.linear_chain.cases import CASES
from keras_struct.ops.laws import StructureLaws


@pytest.mark.parametrize("case", CASES, ids=str)
class TestLinearChain(StructureLaws):
    pass
