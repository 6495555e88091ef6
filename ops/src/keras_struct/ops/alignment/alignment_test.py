import pytest

from keras_struct.ops.alignment import cases
from keras_struct.ops.laws import StructureLaws, for_backend


@pytest.mark.parametrize("case", for_backend(cases.NEEDLEMAN_WUNSCH), ids=str)
class TestNeedlemanWunsch(StructureLaws):
    pass


@pytest.mark.parametrize("case", for_backend(cases.OVERLAP), ids=str)
class TestOverlap(StructureLaws):
    pass


@pytest.mark.parametrize("case", for_backend(cases.SMITH_WATERMAN), ids=str)
class TestSmithWaterman(StructureLaws):
    pass


@pytest.mark.parametrize("case", for_backend(cases.SAIGO_VERT), ids=str)
class TestSaigoVert(StructureLaws):
    pass


@pytest.mark.parametrize("case", for_backend(cases.DTW), ids=str)
class TestDTW(StructureLaws):
    pass


@pytest.mark.parametrize("case", for_backend(cases.MONOTONIC_ALIGNMENT), ids=str)
class TestMonotonicAlignment(StructureLaws):
    pass


@pytest.mark.parametrize("case", for_backend(cases.LEVENSHTEIN), ids=str)
class TestLevenshtein(StructureLaws):
    pass


@pytest.mark.parametrize("case", for_backend(cases.OSA), ids=str)
class TestOSA(StructureLaws):
    pass


@pytest.mark.parametrize("case", for_backend(cases.DAMERAU), ids=str)
class TestDamerau(StructureLaws):
    pass


@pytest.mark.parametrize("case", for_backend(cases.LCS), ids=str)
class TestLCS(StructureLaws):
    pass
