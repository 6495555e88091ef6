"""Files and folders that appear whole or not at all; devices and pipes, which are streams.

What is written has no name until it is whole, where the system knows files without a name (Linux):
then nothing is left of a process that was killed. A folder is made in a hidden one beside it, and
what killed processes left there is removed when it is written again.
"""

import contextlib
import errno
import glob
import os
import pathlib
import shutil
import stat
import sys
import tempfile
import uuid
from typing import Any

if sys.platform != "win32":
    import fcntl

# How systems say that they know no files without a name.
NAMELESS_UNKNOWN = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT)
STREAM_FOLDERS = ("/dev/", "/proc/")


def stream_of(path):
    """The open stream that a path means, `sys.stdout` or `sys.stderr`; else None.

    Args:
        path: Path; None and `-` are standard output, and so is every name of what it goes to.
    """
    if path is None or str(path) == "-":
        return sys.stdout
    with contextlib.suppress(OSError):
        status = os.stat(path)
        for number, stream in ((1, sys.stdout), (2, sys.stderr)):
            if os.path.samestat(status, os.fstat(number)):
                return stream
    return None


def is_stream(path):
    """Whether a path is no regular file to be replaced: `-`, a device, a pipe, an open stream."""
    if stream_of(path) is not None or os.path.abspath(path).startswith(STREAM_FOLDERS):
        return True
    path = pathlib.Path(path)
    return path.exists() and not path.is_file() and not path.is_dir()


@contextlib.contextmanager
def open_whole(path, mode="w"):
    """A file to write that appears under its name only when all is written; or a stream.

    A new file has the mode that the umask leaves, one that is replaced keeps its mode, and a link
    stays a link. Devices, pipes, `-` and None for standard output are written as they are.

    Args:
        path: File, replaced if it is there, or None.
        mode: `"w"`, text in UTF-8, or `"wb"`.

    Raises:
        FileNotFoundError: If its folder does not exist, before anything is written.
        OSError: If it cannot be written; the error names the path.
    """
    stream = stream_of(path)
    if stream is not None:
        yield stream.buffer if "b" in mode else stream
        stream.flush()
        return
    # Names of files that are no UTF-8 are written as they are.
    text: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "errors": "surrogateescape"}
    if is_stream(path):
        with _named(path), open(path, mode, **text) as stream:
            yield stream
        return
    target = pathlib.Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(f"Expected an existing folder. Received: {target.parent}")
    if target.is_dir():
        raise IsADirectoryError(f"Expected a file, not a folder. Received: {target}")
    hidden = target.with_name(f".{target.name[:200]}.{uuid.uuid4().hex}")
    nameless = _nameless(target.parent)
    try:
        handle = nameless
        if handle is None:
            handle = os.open(hidden, os.O_CREAT | os.O_EXCL | os.O_RDWR | _BINARY, 0o666)
        with _named(target), os.fdopen(handle, mode, **text) as stream:
            yield stream
            stream.flush()
            if target.exists():
                os.chmod(
                    hidden if nameless is None else handle, stat.S_IMODE(target.stat().st_mode)
                )
            if nameless is not None:
                # With a folder for relative sources, which is not used here, links are followed.
                os.link(f"/proc/self/fd/{handle}", hidden, src_dir_fd=handle, follow_symlinks=True)
        os.replace(hidden, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(hidden)
        raise


@contextlib.contextmanager
def _named(path):
    """Of a full disk that does not say whose file it was the error with its path."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC and error.filename is None:
            error.filename = str(path)
        raise


_BINARY = getattr(os, "O_BINARY", 0)  # of Windows


def _nameless(folder):
    """A handle of a new file without a name in a folder; None where there are none."""
    if not hasattr(os, "O_TMPFILE") or not os.path.exists("/proc/self/fd"):
        return None
    try:
        return os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o666)
    except OSError as error:
        if error.errno in NAMELESS_UNKNOWN:
            return None
        raise


@contextlib.contextmanager
def whole_folder(path):
    """Where to make a folder, or a file, that takes the place of `path` only when all is written.

    It is to lie in a folder of its own beside `path`, for what is needed only meanwhile, and to
    have its name. Before it takes its place it is on the disk.
    """
    target = pathlib.Path(path)
    with _room(target) as room:
        new = room / target.name
        yield new
        _sync(new)
        if target.is_dir():
            target.rename(room / f"{target.name}.old")
        os.replace(new, target)


def _sync(path):
    """Have a file, or every file of a folder, written to the disk."""
    for file in [path] if path.is_file() else path.rglob("*"):
        if file.is_file():
            with file.open("rb+") as stream:
                os.fsync(stream.fileno())


@contextlib.contextmanager
def _room(target):
    """A hidden folder beside a path, without those that killed processes left there.

    A folder in use is locked, and folders are made and removed under a lock of their parent.
    """
    with contextlib.ExitStack() as own:
        with _locked(target.parent):
            for left in target.parent.glob(f".{glob.escape(target.name)}.*.part"):
                with _locked(left, wait=False) as unused:
                    old = left / f"{target.name}.old"
                    if unused and old.exists() and not target.exists():
                        old.rename(target)  # killed between two names
                    if unused:
                        shutil.rmtree(left, ignore_errors=True)
            name = own.enter_context(
                tempfile.TemporaryDirectory(
                    dir=target.parent, prefix=f".{target.name}.", suffix=".part"
                )
            )
            own.enter_context(_locked(name))
        yield pathlib.Path(name)


@contextlib.contextmanager
def _locked(folder, wait=True):
    """Whether a folder is ours alone; where folders cannot be locked, only with `wait`."""
    if sys.platform == "win32":
        yield wait
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            locked = True
        except OSError:
            locked = wait
        yield locked
    finally:
        os.close(handle)
