import pytest

from keras_struct.ops.chain.subset.cases import CASES
from keras_struct.ops.laws import StructureLaws, for_backend


@pytest.mark.parametrize("case", for_backend(CASES), ids=str)
class TestSubset(StructureLaws):
    pass
