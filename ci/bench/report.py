"""Tables of results as Markdown and as JSON."""

import functools
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ci.bench.problem import BACKENDS, FLOOR, VALUE, Problem
from ci.bench.runner import FAILED, Options, Result

PACKAGES = ("keras-struct-ops", "keras", "numpy", "jax", "tensorflow-cpu", "tensorflow", "torch")


class Row(NamedTuple):
    problem: Problem
    task: str
    results: dict[str, Result]

    @property
    def title(self) -> str:
        return f"{self.problem.title} {self.task}"

    def fastest_peer(self, backend: str) -> float | None:
        """Seconds of the fastest peer, except those that run on another Keras backend."""
        elsewhere = {
            name for name, p in self.problem.peers.items() if p.backend not in (None, backend)
        }
        times = [
            result.seconds
            for name, result in self.results.items()
            if name not in (*BACKENDS, FLOOR) and name not in elsewhere
        ]
        return min((t for t in times if t is not None), default=None)

    def ratio(self, backend: str) -> float | None:
        """How many times faster we are on this backend than the fastest peer."""
        ours, peer = self.results[backend].seconds, self.fastest_peer(backend)
        return None if ours is None or peer is None else peer / ours


def header(rows: list[Row], options: Options, command: str) -> str:
    peers = {peer.package for row in rows for peer in row.problem.peers.values()}
    versions = [f"{p} {v}" for p in (*PACKAGES, *sorted(peers)) if (v := _version(p))]
    versions = list(dict.fromkeys(versions))
    return "\n".join(
        [
            f"- Command: `{command}`",
            f"- Machine: {_cpu()}, {os.cpu_count()} cores, {options.threads} threads, "
            f"{platform.system()}, Python {platform.python_version()}",
            f"- Versions: {', '.join(versions)}",
        ]
    )


def tables(rows: list[Row]) -> str:
    """One table of times and one of memory for each family and task."""
    parts = []
    groups = dict.fromkeys((row.problem.family, row.task) for row in rows)
    for family, task in groups:
        group = [row for row in rows if (row.problem.family, row.task) == (family, task)]
        columns = list(dict.fromkeys(name for row in group for name in row.results))
        parts.append(f"## {family}: {task}")
        if _peers(columns) and group[0].problem.note:
            parts.append(group[0].problem.note)
        parts.append(
            "Milliseconds"
            + (
                ", × = times faster than the fastest peer, those on other backends aside"
                * _peers(columns)
            )
        )
        parts.append(_table(group, columns, _time_cell))
        if any(row.problem.cells for row in group):
            parts.append("Nanoseconds per cell")
            parts.append(_table(group, columns, _cell_cell))
        if FLOOR in columns:
            parts.append(
                "Times the floor: C++ for this recurrence alone, without lengths or a range"
            )
            parts.append(_table(group, [x for x in columns if x in BACKENDS], _floor_cell))
        values = _values_of(rows, family)
        if values and task != VALUE:
            parts.append("Times the value alone")
            own = [name for name in columns if name in BACKENDS]
            parts.append(_table(group, own, functools.partial(_cost_cell, values)))
        parts.append("Peak memory of the first run, MiB")
        parts.append(_table(group, columns, _memory_cell))
    return "\n\n".join(parts)


def summary(rows: list[Row]) -> str:
    """How often we are faster, and every case where we are not, or where something failed."""
    ratios = [
        (row, b, r) for row in rows for b in BACKENDS if b in row.results if (r := row.ratio(b))
    ]
    slower = [(row, backend, ratio) for row, backend, ratio in ratios if ratio <= 1]
    lines = [f"Faster than every peer in {len(ratios) - len(slower)} of {len(ratios)} comparisons."]
    lines += [f"- slower: {row.title} on {backend}: ×{ratio:.2f}" for row, backend, ratio in slower]
    for title, ours in (("ours", True), ("the peers'", False)):
        errors = [
            result.error
            for row in rows
            for name, result in row.results.items()
            if (name in BACKENDS) == ours
            and result.seconds is not None
            and result.error is not None
        ]
        if errors:
            lines.append(f"- largest relative error of {title}: {max(errors):.1e}")
    for row in rows:
        for name, result in row.results.items():
            if result.status == FAILED:
                lines.append(f"- {FAILED}: {row.title} with {name}: {result.reason}")
    return "\n".join(lines)


