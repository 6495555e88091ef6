"""Units of work on two real processes of Ray: each once, whatever becomes of the processes."""

import os
import pathlib
import signal
import sys

import pytest

from keras_struct.runs import cluster

ray = pytest.importorskip("ray")
pytestmark = [
    pytest.mark.skipif(
        os.environ.get("KERAS_BACKEND") != "torch", reason="processes are the same on every backend"
    ),
    pytest.mark.usefixtures("two_workers"),
]
MAKER = f"{__name__}:maker"


def maker(folder, base):
    """Works on a number: adds, raises, or ends its process, once or always."""

    def work(number):
        with open(pathlib.Path(folder) / str(number), "a") as stream:
            stream.write(f"{os.getpid()}\n")
        if number == 13:
            raise KeyError("thirteen")
        once = (pathlib.Path(folder) / str(number)).read_text().count("\n") == 1
        if number == 666 or (number == 7 and once):
            os.kill(os.getpid(), signal.SIGKILL)
        return base + number

    return work


def results(folder, numbers, **options):
    with cluster.connected("keras-struct-runs") as found:
        units = ((str(n), n) for n in numbers)
        arguments = (str(folder), found.put(100))
        return dict(cluster.in_actors(found, MAKER, arguments, units, **options))


def test_every_unit_once_also_where_a_process_is_killed(tmp_path):
    assert results(tmp_path, range(10)) == {str(n): 100 + n for n in range(10)}
    tries = {path.name: path.read_text().split() for path in tmp_path.iterdir()}
    assert len(tries["7"]) == 2
    assert (
        len({pid for found in tries.values() for pid in found}) >= 3
    )  # two processes, and one in place of the killed
    assert ray.is_initialized()  # the connection was there before


def test_units_are_read_as_they_are_needed(tmp_path):
    read = []

    def units():
        for n in range(100, 200):
            read.append(n)
            yield n, n

    with cluster.connected("keras-struct-runs") as found:
        made = cluster.in_actors(found, MAKER, (str(tmp_path), 0), units(), workers=1)
        next(made)
        assert len(read) <= cluster.AHEAD + 1


def test_errors(tmp_path):
    with pytest.raises(KeyError, match="thirteen"):
        results(tmp_path, [12, 13], workers=1)
    with pytest.raises(RuntimeError, match=r"works on 666, .* 4 in all\. Received: "):
        results(tmp_path, [666], workers=1)
    assert len((tmp_path / "666").read_text().split()) == 4
    for count in (0, 3):
        with pytest.raises(ValueError, match=f"cluster, 2. Received: workers={count}"):
            results(tmp_path, [1], workers=count)


def test_what_is_missing_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r'pip install "keras-struct-treebank\[ray\]"'):
        cluster.import_ray("keras-struct-treebank")
