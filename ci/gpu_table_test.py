import runpy
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("gpu_table.py")
CODE = """
.L_x_0:
        /*0000*/                   MOV R1, R2 ;
.L_x_1:
        /*0010*/                   FADD R1, R1, R2 ;
        /*0020*/              @!P0 MUFU.EX2 R1, R1 ;
        /*0030*/                   BRA `(.L_x_1) ;
        /*0040*/               @P0 BRA `(.L_x_0) ;
        /*0050*/                   EXIT ;
"""


def test_the_table_is_up_to_date():
    subprocess.run([sys.executable, SCRIPT, "--check"], check=True)


def test_what_limits_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))  # as for a script
    table = runpy.run_path(str(SCRIPT))["table"]
    kernel = {
        "registers": 63, "spilled bytes": 0, "shared bytes": 2048, "warps": 32,
        "instructions": 64.0, "by unit": {"special": 4.0, "float": 60.0}, "bytes": 1,
    }  # fmt: skip
    text = table({"chips": {"sm_90": {"a": kernel}}, "versions": {"triton": "1"}})
    row = "| a | sm_90 | 63 | 2.0 | 32 | 64.0 | 60.0 | – | 4.0 |"
    assert row in text and "| instructions | 465 |" in text
    text = table({"chips": {"sm_90": {"a": {**kernel, "bytes": 12}}}, "versions": {}})
    assert "| 12 | bytes | 279 |" in text
    text = table({"chips": {"sm_90": {"a": {**kernel, "products": 4096}}}, "versions": {}})
    assert "| 1 | tensor cores | 116 |" in text


def test_what_is_read_from_machine_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    script = runpy.run_path(str(SCRIPT.with_name("gpu_compile.py")))
    body = script["hottest"](CODE)
    assert list(map(script["unit_of"], body)) == ["float", "special", "control"]
    # 255 registers: 65,536 / (32 × 256) warps; 100 kB of shared memory: two blocks.
    assert script["resident"](255, 0, 1, "sm_90") == 8
    assert script["resident"](32, 100 << 10, 4, "sm_90") == 8
    assert script["resident"](20, 0, 1, "sm_90") == 32
    old = {
        "registers": 100, "shared bytes": 0, "instructions": 10.0, "bytes": 4, "by unit": {},
        "spilled bytes": 0,
    }  # fmt: skip
    new = {**old, "instructions": 11.5, "spilled bytes": 8, "by unit": {"barrier": 1}}
    found = script["differences"]("k", new, old)
    assert [x.split(": ")[1][:4] for x in found] == ["8 sp", "11.5", "more"]
    assert script["differences"]("k", old, old) == []
    assert "--update" in script["differences"]("k", old, None)[0]
