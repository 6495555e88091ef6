"""The sum over backends must never report success for a job that crashed or ran nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

CASES = {
    "green": ("def test_a(): pass\ndef test_b(): pass\n", "2 passed, 0 failed, 0 skipped"),
    "red": ("def test_a(): pass\ndef test_b(): assert False\n", "1 passed, 1 failed, 0 skipped"),
    "empty": ("", "0 passed, 1 failed, 0 skipped"),
    "broken": ("import missing_module\n", "0 passed, 1 failed, 0 skipped"),
    "crash": ("import os\ndef test_a(): os._exit(3)\n", "0 passed, 1 failed, 0 skipped"),
    "skipped": (
        "import pytest\ndef test_a(): pytest.skip('reason')\n",
        "0 passed, 1 failed, 1 skipped",
    ),
    "exit": (
        "import os, atexit\ndef test_a(): atexit.register(os._exit, 3)\n",
        "1 passed, 1 failed, 0 skipped",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_closing_line_and_exit_status(case: str, tmp_path: Path) -> None:
    source, closing_line = CASES[case]
    (tmp_path / "ci").mkdir()
    script = tmp_path / "ci" / "test_backends.py"
    script.write_bytes(Path(__file__).with_name("test_backends.py").read_bytes())
    (tmp_path / "some_test.py").write_text(source)
    (tmp_path / "pytest.ini").write_text("[pytest]\npython_files = *_test.py\n")
    result = subprocess.run(
        [sys.executable, script, "--only", "numpy"], capture_output=True, text=True
    )
    print(result.stdout, result.stderr)
    assert result.stdout.splitlines()[-1] == closing_line
    assert (result.returncode == 0) == (case == "green")
