"""Keeps the log lines of native libraries (oneDNN, absl, XLA) out of what a command prints.

They write to file descriptor 2 before any setting of theirs can say otherwise.
`TF_CPP_MIN_LOG_LEVEL=0` shows them.
"""

import os
import shutil
import subprocess
import sys

LOG_LINES = r"^(WARNING: All log messages before absl|[IWE][0-9]{4} [0-9:.]+ )"


def hide_native_logs() -> None:
    """To be called before a backend is imported; what Python itself prints, tracebacks among it,
    goes to standard error directly, and all other lines of native code do by way of `grep`.
    Without `grep`, or a standard error, nothing is changed."""
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "0":
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    grep = shutil.which("grep")
    if grep is None or sys.stderr is None:
        return
    direct = os.dup(2)
    sys.stderr = os.fdopen(direct, "w", buffering=1, errors="backslashreplace")
    child = subprocess.Popen(
        [grep, "--line-buffered", "-avE", LOG_LINES],
        stdin=subprocess.PIPE,
        stdout=direct,
        start_new_session=True,  # Ctrl-C is for the command
    )
    assert child.stdin is not None
    os.dup2(child.stdin.fileno(), 2)
    child.stdin.close()
