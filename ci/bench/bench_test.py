"""A benchmark prints a time only for a right result, and says why where there is none."""

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from ci.bench import ours, report
from ci.bench.alignment import NeedlemanWunsch
from ci.bench.linear_chain import LinearChain
from ci.bench.problem import CURVATURE, DECODE, FLOOR, GRADIENT, Inputs, Job, Peer, Problem
from ci.bench.runner import FAILED, Options, Result, Runner

OPTIONS = Options(backends=("numpy",), quick=True, seconds=0.1, rounds=2, limit=5.0, memory=2**30)


def peer(make: Callable[[Job], Job]) -> Peer:
    """A peer that does to our own job what `make` says."""

    def job(problem: Problem, inputs: Inputs) -> Job:
        return make(ours.marginals_job(problem, inputs))

    return Peer(package="keras", module="keras", jobs={GRADIENT: job}, backend="numpy")


def wrong(job: Job) -> Job:
    return Job(job.run, lambda result: {n: 1.01 * x for n, x in job.read(result).items()})


def not_a_number(job: Job) -> Job:
    return Job(job.run, lambda result: {n: np.nan * x for n, x in job.read(result).items()})


def greedy(job: Job) -> Job:
    return Job(lambda: np.ones(2**31), job.read)


def endless(job: Job) -> Job:
    return Job(lambda: time.sleep(600), job.read)


def broken(job: Job) -> Job:
    raise ArithmeticError("it is broken")


class ChainWithStrangePeers(LinearChain):
    peers: ClassVar[Mapping[str, Peer]] = {
        "right": peer(lambda job: job),
        "wrong": peer(wrong),
        "not a number": peer(not_a_number),
        "greedy": peer(greedy),
        "endless": peer(endless),
        "broken": peer(broken),
        "absent": dataclasses.replace(peer(greedy), module="no_such_module"),
        "slow": dataclasses.replace(peer(greedy), slow=lambda problem: True),
    }


PROBLEMS = [ChainWithStrangePeers(B=2, N=6, K=3)]


@pytest.fixture(scope="module")
def rows() -> list[report.Row]:
    runner = Runner(OPTIONS, print)
    try:
        tasks = (GRADIENT, DECODE, CURVATURE)
        return [report.Row(PROBLEMS[0], task, runner.run(PROBLEMS[0], task)) for task in tasks]
    finally:
        runner.close()


@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [
        ("numpy", "ok", ""),
        ("right", "ok", ""),
        ("wrong", FAILED, "relative error"),
        ("not a number", FAILED, "relative error"),
        ("greedy", "out of memory (1 GiB)", ""),
        ("endless", "over 5 s", ""),
        ("broken", FAILED, "it is broken"),
        ("absent", "not installed", ""),
        ("slow", "skipped", ""),
    ],
)
def test_time_or_the_reason_for_none(
    rows: list[report.Row], name: str, status: str, reason: str
) -> None:
    result = rows[0].results[name]
    assert result.status == status, result
    assert reason in result.reason
    assert (result.seconds is not None) == (status == "ok")


def test_peers_run_only_the_tasks_they_have(rows: list[report.Row]) -> None:
    assert list(rows[1].results) == ["numpy"]
    assert rows[1].results["numpy"].status == "ok"
    assert rows[2].results["numpy"].status == "-"


def test_report_shows_times_of_right_results_only(rows: list[report.Row]) -> None:
    line = next(x for x in report.tables(rows).splitlines() if x.startswith("| B=2"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert "×" in cells[1]
    assert float(cells[2]) > 0
    assert cells[3:5] == [FAILED, FAILED]
    assert report.failed(rows)
    assert "with wrong: relative error" in report.summary(rows)
    records = json.loads(report.as_json(rows, OPTIONS, "command"))["results"]
    assert {r["system"] for r in records if r["seconds"] is not None} == {"numpy", "right"}


@pytest.mark.parametrize(
    ("name", "status", "failed"),
    [
        ("jax", "ok", False),
        ("jax", "not installed", False),
        ("numpy", "-", False),
        ("torch-struct", "out of memory (12 GiB)", False),
        ("torch-struct", FAILED, True),
        ("jax", "out of memory (12 GiB)", True),
        ("jax", "over 60 s", True),
    ],
)
def test_our_own_missing_times_are_failures(name: str, status: str, failed: bool) -> None:
    row = report.Row(PROBLEMS[0], GRADIENT, {name: Result(status, durations=[1.0])})
    assert report.failed([row]) == failed


def test_slower_backends_are_listed() -> None:
    results = {
        "jax": Result("ok", durations=[1.0, 2.0, 9.0]),
        "torch": Result("ok", durations=[8.0]),
        "peer": Result("ok", durations=[4.0]),
        "wrong peer": Result(FAILED, durations=[1.0]),
        "right": Result("ok", durations=[0.1]),  # runs on the NumPy backend: not compared
    }
    row = report.Row(PROBLEMS[0], GRADIENT, results)
    assert row.ratio("jax") == 2.0
    assert "1 of 2 comparisons" in report.summary([row])
    assert "on torch: ×0.50" in report.summary([row])


def test_files_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "table.md"
    report.write_whole(path, "old")
    with pytest.raises(UnicodeEncodeError):
        report.write_whole(path, "new \ud800")
    assert path.read_text("utf-8") == "old"
    report.write_whole(path, "× new")
    assert path.read_text("utf-8") == "× new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(FLOOR not in NeedlemanWunsch.peers, reason="there is no C++ compiler")
@pytest.mark.parametrize("problem", [NeedlemanWunsch(B=2, L=128), LinearChain(B=4, N=40, K=16)])
def test_the_floor_is_right_and_no_peer(problem: Problem) -> None:
    inputs = problem.inputs()
    job = problem.peers[FLOOR].jobs[GRADIENT](problem, inputs)
    found, d = job.read(job.run()), problem.distribution(**inputs, implementation="portable")
    np.testing.assert_allclose(found["value"], np.asarray(d.value()), rtol=1e-6)
    for name, x in d.marginals("all").items():
        expected = np.asarray(x).sum(0) if name in problem.shared else np.asarray(x)
        np.testing.assert_allclose(found[f"gradient of {name}"], expected, rtol=1e-5, atol=1e-6)
    results = {"jax": Result("ok", [3.0]), FLOOR: Result("ok", [2.0])}
    row = report.Row(problem, GRADIENT, results)
    assert row.ratio("jax") is None
    assert "×1.5" in report.tables([row])
