"""A drill of `parse --engine ray`: its processes and itself killed, a poisoned record, a full disk.

    python ci/ray_drill.py

Each time a corpus of some thousand sentences is parsed by two processes of a real cluster, and what
is in the folder in the end is compared with what `--engine local` makes: every sentence once, none
lost. The exit status is 1 if anything differs.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

START = "from keras_struct.runs.start import treebank; import sys; sys.exit(treebank())"
SENTENCES, SIZE = 3000, 250
POISON = "\\ud800"  # half a character, in a record of its own


def corpus(folder: Path) -> Path:
    """JSON lines: texts of a sentence, with a record that is no text and one that is poisoned."""
    path = folder / "corpus.jsonl"
    words = ("parser", "tree", "word", "sentence", "reader")
    with path.open("w", encoding="utf-8") as stream:
        for k in range(SENTENCES):
            stream.write(json.dumps({"text": f"The {words[k % 5]} saw {k} trees."}) + "\n")
            if k == 700:
                stream.write(f'{{"text": "We {POISON}."}}\n{{"text": 5}}\n')
    return path


def command(source: Path, output: Path, engine: str, *options: str) -> subprocess.Popen:
    workers = ("--workers", "2") if engine == "ray" else ()
    words = ["parse", "--kind", "dependency", str(source), "--engine", engine, *workers]
    words += ["--part-sentences", str(SIZE), "--output", str(output), *options]
    environment = {**os.environ, "KERAS_BACKEND": "torch", "OMP_NUM_THREADS": "1"}
    environment["RAY_DRILL"] = str(output)  # by which its processes are known
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", START, *words],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def parts(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("part-*"))}


def workers_of(process: subprocess.Popen, folder: Path, count: int) -> list[int]:
    """Processes of actors of a command, once so many parts are there."""
    while len(parts(folder)) < count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    found = subprocess.run(["pgrep", "-f", "^ray::Worker"], stdout=subprocess.PIPE, text=True)
    mark = f"RAY_DRILL={folder}".encode()
    pids = [int(pid) for pid in found.stdout.split()]
    return [p for p in pids if mark in Path(f"/proc/{p}/environ").read_bytes().split(b"\0")]


def killed_worker(source: Path, output: Path) -> str:
    process = command(source, output, "ray")
    (first, *_) = workers_of(process, output, 2)
    os.kill(first, signal.SIGKILL)
    _, err = process.communicate()
    return f"exit status {process.returncode}, {err.count('Expected a text')} record named"


def killed_driver(source: Path, output: Path) -> str:
    process = command(source, output, "ray")
    workers_of(process, output, 2)
    process.kill()
    process.communicate()
    had = len(parts(output))
    assert not (output / "_SUCCESS").exists()
    time.sleep(5)  # until its cluster has ended, too
    again = command(source, output, "ray", "--resume")
    again.communicate()
    return f"{had} parts there; then, by --resume, exit status {again.returncode}"


def full_disk(source: Path, output: Path) -> str:
    """A file system of its own, with room for some parts."""
    output.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", output], check=True)
    try:
        process = command(source, output, "ray")
        _, err = process.communicate()
        last = err.strip().splitlines()[-1].split("Received")[0]
        had = len(parts(output))
        assert process.returncode == 2, err
        assert not (output / "_SUCCESS").exists()
        subprocess.run(["mount", "-o", "remount,size=64m", output], check=True)
        again = command(source, output, "ray", "--resume")
        again.communicate()
        kept = parts(output)
    finally:
        subprocess.run(["umount", output], check=True)
    for name, data in kept.items():
        (output / name).write_bytes(data)
    place = last.replace(str(output), "FOLDER")
    return f"`{place}`, {had} parts; then, with room, by --resume, exit status {again.returncode}"


def main() -> int:
    drills: dict[str, Callable[[Path, Path], str]] = {
        "kill -9 of a worker": killed_worker,
        "kill -9 of the command": killed_driver,
        "disk full": full_disk,
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = corpus(folder)
        process = command(source, folder / "local", "local")
        _, err = process.communicate()
        assert process.returncode == 1, err
        assert "corpus.jsonl:702: " in err and "corpus.jsonl:703: " in err, err
        expected = parts(folder / "local")
        print("| `parse --engine ray` | what it did | every sentence once |\n|---|---|---|")
        right = True
        for number, (what, drill) in enumerate(drills.items()):
            output = folder / f"ray{number}"
            did = drill(source, output)
            same = parts(output) == expected
            right &= same
            print(f"| {what} | {did} | {'yes' if same else 'NO'} |", flush=True)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
