"""Runs the test suite once per Keras backend, each in its own process, and sums the results.

    python ci/test_backends.py [--only jax torch] [--jobs 2] [-- pytest arguments]

There is one job for each backend, and one named `ci` for the tests of this folder. Every job writes
`build/tests/<job>.log`, with its slowest tests, and `<job>.xml`. The last line printed is
`N passed, M failed, K skipped`, summed over the jobs.
"""

import argparse
import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
LOGS = ROOT / "build" / "tests"
JOBS = ("jax", "tensorflow", "torch", "numpy", "ci")  # the slowest first
FAILURE_LINES = 60
ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}
# The tests compile thousands of tiny programs and run each a few times: with these flags of XLA, in
# half the time.
XLA_FLAGS = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false"
)


class Counts(NamedTuple):
    passed: int
    failed: int
    skipped: int

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


def read_counts(report: Path, returncode: int) -> Counts:
    """Counts of a JUnit report; a job that crashed or ran no test counts as one failure."""
    counts = Counts(0, 0, 0)
    if report.exists():
        suites = ElementTree.parse(report).getroot().findall("testsuite")
        tests, failed, errors, skipped = (
            sum(int(suite.get(name, "0")) for suite in suites)
            for name in ("tests", "failures", "errors", "skipped")
        )
        counts = Counts(tests - failed - errors - skipped, failed + errors, skipped)
    nothing_ran = counts.passed + counts.failed == 0
    if counts.failed == 0 and (returncode != 0 or nothing_ran):
        counts = counts._replace(failed=1)
    return counts


def xla_flags() -> str:
    """`XLA_FLAGS` if the installed jaxlib knows them all: one that it does not ends the process."""
    environment = {**os.environ, **ENVIRONMENT, "XLA_FLAGS": XLA_FLAGS}
    command = [sys.executable, "-c", "import jax; jax.devices()"]
    child = subprocess.run(command, env=environment, capture_output=True, text=True)
    if child.returncode == 0:
        return XLA_FLAGS
    print(f"[jax] compiles with its defaults, since it refused {XLA_FLAGS}: {child.stderr[-500:]}")
    return ""


def run(job: str, arguments: list[str]) -> Counts:
    """Runs pytest for one job, prints its closing line, and the end of its log if it failed."""
    report, log = LOGS / f"{job}.xml", LOGS / f"{job}.log"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "--durations=15", f"--junit-xml={report}"]
    command += ["-p", "no:cacheprovider", *arguments]
    if job == "ci":
        command.append("ci")
    backend = "numpy" if job == "ci" else job
    environment = {**ENVIRONMENT, **os.environ, "KERAS_BACKEND": backend, "PYTHONUNBUFFERED": "1"}
    if job == "jax" and "XLA_FLAGS" not in environment:
        environment["XLA_FLAGS"] = xla_flags()
    start = time.monotonic()
    with log.open("w") as stream:
        returncode = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
        ).returncode
    counts = read_counts(report, returncode)
    lines = log.read_text(errors="replace").splitlines() or ["no output"]
    tail = (
        lines[-FAILURE_LINES:] if counts.failed else [line for line in lines if "==" in line][-1:]
    )
    tail.append(f"exit status {returncode} after {time.monotonic() - start:.0f} s, see {log}")
    print("\n".join(f"[{job}] {line}" for line in tail), flush=True)
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", nargs="+", choices=JOBS, default=JOBS, help="default: all")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("pytest_arguments", nargs="*", help="after --, for every job")
    options = parser.parse_args()

    LOGS.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(options.jobs) as pool:
        futures = [pool.submit(run, job, options.pytest_arguments) for job in options.only]
        results = [future.result() for future in as_completed(futures)]
    total = Counts(*(sum(column) for column in zip(*results, strict=True)))
    print(total)
    return 1 if total.failed else 0


if __name__ == "__main__":
    sys.exit(main())
