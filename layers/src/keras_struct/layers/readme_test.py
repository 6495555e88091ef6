"""The Python of the READMEs runs as printed, as for a new user: where one backend is installed."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from keras_struct.ops.testing import BACKEND, EVERY_CASE

ROOT = pathlib.Path(__file__).resolve().parents[4]
RUN = """
import importlib.util, json, os, sys
backend = os.environ["KERAS_BACKEND"]
others = {"jax", "tensorflow", "torch"} - {backend}
sys.modules.update(dict.fromkeys(others))  # None: it cannot be imported, and is not found
for number, block in enumerate(json.load(sys.stdin)):
    if "keras_hub" not in block or importlib.util.find_spec("keras_hub") is not None:
        exec(compile(block, f"block {number}", "exec"), {})
assert not [name for name in others if sys.modules[name] is not None]
"""


@pytest.mark.skipif(BACKEND == "numpy", reason="the NumPy backend has no fit")
@pytest.mark.skipif(BACKEND != "torch" and not EVERY_CASE, reason="compiled: in make test-every")
def test_blocks():
    blocks = []
    for name in ("README.md", "layers/README.md"):
        found = re.findall(r"```python\n(.*?)```", (ROOT / name).read_text("utf-8"), re.DOTALL)
        blocks += [block for block in found if ">>>" not in block]
        assert found
    child = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RUN],
        input=json.dumps(blocks),
        env={**os.environ, "KERAS_BACKEND": BACKEND},
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stderr[-3000:]
