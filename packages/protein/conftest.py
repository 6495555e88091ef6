"""What tests of the index and of its searches share."""

import shutil
from pathlib import Path

import pytest

from keras_struct import protein


@pytest.fixture(scope="module")
def aligner():
    return protein.ProteinAligner.from_preset("structure")


@pytest.fixture(scope="module")
def globins() -> Path:
    tmtools = pytest.importorskip("tmtools")
    return Path(tmtools.__file__).parent / "data" / "2gtl.cif"


@pytest.fixture(scope="module")
def folder(aligner, globins, tmp_path_factory):
    """An index of two parts."""
    folder = tmp_path_factory.mktemp("index") / "new"
    other = folder.parent / "other.cif"
    shutil.copy(globins, other)
    assert protein.build_index(aligner, [globins], folder) == 15
    assert protein.build_index(aligner, [globins, other], folder) == 15
    assert protein.build_index(aligner, [globins, other], folder) == 0
    return folder
