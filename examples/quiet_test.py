import os
import subprocess
import sys
from pathlib import Path

PROGRAM = r"""
import os, sys
from quiet import hide_native_logs
hide_native_logs()
os.write(2, b"WARNING: All log messages before absl::InitializeLog() is called are written\n")
os.write(2, b"I0000 00:00:1796051072.412605    7624 port.cc:153] oneDNN\nterminate called\n")
print("INFO of ours", file=sys.stderr)
raise SystemExit("a reason")
"""


def stderr_lines(**variables: str) -> list[str]:
    command = [sys.executable, "-c", PROGRAM]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), **variables}
    child = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert child.returncode == 1
    return sorted(child.stderr.splitlines())


def test_only_the_log_lines_of_native_libraries_are_hidden():
    expected = ["INFO of ours", "a reason", "terminate called"]
    assert stderr_lines(TF_CPP_MIN_LOG_LEVEL="2") == expected
    assert len(stderr_lines(TF_CPP_MIN_LOG_LEVEL="0")) == 5
