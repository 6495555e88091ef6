"""Commands: exit status, messages, signals, closed pipes, outputs, encodings. One backend."""

import functools
import io
import os
import signal
import subprocess
import sys

import pytest

from keras_struct import runs
from keras_struct.ops.testing import BACKEND, modules_of, run_examples
from keras_struct.runs import LeftOut, check_outputs, check_text, open_text, run_command
from keras_struct.runs.checks import check_count, check_positive, check_seed

pytestmark = pytest.mark.skipif(BACKEND != "numpy", reason="the same on every backend")

# `keras_struct.layers` would import Keras for seconds.
PROGRAM = """
import sys, time, types
from pathlib import Path
layers = types.ModuleType("keras_struct.layers")
layers.__path__ = [{layers!r}]
runs = types.ModuleType("keras_struct.runs")
runs.__path__ = [{runs!r}]
sys.modules |= {{"keras_struct.layers": layers, "keras_struct.runs": runs}}
from keras_struct.layers.whole_files import open_whole
from keras_struct.runs.command import run_command
def work(left_out):
    {body}
sys.exit(run_command("program", work))
"""


def child(body, **options):
    folders = {name: module_folder(name) for name in ("layers", "runs")}
    program = PROGRAM.format(body=body, **folders)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    options = {"stderr": subprocess.PIPE, "text": True, "env": environment, **options}
    # A shell starts what runs in its background with Ctrl-C ignored, which children inherit.
    options["preexec_fn"] = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen([sys.executable, "-c", program], **options)


def module_folder(name):
    module = __import__(f"keras_struct.{name}", fromlist=["x"])
    return os.path.dirname(str(module.__file__))


@pytest.mark.parametrize("name", modules_of(runs))
def test_runnable_example(name):
    run_examples(name)


def raising(error):
    def work(left_out):
        raise error

    return work


