"""Figures of kernels are compared with what is pinned, and replace it on request only."""

import json
import runpy
from pathlib import Path

import pytest

Pinned = runpy.run_path(str(Path(__file__).with_name("pinned.py")))["Pinned"]


def test_new_figures_are_compared_with_pinned_ones(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    assert Pinned(file, False, ["numpy"]).replaces("chip", "program", {"n": 1}) is None
    first = Pinned(file, True, ["numpy"])
    assert first.replaces("chip", "program", {"n": 1}) == {"n": 1}
    assert first.report([]) == 0
    written = file.read_text()
    assert json.loads(written)["chips"] == {"chip": {"program": {"n": 1}}}
    later = Pinned(file, False, ["numpy"])
    assert later.replaces("chip", "program", {"n": 2}) == {"n": 1}
    assert later.report(["n: 2, were 1"]) == 1
    assert file.read_text() == written


def test_what_does_not_compile_keeps_its_figures(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    for figures in ({"n": 1}, {"error": "spilled"}):
        pinned = Pinned(file, True, ["numpy"])
        pinned.replaces("chip", "program", figures)
        pinned.report([])
    assert json.loads(file.read_text())["chips"]["chip"]["program"] == {"n": 1}


def test_other_versions_are_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    Pinned(tmp_path / "figures.json", True, ["numpy"]).report([])
    Pinned(tmp_path / "figures.json", False, ["numpy"])
    assert "pinned with" not in capsys.readouterr().out
    Pinned(tmp_path / "figures.json", False, ["numpy", "keras"])
    assert "pinned with" in capsys.readouterr().out
