"""Runs one task of one problem with one system, in a process of its own.

    python -m ci.bench.worker MODULE PROBLEM TASK SYSTEM OUTPUTS MEMORY THREADS

It imports the system, computes once, saves the named outputs to the file OUTPUTS (`.npz`) and says
`{"status": "called", "seconds", "peak"}`. Then it waits: each number of seconds on standard input
is answered by the durations of as many runs as fit into them (at least one).
"""

import contextlib
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

PROC = Path("/proc/self")
OUT_OF_MEMORY = ("allocate memory", "bad_alloc", "RESOURCE_EXHAUSTED", "MemoryError", "OOM when")


def use_cores(count: int) -> None:
    """Keep every thread of this process on `count` cores: some thread pools heed nothing else."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def limit_memory(size: int) -> None:
    """Let the address space grow by `size` bytes and no more (Linux)."""
    if PROC.exists():
        pages = int((PROC / "statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + size
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


def reset_peak() -> None:
    """Let the peak start again at what is resident now (Linux)."""
    if (PROC / "clear_refs").exists():
        (PROC / "clear_refs").write_text("5")


def peak_memory() -> int:
    """Largest resident size so far, in bytes."""
    if PROC.exists():
        return 1024 * int((PROC / "status").read_text().split("VmHWM:")[1].split()[0])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def make_job(module: str, problem_name: str, task: str, system: str) -> Any:
    from ci.bench.problem import find_problem

    problem = find_problem(module, problem_name)
    inputs = problem.inputs()
    if system in problem.peers:
        return problem.peers[system].jobs[task](problem, inputs)
    from ci.bench import ours

    return ours.job(problem, task, inputs)


def repeat(run: Any, seconds: float) -> list[float]:
    durations: list[float] = []
    end = time.perf_counter() + seconds
    while not durations or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        durations.append(time.perf_counter() - start)
    return durations


def main() -> None:
    module, problem_name, task, system, outputs, memory, threads = sys.argv[1:]
    use_cores(int(threads))
    # What the libraries print goes to standard error.
    with os.fdopen(os.dup(1), "w") as channel, contextlib.redirect_stdout(sys.stderr):
        os.dup2(2, 1)

        def say(**message: Any) -> None:
            print(json.dumps(message), file=channel, flush=True)

        try:
            job = make_job(module, problem_name, task, system)
        except NotImplementedError as reason:
            say(status="none", reason=str(reason))
            return
        import numpy as np

        say(status="imported")
        reset_peak()
        before = peak_memory()
        limit_memory(int(memory))
        start = time.perf_counter()
        result = job.run()
        seconds = time.perf_counter() - start
        peak = peak_memory() - before
        np.savez(outputs, **job.read(result))
        del result
        say(status="called", seconds=seconds, peak=peak)
        for line in sys.stdin:
            say(status="timed", durations=repeat(job.run, float(line)))


if __name__ == "__main__":
    main()