def failed(rows: list[Row]) -> bool:
    """Whether anything failed its check, or one of our own backends has no time."""
    return any(
        result.status == FAILED
        or (name in BACKENDS and result.status not in ("ok", "-", "not installed"))
        for row in rows
        for name, result in row.results.items()
    )


def as_json(rows: list[Row], options: Options, command: str) -> str:
    records = [
        {
            "family": row.problem.family,
            "sizes": row.problem.sizes,
            "task": row.task,
            "system": name,
            "peer": name not in BACKENDS,
            "status": result.status,
            "seconds": result.seconds,
            "runs": len(result.durations),
            "first": result.first,
            "fastest": min(result.durations, default=None),
            "slowest": max(result.durations, default=None),
            "peak_bytes": result.peak,
            "error": result.error,
        }
        for row in rows
        for name, result in row.results.items()
    ]
    about = {"command": command, "cpu": _cpu(), "cores": os.cpu_count(), "threads": options.threads}
    versions = {p: v for p in PACKAGES if (v := _version(p))}
    return json.dumps({**about, "versions": versions, "results": records}, indent=1) + "\n"


def write_whole(path: Path, text: str) -> None:
    """Write a file that is there completely or not at all."""
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _time_cell(row: Row, name: str) -> str:
    result = row.results.get(name)
    if result is None:
        return ""
    if result.seconds is None:
        return result.status
    ratio = row.ratio(name) if name in BACKENDS else None
    return _digits(1000 * result.seconds) + (f" ×{_digits(ratio)}" if ratio else "")


def _cell_cell(row: Row, name: str) -> str:
    result = row.results.get(name)
    if result is None or result.seconds is None or row.problem.cells is None:
        return ""
    return _digits(1e9 * result.seconds / row.problem.cells)


def _values_of(rows: list[Row], family: str) -> dict[str, Row]:
    """The rows of `VALUE`, by the name of the problem."""
    rows = [row for row in rows if (row.problem.family, row.task) == (family, VALUE)]
    return {row.problem.name: row for row in rows}


def _cost_cell(values: dict[str, Row], row: Row, name: str) -> str:
    value = values.get(row.problem.name)
    if value is None or name not in row.results or name not in value.results:
        return ""
    whole, part = row.results[name].seconds, value.results[name].seconds
    return "" if whole is None or part is None else f"×{_digits(whole / part)}"


def _floor_cell(row: Row, name: str) -> str:
    floor, own = row.results.get(FLOOR), row.results.get(name)
    if floor is None or own is None or floor.seconds is None or own.seconds is None:
        return ""
    return f"×{_digits(own.seconds / floor.seconds)}"


def _memory_cell(row: Row, name: str) -> str:
    result = row.results.get(name)
    if result is None or result.peak is None or result.status == FAILED:
        return ""
    return f"{result.peak / 2**20:,.0f}"


def _table(rows: list[Row], columns: list[str], cell: Any) -> str:
    head = ["", *columns]
    body = [[row.problem.name, *(cell(row, name) for name in columns)] for row in rows]
    widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
    rule = ["-" * widths[0], *("-" * (w - 1) + ":" for w in widths[1:])]
    return "\n".join(_line(line, widths) for line in [head, rule, *body])


def _line(cells: Iterable[str], widths: list[int]) -> str:
    first, *rest = (
        c.ljust(w) if i == 0 else c.rjust(w)
        for i, (c, w) in enumerate(zip(cells, widths, strict=True))
    )
    return f"| {' | '.join([first, *rest])} |"


def _digits(x: float) -> str:
    """Three significant digits at most, no exponent."""
    return f"{x:,.0f}" if x >= 100 else f"{x:.3g}"


def _peers(columns: list[str]) -> bool:
    return any(name not in BACKENDS for name in columns)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor() or sys.platform
