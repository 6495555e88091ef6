"""One process at a time writes an output."""

import sys
from pathlib import Path
from typing import IO, Any

if sys.platform != "win32":
    import fcntl


def lock(stream: IO[Any], path: Path) -> None:
    """Lock what is written, until its stream is closed; not on Windows.

    Args:
        stream: An open file of the output.
        path: What the error says of the output.

    Raises:
        ValueError: If another process writes it.
    """
    if sys.platform != "win32":
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"Expected an output that no other process writes. Received: {path}"
            ) from None
