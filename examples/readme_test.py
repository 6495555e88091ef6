"""The examples of the README run as printed."""

import doctest
import re
from pathlib import Path

import keras
import numpy as np
import pytest

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.skipif(keras.backend.backend() == "numpy", reason="the NumPy backend has no fit")
def test_crf_in_fifteen_lines():
    (code,) = (block for block in BLOCKS if "CRF(" in block)
    assert len(code.strip().splitlines()) <= 15
    names: dict = {}
    exec(code, names)  # the text under test
    assert names["predicted"].shape == (256, 12)
    assert (names["predicted"][:, 9:] == -1).all()
    assert (names["predicted"][:, :9] >= 0).all()
    assert np.isfinite(names["model"].evaluate(names["words"], names["tags"], verbose=0)).all()


def test_distribution_example():
    (code,) = (block for block in BLOCKS if ">>>" in block)
    test = doctest.DocTestParser().get_doctest(code, {}, "README", "README.md", 0)
    assert doctest.DocTestRunner().run(test).failed == 0
