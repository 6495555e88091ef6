"""The kernels of chains for TPUs, interpreted on any machine.

With TPU_TESTS=all (`make test-tpu`) every law of every case; else one program of readouts for some.
"""

import pytest

from keras_struct.ops import pallas_testing
from keras_struct.ops.chain.ctc.cases import CASES as CTC
from keras_struct.ops.chain.linear_chain.cases import CASES as LINEAR_CHAIN
from keras_struct.ops.chain.semi_markov.cases import CASES as SEMI_MARKOV
from keras_struct.ops.chain.subset.cases import CASES as SUBSET
from keras_struct.ops.laws import ReadoutLaws, StructureLaws
from keras_struct.ops.pallas_testing import ALL, laws_of
from keras_struct.ops.testing import BACKEND

pytestmark = pytest.mark.skipif(BACKEND != "jax", reason="Pallas is a part of JAX")
interpreter = pallas_testing.interpreter("chain", times=2)
Laws = StructureLaws if ALL else ReadoutLaws
CASES = {"linear": LINEAR_CHAIN, "semi": SEMI_MARKOV, "ctc": CTC, "subset": SUBSET}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=f"{name}-{case.name}")
        for name, cases in CASES.items()
        for case in laws_of(cases)
    ],
)
class TestLaws(Laws):  # type: ignore[misc, valid-type]
    pass
