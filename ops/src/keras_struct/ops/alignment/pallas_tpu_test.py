"""The kernels of alignments for TPUs, interpreted on any machine: all laws (`make test-tpu`), or
those of one case for each way to start and end."""

import pytest

from keras_struct.ops import pallas_testing
from keras_struct.ops.alignment import cases
from keras_struct.ops.laws import ReadoutLaws
from keras_struct.ops.testing import BACKEND

pytestmark = pytest.mark.skipif(BACKEND != "jax", reason="Pallas is a part of JAX")
interpreter = pallas_testing.interpreter("alignment", rows=8, times=8)
laws_of = pallas_testing.laws_of


@pytest.mark.parametrize("case", laws_of(cases.NEEDLEMAN_WUNSCH), ids=str)
class TestNeedlemanWunsch(ReadoutLaws):
    pass
