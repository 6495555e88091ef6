"""Runs every system on a task, each in its own process, one at a time, and has the results judged.

All systems of a task first compute once; the oracle judges what they computed; then they are timed
in turns, so that a busy moment of the machine hits all of them alike.
"""

import dataclasses
import importlib.util
import json
import os
import select
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from ci.bench.problem import BACKENDS, Problem
from ci.bench.worker import OUT_OF_MEMORY

ROOT = Path(__file__).resolve().parents[2]
FAILED = "FAILED"
# A system that takes longer than this for one run is timed once.
LONG_RUN = 3.0
IMPORT_LIMIT = 180.0
ORACLE_LIMIT = 900.0


@dataclasses.dataclass(frozen=True)
class Options:
    backends: tuple[str, ...] = BACKENDS
    peers: bool = True
    quick: bool = False
    seconds: float = 2.0
    rounds: int = 4
    threads: int = 2
    limit: float = 60.0
    memory: int = 12 * 2**30


@dataclasses.dataclass
class Result:
    """What became of one system on one task.

    Attributes:
        status: "ok", or why there is no time: `FAILED`, "out of memory", "over 60 s", ...
        durations: Seconds of each timed run.
        first: Seconds of the first run, compilation included.
        peak: Bytes by which the first run raised the peak of resident memory.
        error: Largest relative error against float64.
        reason: The end of what the process printed, if it failed.
    """

    status: str
    durations: list[float] = dataclasses.field(default_factory=list)
    first: float | None = None
    peak: int | None = None
    error: float | None = None
    reason: str = ""

    @property
    def seconds(self) -> float | None:
        return statistics.median(self.durations) if self.status == "ok" else None


class Process:
    """A child that answers each line on its standard input by one line of JSON."""

    def __init__(self, module: str, *arguments: object, environment: dict[str, str]) -> None:
        self.log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self.child = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
        )

    def ask(self, question: str) -> None:
        assert self.child.stdin is not None
        self.child.stdin.write(question.encode() + b"\n")
        self.child.stdin.flush()

    def answer(self, limit: float) -> dict[str, Any] | None:
        """The next line; `{}` if the process ended, None if it took longer than `limit`."""
        assert self.child.stdout is not None
        if not select.select([self.child.stdout], [], [], limit)[0]:
            return None
        line = self.child.stdout.readline()
        return json.loads(line) if line else {}

    def printed(self) -> str:
        """What it wrote to standard error."""
        self.log.seek(0)
        return self.log.read().decode(errors="replace")

    def close(self) -> None:
        self.child.kill()
        self.child.wait()
        for stream in (self.child.stdin, self.child.stdout, self.log):
            assert stream is not None
            stream.close()


def environment(backend: str, threads: int) -> dict[str, str]:
    count = str(threads)
    return {
        "KERAS_BACKEND": backend,
        "JAX_PLATFORMS": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "OMP_NUM_THREADS": count,
        "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads ruin each other on a busy machine
        "MKL_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": count,
        "TF_NUM_INTRAOP_THREADS": count,
        "TF_NUM_INTEROP_THREADS": count,
    }


def installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def systems(problem: Problem, task: str, options: Options) -> dict[str, str]:
    """Status of every system of a task before anything runs: "" for those that can run."""
    found = {b: "" if installed(b) else "not installed" for b in options.backends}
    for name, peer in problem.peers.items() if options.peers else ():
        if task not in peer.jobs:
            continue
        found[name] = ""
        if not installed(peer.module) or (peer.backend and not installed(peer.backend)):
            found[name] = "not installed"
        elif options.quick and peer.slow(problem):
            found[name] = "skipped"
    return found


class Runner:
    def __init__(self, options: Options, report: Callable[[str], None]) -> None:
        self.options = options
        self.report = report
        self.oracle = Process("ci.bench.oracle", environment=environment("numpy", options.threads))

    def close(self) -> None:
        self.oracle.close()

    def run(self, problem: Problem, task: str) -> dict[str, Result]:
        """Results by system."""
        statuses = systems(problem, task, self.options)
        results = {name: Result(status) for name, status in statuses.items() if status}
        runnable = [name for name, status in statuses.items() if not status]
        with tempfile.TemporaryDirectory() as folder:
            files = {name: Path(folder) / f"{i}.npz" for i, name in enumerate(runnable)}
            processes: dict[str, Process] = {}
            try:

                def call(name: str) -> Result:
                    processes[name] = self._start(problem, task, name, files[name])
                    return self._first_call(processes[name])

                with ThreadPoolExecutor(self.options.threads) as pool:
                    results |= dict(zip(runnable, pool.map(call, runnable), strict=True))
                for name in runnable:
                    if results[name].status == "ok":
                        self._judge(problem, task, files[name], results[name])
                self._time(processes, results)
            finally:
                for process in processes.values():
                    process.close()
        for name in statuses:
            self.report(f"  {name}: {describe(results[name])}")
        return {name: results[name] for name in statuses}

    def _start(self, problem: Problem, task: str, name: str, outputs: Path) -> Process:
        peer = problem.peers.get(name)
        backend = name if peer is None else (peer.backend or "torch")
        return Process(
            "ci.bench.worker",
            type(problem).__module__,
            problem.title,
            task,
            name,
            outputs,
            self.options.memory,
            self.options.threads,
            environment=environment(backend, self.options.threads),
        )

    def _first_call(self, process: Process) -> Result:
        message = process.answer(IMPORT_LIMIT)
        if message:
            message = process.answer(self.options.limit) if message["status"] != "none" else message
        if message is None:
            process.child.kill()
            return Result(f"over {self.options.limit:g} s")
        if not message:
            return self._ended(process)
        if message["status"] == "none":
            return Result("-", reason=message["reason"])
        return Result("ok", first=message["seconds"], peak=message["peak"])

    def _ended(self, process: Process) -> Result:
        process.child.wait()
        text = process.printed()
        if any(sign in text for sign in OUT_OF_MEMORY) or process.child.returncode == -9:
            return Result(f"out of memory ({self.options.memory / 2**30:g} GiB)")
        return Result(FAILED, reason="\n".join(text.splitlines()[-15:]))

    def _judge(self, problem: Problem, task: str, outputs: Path, result: Result) -> None:
        request = {
            "module": type(problem).__module__,
            "problem": problem.title,
            "task": task,
            "outputs": str(outputs),
        }
        self.oracle.ask(json.dumps(request))
        answer = self.oracle.answer(ORACLE_LIMIT)
        if not answer:
            raise RuntimeError(f"The oracle ended or hung:\n{self.oracle.printed()}")
        result.error = answer["error"]
        if not answer["error"] <= answer["tolerance"]:
            result.status = FAILED
            result.reason = f"relative error {answer['error']:.1e} > {answer['tolerance']:.0e}"

    def _time(self, processes: dict[str, Process], results: dict[str, Result]) -> None:
        """Time warm runs in turns; what takes long, once."""
        share = self.options.seconds / self.options.rounds
        for _ in range(self.options.rounds):
            for name, process in processes.items():
                result = results[name]
                if result.status != "ok" or max(result.durations, default=0.0) > LONG_RUN:
                    continue
                process.ask(str(share))
                answer = process.answer(self.options.limit + share)
                if answer:
                    result.durations += answer["durations"]
                else:
                    process.child.kill()
                    result.status = FAILED
                    result.reason = "it ended or hung while it was timed"


def describe(result: Result) -> str:
    if result.seconds is None:
        return result.status
    return f"{1000 * result.seconds:.3g} ms"
