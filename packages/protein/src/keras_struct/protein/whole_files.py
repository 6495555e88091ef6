"""Files that appear whole or not at all."""

import contextlib
import os
import sys
import tempfile
from pathlib import Path


@contextlib.contextmanager
def open_whole(path, mode="w"):
    """A file to write that appears under its name only when all is written; None for stdout.

    Raises:
        FileNotFoundError: If its folder does not exist, before anything is written.
    """
    if path is None:
        yield sys.stdout
        return
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"Expected an existing folder. Received: {target.parent}")
    # The ending stays: writers such as Keras' and matplotlib's go by it.
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".", suffix=target.name)
    try:
        with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as stream:
            yield stream
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise
