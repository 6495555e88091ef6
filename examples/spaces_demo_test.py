"""The demo runs as a user runs it, and leaves whole files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest


@pytest.mark.compiles_long
def test_demo(tmp_path):
    script = Path(__file__).with_name("spaces_demo.py")
    command = [sys.executable, str(script), "--smoke", "--output", str(tmp_path), "It is no-where"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    if keras.config.backend() == "numpy":
        assert result.returncode == 1
        assert "Received: KERAS_BACKEND=numpy" in result.stderr
        return
    assert result.returncode == 0, result.stdout + result.stderr
    assert "itisnowhere" in result.stdout
    files = {"alphabet.json", "marginals.png", "results.json", "spaces_model"}
    assert {path.name for path in tmp_path.iterdir()} == files
    assert (tmp_path / "marginals.png").read_bytes().startswith(b"\x89PNG")
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["scores"]["crf"]["f1"] > 0.2
