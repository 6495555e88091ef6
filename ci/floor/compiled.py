"""The floor of a benchmark: a C++ program for one recurrence alone, where it can be compiled.

It is what the machine can do, measured in the same run: no framework, no masks, no lengths, no
range, and a size that suits it. Its results are judged like those of everybody else.
"""

import ctypes
import hashlib
import os
import runpy
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ci.bench.problem import FLOOR, GRADIENT, VALUE, Inputs, Job, Peer, Problem

ROOT = Path(__file__).resolve().parents[2]
HEADERS = ROOT / "ops/src/keras_struct/ops/cpp"


def library(name: str) -> ctypes.CDLL:
    """`ci/floor/<name>.cpp` for this processor, compiled once into `build/floor`."""
    builder = runpy.run_path(str(HEADERS / "build.py"))
    source = ROOT / "ci/floor" / f"{name}.cpp"
    command = [*builder["compiler"](), *builder["LIBRARY"], *builder["MATHS"], f"-I{HEADERS}"]
    command += ["-march=native", "-mprefer-vector-width=512"]
    headers = b"".join(x.read_bytes() for x in sorted(HEADERS.glob("*.h")))
    content = source.read_bytes() + headers + repr(command).encode()
    file = ROOT / "build/floor" / f"{name}-{hashlib.sha256(content).hexdigest()[:16]}.so"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}")
        subprocess.run([*command, str(source), "-o", str(partial)], check=True)
        partial.replace(file)
    return ctypes.CDLL(str(file))


def threads() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


def needleman_wunsch(gradient: bool) -> Any:
    """The job of lengths that are multiples of 64, with a gap score for all."""

    def job(problem: Problem, inputs: Inputs) -> Job:
        function = library("alignment").needleman_wunsch
        scores, gap = inputs["scores"], inputs["gap_open"]
        batch, rows, _ = scores.shape

        def run() -> Any:
            values = np.empty(batch, "float32")
            slopes = [np.empty_like(scores), np.empty((), "float32")] if gradient else []
            pointers = [ctypes.c_void_p(x.ctypes.data) for x in (scores, values, *slopes)]
            given, *written = pointers
            sizes = [ctypes.c_int64(x) for x in (batch, rows, threads())]
            missing = [ctypes.c_void_p()] * (3 - len(written))
            function(*sizes, given, ctypes.c_float(gap.item()), *written, *missing)
            return values, *slopes

        def read(result: Any) -> Inputs:
            names = ("value", "gradient of scores", "gradient of gap_open")
            return dict(zip(names, result, strict=False))

        return Job(run, read)

    return job


def linear_chain(problem: Problem, inputs: Inputs) -> Job:
    """The job of 4, 8, ... sentences of one length, with 16, 32, ... tags."""
    if problem.sizes["K"] % 16 or problem.sizes["B"] % 4:
        raise NotImplementedError("it takes 4 sentences at a time, and tags that fill vectors")
    function = library("linear_chain").linear_chain
    unary, transitions = inputs["unary"], inputs["transitions"]
    sizes = [ctypes.c_int64(x) for x in (*unary.shape, threads())]

    def run() -> Any:
        results = [
            np.empty(len(unary), "float32"),
            np.empty_like(unary),
            np.empty_like(transitions),
        ]
        pointers = [ctypes.c_void_p(x.ctypes.data) for x in (unary, transitions, *results)]
        function(*sizes, *pointers)
        return results

    def read(result: Any) -> Inputs:
        names = ("value", "gradient of unary", "gradient of transitions")
        return dict(zip(names, result, strict=True))

    return Job(run, read)


def floor(jobs: Mapping[str, Any]) -> dict[str, Peer]:
    """The column of a floor, where there is a compiler."""
    if runpy.run_path(str(HEADERS / "build.py"))["compiler"]() is None:
        return {}
    return {FLOOR: Peer(package="keras-struct-ops", module="ci.floor.compiled", jobs=jobs)}


NEEDLEMAN_WUNSCH = floor({VALUE: needleman_wunsch(False), GRADIENT: needleman_wunsch(True)})
LINEAR_CHAIN = floor({GRADIENT: linear_chain})
