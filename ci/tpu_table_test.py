import runpy
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("tpu_table.py")


def test_the_table_is_up_to_date():
    subprocess.run([sys.executable, SCRIPT, "--check"], check=True)


def test_a_kernel_that_one_chip_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))  # as for a script
    table = runpy.run_path(str(SCRIPT))["table"]
    kernel = {"bundles": [107, 46], "spills": 3, "scratch MB": 9.6}
    chips: dict = {
        "v6e": {"a": {"HBM MB": 4}},
        "v5e": {"a": {"keras_struct_x": kernel, "HBM MB": 4}},
    }
    text = table({"chips": chips, "versions": {"jax": "1"}})
    assert "| program | kernel | v5e | v6e | scratch MB |" in text
    assert "| a | x | 107 + 46 (3 spilled) | – | 9.6 |" in text
    chips["v6e"]["a"]["keras_struct_x"] = {**kernel, "spills": 0}
    text = table({"chips": chips, "versions": {"jax": "1"}})
    assert "| a | x | 107 + 46 (3 spilled) | 107 + 46 | 9.6 |" in text
