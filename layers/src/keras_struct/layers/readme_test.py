"""The Python of the READMEs runs as printed, each block on its own."""

import importlib.util
import pathlib
import re

import pytest

from keras_struct.ops.testing import BACKEND, EVERY_CASE

ROOT = pathlib.Path(__file__).resolve().parents[4]


@pytest.mark.skipif(BACKEND == "numpy", reason="the NumPy backend has no fit")
@pytest.mark.skipif(BACKEND != "torch" and not EVERY_CASE, reason="compiled: in make test-every")
@pytest.mark.parametrize("name", ["README.md", "layers/README.md"])
def test_blocks(name):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / name).read_text("utf-8"), re.DOTALL)
    blocks = [block for block in blocks if ">>>" not in block]
    assert blocks
    for number, block in enumerate(blocks):
        if "keras_hub" not in block or importlib.util.find_spec("keras_hub") is not None:
            exec(compile(block, f"block {number} of {name}", "exec"), {})
