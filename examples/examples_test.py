"""Every example but the demo runs as a user runs it, and leaves whole pictures."""

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import pytest

from keras_struct.ops.testing import EVERY_CASE

pytestmark = pytest.mark.skipif(
    keras.config.backend() != "torch" and not EVERY_CASE,
    reason="PyTorch, which compiles nothing, runs the examples, or `make test-every`",
)
FOLDER = Path(__file__).parent
needs_gradients = pytest.mark.skipif(
    keras.config.backend() == "numpy", reason="the NumPy backend has no gradients"
)


@pytest.fixture
def run(monkeypatch, capsys) -> Iterator[Callable[..., str]]:
    """Runs a script or a package of this folder in this process, and gives what it prints.

    A process of its own would take most of its time for imports.
    """

    def run(name: str, *arguments: str) -> str:
        monkeypatch.setenv("COLUMNS", "120")
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        capsys.readouterr()
        if name.endswith(".py"):
            runpy.run_path(str(FOLDER / name), run_name="__main__")
        else:
            runpy.run_module(name, run_name="__main__")
        return capsys.readouterr().out

    yield run
    if keras.config.backend() == "jax":
        import jax

        jax.config.update("jax_enable_x64", False)  # sinkhorn_validation wants it


def is_png(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG")


def test_protein_alignment(run, tmp_path):
    output = run("protein_alignment.py", "--smoke", "--output", str(tmp_path))
    assert "best score 153" in output  # as parasail's sw with BLOSUM62, 11 and 1
    assert "CSYEDRREIRHIWDDVWSSSFTDRRVAIVRAVFDDLFKHYPTSKALFERVKIDEPESGEF" in output
    assert "123 are in the best alignment of 133 pairs" in output
    assert is_png(tmp_path / "protein_alignment.png")


def test_structure_alignment(run, tmp_path):
    output = run("structure_alignment.py", "--smoke", "--output", str(tmp_path))
    names = ("ours", "refined", "TM-align")
    rows = [line.split() for line in output.splitlines() if line.startswith(names)]
    ours, refined, reference = ([float(x) for x in row[1:]] for row in rows)
    assert ours[1] > 0.97 * reference[1] and ours[3] > 0.97 * reference[3]  # TM-score, lDDT
    assert refined[1] > 0.995 * reference[1]
    assert "the superpositions differ by" in output
    assert float(re.findall(r"differ by (\S+) angstrom", output)[0]) < 1
    assert (tmp_path / "superposed.pdb").stat().st_size and is_png(tmp_path / "map.png")


def test_parse_demo(tmp_path):
    script = FOLDER / "parse_demo.py"
    command = [sys.executable, str(script), "We saw it. It rains.", "--output", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "120"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "nsubj" in result.stdout and "NP" in result.stdout
    names = [f"{kind}-{n}.svg" for kind in ("constituency", "dependency") for n in (1, 2)]
    assert sorted(file.name for file in tmp_path.iterdir()) == names
    assert all((tmp_path / name).read_text().startswith("<svg") for name in names)


def test_protein_alignment_names_the_chains(run):
    with pytest.raises((SystemExit, ValueError), match="Received: chain=Z"):
        run("protein_alignment.py", "--first", "Z")


@needs_gradients
def test_noisy_copy(run):
    rows = [line for line in run("noisy_copy.py", "--smoke").splitlines() if "%" in line]
    frozen, learned = ([float(x) for x in re.findall(r"-?\d+\.\d+", row)] for row in rows)
    assert frozen[:2] == [-10, -10] and -10 < learned[1] < -1
    assert learned[2] < frozen[2] - 1  # nats
    assert learned[5] > frozen[5]  # F1


@needs_gradients
def test_dtw_classifier(run, tmp_path):
    output = run("dtw_classifier.py", "--smoke", "--output", str(tmp_path))
    euclidean, warped = (
        [int(x) for x in re.findall(r"(\d+)%", line)]
        for line in output.splitlines()
        if line.count("%") == 2
    )
    assert warped[0] > euclidean[0]  # already the untrained prototypes
    assert is_png(tmp_path / "prototypes.png")


@needs_gradients
def test_sinkhorn_validation(run, tmp_path):
    run("sinkhorn_validation", "--smoke", "--output", str(tmp_path / "results.md"))
    text = (tmp_path / "results.md").read_text()
    assert text.count("## ") == 5
    exact = [line.split("|") for line in text.splitlines() if line.startswith("| float32")]
    assert len(exact) == 2 and all(float(row[6]) < 1e-5 for row in exact)


@needs_gradients
def test_pfam_sinkhorn(run, tmp_path):
    for _ in range(2):  # the second run only loads
        output = run("pfam_sinkhorn", "--smoke", "--output", str(tmp_path))
        rows = [line.split("|") for line in output.splitlines() if line.startswith("| ")]
        numbers = {row[1].strip(): [float(x) for x in row[2:-1]] for row in rows[1:]}
        assert numbers["band_balanced"][1] < numbers["diagonal"][1]  # cross-entropy
    assert (tmp_path / "band_balanced" / "model.weights.h5").exists()
    assert "Epoch" not in output


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="a device is a core, and needs two")
def test_scaling_jax(monkeypatch, capfd):
    small = ["--devices", "1", "2", "--batch", "4", "--length", "16", "--steps", "1"]
    monkeypatch.setattr(sys, "argv", ["scaling_jax.py", *small])
    runpy.run_path(str(FOLDER / "scaling_jax.py"), run_name="__main__")
    rows = [line.strip("| ").split(" | ") for line in capfd.readouterr().out.splitlines()]
    losses: dict[str, list[float]] = {}
    for row in rows:
        if len(row) == 5 and row[1] in ("1", "2"):
            losses.setdefault(row[0], []).append(float(row[4]))
    assert len(losses) == 2
    assert all(one == pytest.approx(two, rel=1e-4) for one, two in losses.values())
    (sent,) = (row for row in rows if row[:2] == ["CRF tagger", "8"])
    assert float(sent[2]) == pytest.approx(0.74, abs=0.01)  # seven quarters of 4 bytes a weight