def test_exit_status_says_how_it_went(capsys):
    assert run_command("p", lambda left_out: print("done")) == 0
    assert capsys.readouterr() == ("done\n", "")
    assert run_command("p", lambda left_out: left_out(ValueError("a.txt:3: bad"))) == 1
    assert capsys.readouterr().err == "p: left out: a.txt:3: bad\np: 1 of the input left out\n"
    assert run_command("p", lambda left_out: left_out(ValueError("a")), strict=True) == 2
    assert capsys.readouterr().err == "p: a\n"
    for error in (ValueError("x" * 5000), OSError("x" * 5000), ImportError("x" * 5000)):
        assert run_command("p", raising(error)) == 2
        assert 1000 < len(capsys.readouterr().err) < 1100  # not the whole of a file
    assert run_command("p", raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_neither_traceback_nor_half_a_file(number, tmp_path):
    body = (
        "with open_whole('out') as stream:\n"
        "        stream.write('half'); print('ready', flush=True); time.sleep(60)"
    )
    process = child(body, stdout=subprocess.PIPE, cwd=tmp_path)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (128 + number, "")
    assert list(tmp_path.iterdir()) == []


def test_a_closed_pipe_is_quiet(tmp_path):
    body = "[print('line', k) for k in range(100_000)]"
    process = child(body, stdout=subprocess.PIPE)
    assert process.stdout.readline() == "line 0\n"
    process.stdout.close()
    assert (process.stderr.read(), process.wait(timeout=30)) == ("", 0)
    process.stderr.close()


def test_a_full_disk_is_an_error_with_a_name(tmp_path):
    with open("/dev/full", "w") as full:
        process = child("print('x' * 100_000)", stdout=full)
    _, err = process.communicate(timeout=30)
    assert "No space left" in err and "Traceback" not in err
    assert process.returncode == 2


def test_outputs_are_checked_before_the_work(tmp_path):
    check_outputs(None, "-", "/dev/null", tmp_path / "new")
    for path, error in (
        (tmp_path / "no" / "file", FileNotFoundError),
        (tmp_path, IsADirectoryError),
    ):
        with pytest.raises(error, match="Expected"):
            check_outputs(path)
    (tmp_path / "link").symlink_to(tmp_path / "in")
    check_outputs("/dev/null", "/dev/null", inputs=["-", "/dev/null"])
    for outputs in ([tmp_path / "link"], [tmp_path / "a", tmp_path / "no" / ".." / "a"]):
        with pytest.raises(ValueError, match="nothing else in this run"):
            check_outputs(*outputs, inputs=[tmp_path / "in"])


def texts(path, encoding=None):
    with open_text(path, encoding) as lines:
        return list(lines)


def test_text_of_every_encoding_and_with_broken_bytes(tmp_path):
    path = tmp_path / "a.txt"
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
        path.write_bytes("é one\r\n\ntwo".encode(encoding))
        assert texts(path) == ["é one\r\n", "\n", "two"]
    path.write_bytes("é\n".encode("latin-1"))
    assert texts(path, "latin-1") == ["é\n"]
    (broken,) = texts(path)
    with pytest.raises(ValueError, match="byte 0xe9"):
        check_text("caf" + broken)
    path.write_bytes(b"one\nb\xffd\nlast")
    first, second, third = texts(path)
    assert (first, third) == ("one\n", "last")
    with pytest.raises(ValueError, match="byte 0xff after 'b'"):
        check_text(second)
    path.write_bytes("ab".encode("utf-16") + b"\x00")  # half a character
    with pytest.raises(ValueError, match="byte 0x00 after 'ab'"):
        check_text(texts(path)[0])
    path.write_bytes("é\n".encode("utf-16-le"))
    assert texts(path, "UTF16") == ["é\n"]
    with pytest.raises(UnicodeError, match=r"encoding idna.*a\.txt"):
        texts(path, "idna")
    path.write_bytes(b"")
    assert texts(path) == []
    for wrong in ("none", "base64"):
        with pytest.raises(ValueError, match=f"encoding='{wrong}'"):
            texts(path, wrong)


def test_standard_input_stays_open(monkeypatch):
    stream = io.TextIOWrapper(io.BufferedReader(io.BytesIO(b"\xef\xbb\xbfone\n")))
    monkeypatch.setattr("sys.stdin", stream)
    assert texts("-") == ["one\n"]
    assert not stream.buffer.closed


def test_numbers_that_mean_nothing():
    check_count("n", 1)
    check_count("n", None, none=True)
    check_positive("x", 0.5)
    check_seed(0)
    for check, values in (
        (check_count, (0, -1, 1.5, True, None)),
        (check_positive, (0, -1.0, float("nan"), float("inf"), None)),
    ):
        for value in values:
            with pytest.raises(ValueError, match=f"Received: x={value}"):
                check("x", value)
    for seed in (-1, 2**32, 0.5):
        with pytest.raises(ValueError, match=f"seed={seed}"):
            check_seed(seed)


def test_strict_raises_the_error_itself():
    error = ValueError("a")
    with pytest.raises(ValueError) as found:
        LeftOut("p", strict=True)(error)
    assert found.value is error


def test_the_bar_of_a_training_waits_for_its_first_line(capsys):
    from keras_struct.runs.progress import epochs_bar

    with pytest.raises(ValueError), epochs_bar(0):
        check_count("epochs", 0)
    assert capsys.readouterr() == ("", "")
    with epochs_bar(3) as report:
        report("7 pairs")
        report("epoch 2  loss 0.5")
    told = capsys.readouterr().err
    assert told.count("7 pairs\n") == 1 and "2/3" in told


def test_tables_are_not_cut_where_there_is_no_terminal(capsys):
    from keras_struct.runs.progress import print_table

    print_table("title", {"a": "left", "b": "right"}, [["x" * 300, "[b]1[/b]"]])
    assert "x" * 300 in (out := capsys.readouterr().out) and "[b]1[/b]" in out
