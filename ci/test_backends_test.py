"""The sum over backends must never report success for a process that crashed or ran nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = '[tool.pytest.ini_options]\ntestpaths = ["some"]\npython_files = ["*_test.py"]\n'
PAIR = "def test_a(): pass\ndef test_b(): assert False\n"
CASES = {
    "green": ("def test_a(): pass\ndef test_b(): pass\n", "2 passed, 0 failed, 0 skipped"),
    "red": (PAIR, "1 passed, 1 failed, 0 skipped"),
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


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    (tmp_path / "ci").mkdir()
    (tmp_path / "some").mkdir()
    for file in ("ci/test_backends.py", "conftest.py"):
        (tmp_path / file).write_bytes((ROOT / file).read_bytes())
    (tmp_path / "pyproject.toml").write_text(SETTINGS)
    return tmp_path


def run(workspace: Path, *arguments: str) -> tuple[str, str, int]:
    """The whole output, its closing line and the exit status."""
    script = workspace / "ci" / "test_backends.py"
    command = [sys.executable, str(script), "--only", "numpy", *arguments]
    result = subprocess.run(command, capture_output=True, text=True)
    print(result.stdout, result.stderr)
    return result.stdout, result.stdout.splitlines()[-1], result.returncode


@pytest.mark.parametrize("case", CASES)
def test_closing_line_and_exit_status(case: str, workspace: Path) -> None:
    source, expected = CASES[case]
    (workspace / "some" / "some_test.py").write_text(source)
    _, closing_line, status = run(workspace)
    assert closing_line == expected
    assert (status == 0) == (case == "green")


def test_too_much_memory_is_a_failure(workspace: Path) -> None:
    (workspace / "some" / "some_test.py").write_text("def test_a(): pass\n")
    script = workspace / "ci" / "test_backends.py"
    source = script.read_text()
    assert "MOST_MEMORY = 4e9" in source
    script.write_text(source.replace("MOST_MEMORY = 4e9", "MOST_MEMORY = 4e6"))
    output, closing_line, status = run(workspace)
    assert (closing_line, status) == ("1 passed, 1 failed, 0 skipped", 1)
    assert "of memory" in output


def test_every_test_runs_once_in_files_of_their_own_and_in_parts(workspace: Path) -> None:
    """Three large files, one of them of several parts, which one process could not hold."""
    tests = "".join(f"def test_{i}(): pass\n" for i in range(7))
    seconds = {"some/a_test.py": [1100, 7], "some/b_test.py": [190, 7], "some/c_test.py": [190, 7]}
    for file in seconds:
        (workspace / file).write_text(tests)
    durations = workspace / "ci" / "durations.json"
    durations.write_text(json.dumps({"numpy": {**seconds, "some/gone_test.py": [1, 1]}}))
    output, closing_line, _ = run(workspace, "--record")
    assert closing_line == "21 passed, 0 failed, 0 skipped"
    assert output.count("(part ") == 4 and "[numpy-06]" in output
    recorded = json.loads(durations.read_text())["numpy"]
    assert {file: tests for file, (_, tests) in recorded.items()} == dict.fromkeys(seconds, 7)


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["-k", "test_a"], "1 passed, 0 failed, 0 skipped"),
        (["-k", "some and test_b"], "0 passed, 1 failed, 0 skipped"),
        (["-k", "neither"], "0 passed, 1 failed, 0 skipped"),
        (["some/pair_test.py"], "1 passed, 1 failed, 0 skipped"),
        (["some", "-k", "test_c"], "1 passed, 0 failed, 0 skipped"),
        (["some/pair_test.py::test_a", "-x"], "1 passed, 0 failed, 0 skipped"),
        (["--no-such-option"], "0 passed, 2 failed, 0 skipped"),
    ],
    ids=str,
)
def test_a_selection(arguments: list[str], expected: str, workspace: Path) -> None:
    """What nothing selects is not run, which is a failure only if nothing is left."""
    (workspace / "some" / "pair_test.py").write_text(PAIR)
    (workspace / "some" / "other_test.py").write_text("def test_c(): pass\n")
    (workspace / "ci" / "durations.json").write_text(
        json.dumps({"numpy": {"some/pair_test.py": [190, 2], "some/other_test.py": [190, 1]}})
    )
    _, closing_line, status = run(workspace, "--", *arguments)
    assert closing_line == expected
    assert (status == 0) == (" 0 failed" in expected)


SHARED = """
import pytest
of_jax = pytest.mark.skipif(False, reason="Pallas is a part of JAX")
has_gradients = pytest.mark.skipif(False, reason="the NumPy backend has no gradients")
def test_a(): pass
@has_gradients
def test_b(): pass
@has_gradients
def test_c(): pass
@has_gradients
def test_i(): pass
@of_jax
def test_d(): pass
@pytest.mark.everywhere
def test_e(): pass
@pytest.mark.compiles_long
def test_f(): pass
@pytest.mark.parametrize("n", range(5))
def test_h(n): pass
@pytest.mark.parametrize("n", range(12))
def test_n(n): pass
@pytest.mark.parametrize("n", range(26))
def test_m(n): pass
@pytest.mark.everywhere
@pytest.mark.parametrize("n", range(8))
def test_k(n): pass
"""


def test_backends_share_what_takes_long(workspace: Path) -> None:
    (workspace / "some" / "some_test.py").write_text(SHARED)
    markers = 'markers = ["everywhere: x", "compiles_long: x"]\n'
    (workspace / "pyproject.toml").write_text(SETTINGS + markers)

    def collected(backend: str, **variables: str) -> set[str]:
        command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "some"]
        environment = {**os.environ, "KERAS_BACKEND": backend, **variables}
        for name in {"SHARED_TESTS", "EVERY_CASE"} - set(variables):
            environment.pop(name, None)
        child = subprocess.run(
            command, cwd=workspace, env=environment, capture_output=True, text=True
        )
        return {line.split("::")[1] for line in child.stdout.splitlines() if "::" in line}

    everything = collected("jax")
    assert len(everything) == 58
    numpy, torch, jax, tensorflow = (
        collected(backend, SHARED_TESTS="1") for backend in ("numpy", "torch", "jax", "tensorflow")
    )

    def cases(found: set[str], test: str) -> set[int]:
        return {int(x[7:-1]) for x in found if x.startswith(f"{test}[")}

    assert everything == collected("tensorflow", SHARED_TESTS="1", EVERY_CASE="1")
    assert {x for x in everything if "[" not in x} < torch and torch < everything
    for test, number in (("test_h", 5), ("test_k", 8), ("test_n", 12), ("test_m", 26)):
        every = range(number) if number < 7 else range(1, number, 3)
        assert cases(numpy, test) == set(every)
        for found in (torch, jax, tensorflow)[: 3 if test == "test_k" else 1]:
            first = min(cases(found, test))
            assert first < 6 and cases(found, test) == set(range(first, number, 6))
    assert cases(jax, "test_m") == {0, 12, 24} and cases(tensorflow, "test_m") == {25, 13, 1}
    assert cases(jax, "test_n") <= {0} and cases(tensorflow, "test_n") <= {11}
    shared = {"test_d", "test_e"}
    of_jax, of_tensorflow = ({x for x in found if "[" not in x} for found in (jax, tensorflow))
    assert of_jax & of_tensorflow == shared and "test_f" not in of_jax | of_tensorflow
    assert of_jax > shared and of_tensorflow >= shared and of_jax | of_tensorflow < everything
