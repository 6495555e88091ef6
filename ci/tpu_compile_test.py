import runpy
from pathlib import Path

import pytest


def test_what_is_worse_than_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Path(__file__).with_name("tpu_compile.py")
    monkeypatch.syspath_prepend(str(script.parent))  # as for a script
    differences = runpy.run_path(str(script))["differences"]
    kernel = {"bundles": [100, 46], "spills": 3, "scratch MB": 9.6}
    old = {"keras_struct_x": kernel, "HBM MB": 4}
    assert differences("a", old, old) == []
    slower = {"keras_struct_x": {**kernel, "bundles": [130, 46]}, "HBM MB": 4}
    (slow,) = differences("a", slower, old)
    assert slow == "a, keras_struct_x: 176 bundles, were 146"
    (spilled,) = differences("a", {"keras_struct_x": {**kernel, "spills": 4}, "HBM MB": 4}, old)
    assert spilled == "a, keras_struct_x: 4 spills, were 3"
    lost = differences("a", {"HBM MB": 4}, old)
    assert lost == ["a, keras_struct_x: not in the program", "a: no kernel"]
