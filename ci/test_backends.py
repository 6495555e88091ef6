"""Runs the test suite on every Keras backend, in processes of a few minutes, and sums the counts.

    python ci/test_backends.py [--only jax torch] [--jobs 2] [--record] [-- pytest arguments]

A unit is one process of pytest: a few test files on one backend, put together and started longest
first by the seconds in `ci/durations.json`, which `--record` measures anew. A large file is cut
into several units. No process may take more than 4 GB. Without pytest arguments backends share the
tests (see conftest.py). Among the arguments, paths and `-k` select; only files with a
selected test are run then, and each on every backend.

There is a job for each backend; `ci` for the tests of this folder; and `jax-optimized` for some
laws compiled as users compile them, where the others have XLA optimize little. Every unit writes
`build/tests/<job>-<number>.log`, with its slowest tests, and `.xml`. The last line printed is
`N passed, M failed, K skipped`, summed over the units.
"""

import argparse
import functools
import json
import os
import re
import subprocess
import sys
import time
import tomllib
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import IO, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
LOGS = ROOT / "build" / "tests"
DURATIONS = ROOT / "ci" / "durations.json"
UNIT_SECONDS = 200.0  # importing a backend takes 4 to 10 of them
UNKNOWN_SECONDS = 10.0
MOST_MEMORY = 4e9  # bytes of any process
FAILURE_LINES = 60
NOTHING_COLLECTED = 5  # exit status of pytest
ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}
# The tests compile thousands of tiny programs and run each a few times: with these flags of XLA, in
# half the time, and in another third less where JAX notes no lines of source.
XLA_FLAGS = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
)
QUICK = {"JAX_TRACEBACK_IN_LOCATIONS_LIMIT": "0", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
# A structure of each family; the gradients are those of the value, the entropy and the marginals.
OPTIMIZED = (
    "-k",
    "test_gradients_by_name and (TestNeedlemanWunsch or TestEisner or TestPCFG "
    "or TestSpanningTree and ragged) or test_large_scores and (TestLinearChain or TestCKY) "
    "or test_doubly_stochastic",
)
# Options of pytest whose value is an argument of its own, which may be called like a folder.
VALUED = ("-k", "-m", "-p", "-o", "-W", "-c", "--deselect", "--ignore")


class Job(NamedTuple):
    backend: str
    folders: tuple[str, ...]
    arguments: tuple[str, ...] = ()  # where the caller gives none
    quick: bool = False  # whether XLA_FLAGS and QUICK apply


class Unit(NamedTuple):
    job: str
    number: int
    files: tuple[str, ...]
    seconds: float  # expected
    part: str = ""  # "2/3": the second third of the tests


class Counts(NamedTuple):
    passed: int
    failed: int
    skipped: int

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


def add(*counts: Counts) -> Counts:
    return Counts(*map(sum, zip(Counts(0, 0, 0), *counts, strict=True)))


class Result(NamedTuple):
    unit: Unit
    counts: Counts
    files: dict[str, tuple[float, int]]  # seconds and number of tests
    wall: float
    processor: float  # seconds of user time, children included
    memory: int  # bytes, the most that one process held


@functools.cache
def jobs() -> dict[str, Job]:
    with (ROOT / "pyproject.toml").open("rb") as stream:
        folders = tuple(tomllib.load(stream)["tool"]["pytest"]["ini_options"]["testpaths"])
    return {
        "jax": Job("jax", folders, quick=True),
        "tensorflow": Job("tensorflow", folders, quick=True),
        "torch": Job("torch", folders),
        "numpy": Job("numpy", folders),
        "ci": Job("numpy", ("ci",)),
        "jax-optimized": Job("jax", ("ops",), OPTIMIZED),
    }


def test_files(folders: tuple[str, ...]) -> list[str]:
    found = {path for folder in folders for path in (ROOT / folder).rglob("*_test.py")}
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


def split_arguments(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Paths and node ids on the one hand, options on the other."""
    paths: list[str] = []
    options: list[str] = []
    for previous, argument in zip(["", *arguments], arguments, strict=False):
        exists = (ROOT / argument.split("::")[0]).exists()
        is_path = exists and not argument.startswith("-") and previous not in VALUED
        (paths if is_path else options).append(argument)
    return [os.path.relpath(ROOT / path, ROOT) for path in paths], options


@functools.cache
def xla_flags(backend: str) -> str:
    """`XLA_FLAGS` if the installed XLA knows them all: one that it does not ends the process."""
    program = (
        "import jax; jax.devices()"
        if backend == "jax"
        else "import tensorflow as tf; tf.function(tf.exp, jit_compile=True)(tf.ones(2))"
    )
    environment = {**os.environ, **ENVIRONMENT, "XLA_FLAGS": XLA_FLAGS}
    command = [sys.executable, "-c", program]
    child = subprocess.run(command, env=environment, capture_output=True, text=True)
    if child.returncode == 0:
        return XLA_FLAGS
    refusal = child.stderr[-500:]
    print(f"[{backend}] compiles with its defaults, since it refused {XLA_FLAGS}: {refusal}")
    return ""


def environment(job: Job, shared: bool = False) -> dict[str, str]:
    """Of a process of tests; `shared` where backends share the tests, see conftest.py."""
    variables = {**ENVIRONMENT, **os.environ}
    if shared:
        variables["SHARED_TESTS"] = "1"
    variables |= {"KERAS_BACKEND": job.backend, "PYTHONUNBUFFERED": "1"}
    if job.quick and "XLA_FLAGS" not in variables:
        variables |= {**QUICK, "XLA_FLAGS": xla_flags(job.backend)}
    return variables


def pytest(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]


def selected(job: Job, paths: list[str], options: list[str]) -> dict[str, int]:
    """Test files and how many of their tests are selected; where pytest fails here, all files."""
    files = test_files(job.folders)
    if paths:
        files = [f for f in files if any(is_below(f, path.split("::")[0]) for path in paths)]
    if not files:
        return {}
    command = pytest("--collect-only", "-qq", *options, *targets(files, paths))
    child = subprocess.run(command, cwd=ROOT, env=environment(job), capture_output=True, text=True)
    if child.returncode not in (0, NOTHING_COLLECTED):
        return dict.fromkeys(files, 1)
    found = re.findall(r"^(.+_test\.py): (\d+)$", child.stdout, re.MULTILINE)
    return {file: int(number) for file, number in found}


def is_below(file: str, path: str) -> bool:
    return path == "." or file == path or file.startswith(path + "/")


def targets(files: list[str] | tuple[str, ...], paths: list[str]) -> list[str]:
    """The files, or what of them the node ids name."""
    return [
        target
        for file in files
        for target in [p for p in paths if p.startswith(file + "::")] or [file]
    ]


def read_durations() -> dict[str, dict[str, tuple[float, int]]]:
    return json.loads(DURATIONS.read_text()) if DURATIONS.exists() else {}


def write_durations(results: list[Result]) -> None:
    """Replaces what was measured now, and forgets the files that exist no more."""
    durations = read_durations()
    for result in results:
        durations.setdefault(result.unit.job, {})
    for job in durations:
        new: dict[str, tuple[float, int]] = {}
        for result in results:
            if result.unit.job == job:
                for file, (seconds, tests) in result.files.items():
                    old = new.get(file, (0.0, 0))
                    new[file] = (round(old[0] + seconds, 1), old[1] + tests)
        merged = {**durations[job], **new}
        durations[job] = {f: merged[f] for f in sorted(merged) if (ROOT / f).exists()}
    lines = json.dumps(durations, indent=1)
    DURATIONS.write_text(re.sub(r"\[\s+([\d.]+),\s+(\d+)\s+\]", r"[\1, \2]", lines) + "\n")


def make_units(name: str, files: dict[str, int], durations: dict) -> list[Unit]:
    """Groups of files (first fit, longest first) and parts of large files.

    `files` gives the number of selected tests, or 0 where all of them are.
    """
    expected = {}
    for file, selection in files.items():
        seconds, tests = durations.get(name, {}).get(file, (UNKNOWN_SECONDS, selection))
        expected[file] = seconds * min(1.0, selection / max(tests, 1) if selection else 1.0)
    groups: list[tuple[float, list[str], str]] = []
    for file in sorted(files, key=lambda f: (-expected[f], f)):
        seconds = expected[file]
        parts = int(seconds // (1.5 * UNIT_SECONDS)) + 1
        if parts > 1:
            groups += [(seconds / parts, [file], f"{i + 1}/{parts}") for i in range(parts)]
            continue
        for i, (total, members, part) in enumerate(groups):
            if not part and total + seconds <= UNIT_SECONDS:
                groups[i] = (total + seconds, [*members, file], "")
                break
        else:
            groups.append((seconds, [file], ""))
    return [
        Unit(name, i + 1, tuple(sorted(members)), seconds, part)
        for i, (seconds, members, part) in enumerate(groups)
    ]


def plan(
    pool: ThreadPoolExecutor, names: list[str], paths: list[str], options: list[str]
) -> tuple[list[Unit], dict[str, list[str]]]:
    """The units, longest first, and the options of pytest for each job."""
    durations = read_durations()
    arguments = {name: options or list(jobs()[name].arguments) for name in names}

    def files(name: str) -> dict[str, int]:
        if paths or arguments[name]:
            return selected(jobs()[name], paths, arguments[name])
        return dict.fromkeys(test_files(jobs()[name].folders), 0)

    found = zip(names, pool.map(files, names), strict=True)
    units = [unit for name, files in found for unit in make_units(name, files, durations)]
    return sorted(units, key=lambda unit: -unit.seconds), arguments


def read_report(report: Path, files: tuple[str, ...]) -> tuple[Counts, dict]:
    """Counts of a JUnit report, and the seconds and number of tests of each file."""
    if not report.exists():
        return Counts(0, 0, 0), {}
    suites = ElementTree.parse(report).getroot().findall("testsuite")
    tests, failed, errors, skipped = (
        sum(int(suite.get(name, "0")) for suite in suites)
        for name in ("tests", "failures", "errors", "skipped")
    )
    seconds: dict[str, float] = dict.fromkeys(files, 0.0)  # also of files with no test here
    number = dict.fromkeys(files, 0)
    for case in (case for suite in suites for case in suite.findall("testcase")):
        module = f"{case.get('classname')}."
        for file in files:
            if module.startswith(file.removesuffix(".py").replace("/", ".") + "."):
                seconds[file] += float(case.get("time", "0"))
                number[file] += 1
    counts = Counts(tests - failed - errors - skipped, failed + errors, skipped)
    return counts, {file: (seconds[file], number[file]) for file in number}


def run(unit: Unit, paths: list[str], options: list[str], may_be_empty: bool) -> Result:
    """Runs pytest for one unit, prints how it went, and the end of its log if it failed."""
    name = f"{unit.job}-{unit.number:02}"
    report, log = LOGS / f"{name}.xml", LOGS / f"{name}.log"
    command = pytest("--durations=15", f"--junit-xml={report}", *options)
    if unit.part:
        command.append(f"--part={unit.part}")
    command += targets(unit.files, paths)
    start = time.monotonic()
    with log.open("w") as stream:
        variables = environment(jobs()[unit.job], shared=not (paths or options))
        returncode, processor, memory = run_measured(command, variables, stream)
    wall = time.monotonic() - start
    counts, files = read_report(report, unit.files)
    empty = returncode == NOTHING_COLLECTED and (may_be_empty or counts.skipped > 0)
    problems = []
    if counts.failed == 0 and returncode != 0 and not empty:
        problems.append(f"exit status {returncode}")
    if memory > MOST_MEMORY:
        problems.append(f"more than {MOST_MEMORY / 1e9:.0f} GB of memory")
    counts = add(counts, Counts(0, len(problems), 0))
    lines = log.read_text(errors="replace").splitlines() or ["no output"]
    shown = lines[-FAILURE_LINES:] if counts.failed else []
    names = ", ".join(file.rsplit("/", 1)[-1] for file in unit.files)
    part = f" (part {unit.part})" if unit.part else ""
    shown.append(
        f"{counts} in {wall:.0f} s ({processor:.0f} s of processors), {memory / 1e9:.1f} GB: "
        + "; ".join([f"{names}{part}", *problems])
    )
    print("\n".join(f"[{name}] {line}" for line in shown), flush=True)
    return Result(unit, counts, files, wall, processor, memory)


def run_measured(command: list[str], variables: dict, log: IO[str]) -> tuple[int, float, int]:
    """Exit status, seconds of user time, and the most bytes that one process of it held."""
    child = subprocess.Popen(
        command,
        cwd=ROOT,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    unit = 1 if sys.platform == "darwin" else 1024
    return child.returncode, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit


def summarize(job: str, results: list[Result]) -> Counts:
    """Prints and returns the sum of a job; one in which nothing ran has failed."""
    total = add(*(result.counts for result in results))
    print(
        f"[{job}] {total} in {len(results)} processes of {sum(r.wall for r in results):.0f} s "
        f"({sum(r.processor for r in results):.0f} s of processors), "
        f"at most {max((r.memory for r in results), default=0) / 1e9:.1f} GB"
    )
    return total


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", nargs="+", choices=jobs(), help="default: all")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--record", action="store_true", help="write ci/durations.json")
    parser.add_argument("pytest_arguments", nargs="*", help="after --, for every process")
    options = parser.parse_args()
    paths, arguments = split_arguments(options.pytest_arguments)
    selection = bool(options.pytest_arguments)
    if options.record and selection:
        parser.error("--record measures whole files: it takes no pytest arguments")
    names = options.only or [n for n, job in jobs().items() if not (selection and job.arguments)]

    LOGS.mkdir(parents=True, exist_ok=True)
    for old in (file for name in names for file in LOGS.glob(f"{name}-[0-9]*")):
        old.unlink()
    start = time.monotonic()
    with ThreadPoolExecutor(options.jobs) as pool:
        units, options_of = plan(pool, names, paths, arguments)
        futures = [pool.submit(run, unit, paths, options_of[unit.job], selection) for unit in units]
        results = [future.result() for future in as_completed(futures)]
    if options.record:
        write_durations(results)
    total = add()
    for name in names:
        counts = summarize(name, [r for r in results if r.unit.job == name])
        if not selection and counts.passed + counts.failed == 0:
            print(f"[{name}] ran no test")
            counts = add(counts, Counts(0, 1, 0))
        total = add(total, counts)
    if selection and total.passed + total.failed == 0:
        print("ran no test")
        total = add(total, Counts(0, 1, 0))
    print(f"{time.monotonic() - start:.0f} s")
    print(total)
    return 1 if total.failed else 0


if __name__ == "__main__":
    sys.exit(main())
