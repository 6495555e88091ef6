import pytest

from keras_struct.ops.chain.subset.cases import CASES
from keras_struct.ops.law_cases import for_backend, others
from keras_struct.ops.laws import ReadoutLaws, StructureLaws


@pytest.mark.parametrize("case", for_backend(CASES), ids=str)
class TestSubset(StructureLaws):
    pass


@pytest.mark.parametrize("case", others(CASES), ids=str)
class TestOtherSubset(ReadoutLaws):
    pass
