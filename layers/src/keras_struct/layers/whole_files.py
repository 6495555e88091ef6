"""Files and folders that appear whole or not at all."""

import contextlib
import os
import pathlib
import sys
import tempfile


@contextlib.contextmanager
def open_whole(path, mode="w"):
    """A file to write that appears under its name only when all is written; None for stdout.

    Args:
        path: File, replaced if it is there, or None.
        mode: `"w"`, text in UTF-8, or `"wb"`.

    Raises:
        FileNotFoundError: If its folder does not exist, before anything is written.
    """
    if path is None:
        yield sys.stdout
        return
    target = pathlib.Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"Expected an existing folder. Received: {target.parent}")
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as stream:
            yield stream
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise


@contextlib.contextmanager
def whole_folder(path):
    """Where to make a folder that takes the place of `path` only when all is written.

    It is to lie in a folder of its own beside `path`, for what is needed only meanwhile.
    """
    target = pathlib.Path(path)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as name:
        new = pathlib.Path(name) / "new"
        yield new
        if target.exists():
            target.rename(new.with_name("old"))
        new.rename(target)
