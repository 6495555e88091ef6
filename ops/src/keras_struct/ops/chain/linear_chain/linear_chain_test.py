import pytest

from keras_struct.ops.chain.linear_chain.cases import CASES
from keras_struct.ops.laws import StructureLaws, for_backend


@pytest.mark.parametrize("case", for_backend(CASES), ids=str)
class TestLinearChain(StructureLaws):
    pass
