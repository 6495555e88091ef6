"""What is written appears whole or not at all; devices and pipes are streams."""

import os
import signal
import stat
import subprocess
import sys
import threading

import pytest

from keras_struct.layers import whole_files
from keras_struct.layers.whole_files import is_stream, open_whole, whole_folder

pytestmark = pytest.mark.skipif(
    os.environ["KERAS_BACKEND"] != "numpy", reason="files are the same on every backend"
)

# The module is imported alone there, without Keras, which takes seconds.
ALONE = {**os.environ, "PYTHONPATH": os.path.dirname(whole_files.__file__)}


@pytest.fixture(params=["nameless", "hidden"])
def way(request, monkeypatch):
    """Both ways of writing a file: without a name, and under a hidden one."""
    if request.param == "hidden":
        monkeypatch.setattr(whole_files, "_nameless", lambda folder: None)


def test_files_appear_whole_or_not_at_all(way, tmp_path):
    with pytest.raises(RuntimeError), open_whole(tmp_path / "a.txt") as stream:
        stream.write("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with open_whole(tmp_path / "a.txt") as stream:
        stream.write("whole")
    assert (tmp_path / "a.txt").read_text() == "whole"
    with open_whole(tmp_path / "a.txt") as stream:
        stream.write(os.fsdecode(b"caf\xe9.pdb"))  # the name of a file from elsewhere
    assert (tmp_path / "a.txt").read_bytes() == b"caf\xe9.pdb"
    for wrong in ("no/a.txt", "."):
        with pytest.raises(OSError, match="Expected"), open_whole(tmp_path / wrong):
            pass
    with open_whole(tmp_path / "a.txt", "wb") as stream:
        stream.write(b"\x00")
    assert (tmp_path / "a.txt").read_bytes() == b"\x00"
    assert [f.name for f in tmp_path.iterdir()] == ["a.txt"]


def test_modes_are_those_of_the_umask_or_of_the_old_file_and_links_stay(way, tmp_path):
    file, link = tmp_path / "a", tmp_path / "link"
    link.symlink_to(file)
    old = os.umask(0o027)
    try:
        with open_whole(link) as stream:
            stream.write("1")
        assert stat.S_IMODE(file.stat().st_mode) == 0o640
        file.chmod(0o604)
        with open_whole(link) as stream:
            stream.write("2")
    finally:
        os.umask(old)
    assert (stat.S_IMODE(file.stat().st_mode), link.is_symlink(), file.read_text()) == (
        0o604,
        True,
        "2",
    )


def test_streams_are_written_as_they_are(tmp_path, capfd):
    for path in (None, "-", "/dev/stdout"):
        with open_whole(path) as stream:
            stream.write("text\n")
    with open_whole("-", "wb") as stream:
        stream.write(b"bytes\n")
    with open_whole("/dev/stderr") as stream:
        stream.write("error\n")
    with open_whole(os.devnull) as stream:
        stream.write("nothing")
    assert capfd.readouterr() == ("text\n" * 3 + "bytes\n", "error\n")
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    with open_whole(pipe) as stream:
        stream.write("through")
    reader.join()
    assert read == ["through"]
    assert is_stream(pipe) and not is_stream(tmp_path / "file")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["pipe"]


def test_what_goes_to_a_file_is_not_replaced_there(tmp_path):
    """`>> log --output /dev/stdout`: what the log held stays."""
    program = (
        "from whole_files import open_whole\n"
        "with open_whole('/dev/stdout') as stream: stream.write('new')"
    )
    log = tmp_path / "log"
    log.write_text("old ")
    with log.open("a") as stream:
        subprocess.run([sys.executable, "-c", program], stdout=stream, env=ALONE, check=True)
    assert log.read_text() == "old new"


def test_a_full_disk_is_named():
    with pytest.raises(OSError, match="No space left"), open_whole("/dev/full") as stream:
        stream.write("x" * 100_000)


def test_folders_appear_whole_or_not_at_all(tmp_path):
    target = tmp_path / "a"
    for text in ("first", "second"):
        with whole_folder(target) as new:
            new.mkdir()
            (new / "b.txt").write_text(text)
        with pytest.raises(RuntimeError), whole_folder(target) as new:
            new.mkdir()
            (new / "b.txt").write_text("half")
            raise RuntimeError
        assert (target / "b.txt").read_text() == text
    with whole_folder(tmp_path / "file") as new:
        new.write_text("a file")
    assert (tmp_path / "file").read_text() == "a file"
    assert sorted(f.name for f in tmp_path.iterdir()) == ["a", "file"]


def test_what_a_killed_process_leaves_is_removed(tmp_path):
    program = (
        "import os, signal\n"
        "from whole_files import open_whole, whole_folder\n"
        "with open_whole('b') as file, whole_folder('a') as new:\n"
        "    new.mkdir(); file.write('half'); file.flush()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    child = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=ALONE)
    assert child.returncode == -signal.SIGKILL
    left = list(tmp_path.iterdir())
    assert [f.name[:3] for f in left] == [".a."]  # no file of ours has a name before it is whole
    (left[0] / "a.old").mkdir()  # as if killed between two names
    with whole_folder(tmp_path / "a") as new:
        assert (tmp_path / "a").is_dir()
        with whole_folder(tmp_path / "a") as other:  # one in use stays
            other.mkdir()
            (other / "1").touch()
        new.mkdir()
        (new / "2").touch()
    assert [f.name for f in tmp_path.rglob("*")] == ["a", "2"]
