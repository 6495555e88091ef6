import pytest

from keras_struct.ops.chain.ctc.cases import CASES
from keras_struct.ops.laws import StructureLaws, for_backend


@pytest.mark.parametrize("case", for_backend(CASES), ids=str)
class TestCTC(StructureLaws):
    pass
