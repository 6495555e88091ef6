"""The drill runs on small files, and names what is wrong with them."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("drill.py")


def test_a_drill_on_small_files(tmp_path):
    files = {
        "good.txt": b"We left. They saw it.\n",
        "latin.txt": b"A caf\xe9.\n\nWe left.\n",
        "good.conllu": b"1\ta\t_\tX\t_\t_\t0\troot\t_\t_\n",
        "cycle.conllu": b"1\ta\t_\tX\t_\t_\t1\tx\t_\t_\n",
        "bad.mrg": b"(S (X\n",
        "q.fasta": b">a\nMKV\n",
        "empty.pdb": b"",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    environment = {**os.environ, "KERAS_BACKEND": "torch", "PYTHONPATH": os.pathsep.join(sys.path)}
    environment["PYTHONWARNINGS"] = "ignore:Using a non-tuple sequence"  # Keras 3.14, on PyTorch
    command = [sys.executable, SCRIPT, "--quick", tmp_path]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr[-2000:]
    for row in (
        "text | 2 | 1 | 1 | 0 | 0 |",
        ".conllu | 2 | 1 | 1 | 0 | 0 |",
        ".mrg | 1 | 0 | 1 | 0 | 0 |",
        ".fasta | 1 | 1 | 0 | 0 | 0 |",
        ".pdb | 1 | 0 | 0 | 1 | 0 |",
        "| disk full | protein search | as it should |",
    ):
        assert row in result.stdout
