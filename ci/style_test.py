"""Style and types, as `make lint` checks them, beside the tests instead of before them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
RECIPE = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.skipif(
    "LOWEST_VERSIONS" in os.environ, reason="types are those of the newest versions"
)
@pytest.mark.parametrize("command", re.findall(r"\$\(BIN\)/(.+)", RECIPE[1] if RECIPE else ""))
def test_style(command):
    program, *arguments = command.split()
    checked = subprocess.run(
        [sys.executable, "-m", program, *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_check_is_found():
    assert RECIPE is not None and RECIPE[1].count("\n") == 3
