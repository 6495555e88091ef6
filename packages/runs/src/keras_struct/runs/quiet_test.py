"""Log lines of native libraries: hidden before a backend is imported. One backend."""

import os
import subprocess
import sys

import pytest

from keras_struct.ops.testing import BACKEND

pytestmark = pytest.mark.skipif(BACKEND != "numpy", reason="the same on every backend")

PROGRAM = r"""
import os, sys, types
import keras_struct.runs.start
assert "keras" not in sys.modules
def main():
    os.write(2, b"WARNING: All log messages before absl::InitializeLog() is called are written\n")
    os.write(2, b"I0000 00:00:1796051072.412605    7624 port.cc:153] oneDNN\nterminate called\n")
    print("INFO of ours", file=sys.stderr)
    raise SystemExit("a reason")
command = types.ModuleType("keras_struct.treebank.command_line")
command.main = main
sys.modules |= {"keras_struct.treebank": types.ModuleType("treebank"), command.__name__: command}
keras_struct.runs.start.treebank()
"""


def stderr_lines(**variables: str) -> list[str]:
    command = [sys.executable, "-c", PROGRAM]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **variables}
    child = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert child.returncode == 1, child.stderr
    return sorted(child.stderr.splitlines())


@pytest.mark.parametrize("path", [os.environ["PATH"], "/none"])
def test_only_the_log_lines_of_native_libraries_are_hidden(path):
    expected = ["INFO of ours", "a reason", "terminate called"]
    shown = stderr_lines(TF_CPP_MIN_LOG_LEVEL="2", PATH=path)
    assert (shown == expected) == (path != "/none") and {*expected} <= {*shown}


def test_a_level_of_0_shows_them():
    assert len(stderr_lines(TF_CPP_MIN_LOG_LEVEL="0")) == 5
