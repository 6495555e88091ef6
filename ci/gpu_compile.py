"""Compiles every Triton kernel for GPUs by the real compilers, and compares what they make of it.

    python ci/gpu_compile.py [--update] [--chips sm_80 sm_90 sm_100] [--only WORD]

No GPU is needed: Triton and its ptxas compile for any chip. For each program of `gpu_programs.py`
it reads the machine code: registers, spilled registers, shared memory, and the instructions of the
hottest loop by the unit that executes them. A kernel that does not compile or that spills fails; so
does a figure more than 10 % above the one in `gpu_figures.json`, which `--update` writes anew.
Nothing is run, so nothing here is a time.
"""

import collections
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pinned

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "ci" / "gpu_figures.json"
CHIPS = {"sm_80": 80, "sm_90": 90, "sm_100": 100}
LIBRARIES = ("jax", "triton")  # what the figures depend on; JAX in `gpu_pallas.py`
# Of a multiprocessor: registers, bytes of shared memory, warps.
REGISTERS, WARPS = 65536, 64
SHARED = {"sm_80": 164 << 10, "sm_90": 228 << 10, "sm_100": 228 << 10}
# What executes an instruction, by the beginning of its name; the first that fits.
UNITS = {
    "special": ("MUFU",),
    "tensor": ("HMMA", "IMMA", "UTC", "WGMMA", "HGMMA"),
    "memory": ("LDG", "STG", "LDS", "STS", "LD.", "ST.", "LDSM", "LDGSTS", "UTMA"),
    "spill": ("LDL", "STL"),
    "shuffle": ("SHFL",),
    "barrier": ("BAR", "MEMBAR", "WARPSYNC"),
    "float": ("FADD", "FMUL", "FFMA", "FMNMX", "FSEL", "FSETP", "FSWZ", "FCHK", "DADD", "DMUL"),
    "control": ("BRA", "EXIT", "BSSY", "BSYNC", "NOP", "CALL", "RET"),
}
BARRIER = "barrier"


def compile_one(program, chip):
    """Figures of a program compiled for a chip."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from keras_struct.ops.triton import options

    module = importlib.import_module(f"keras_struct.ops.{program.module}")
    kernel = getattr(module, program.kernel)
    signature = {**program.signature, **dict.fromkeys(program.constants, "constexpr")}
    places = aligned(program.signature) if program.aligned else {}
    source = ASTSource(fn=kernel, signature=signature, constexprs=program.constants, attrs=places)
    target = GPUTarget("cuda", CHIPS[chip], 32)
    compiled = triton.compile(source, target=target, options=options(program.warps, program.stages))
    return figures(compiled.asm["cubin"], compiled.metadata.shared, program, chip)


def aligned(signature, place=()):
    """That all pointers are to whole 16 bytes, as Triton wants to know it."""
    found: dict[tuple, list] = {}
    types = signature.values() if isinstance(signature, dict) else signature
    for i, x in enumerate(types):
        if isinstance(x, tuple):
            found |= aligned(x, (*place, i))
        elif x.startswith("*"):
            found[(*place, i)] = [["tt.divisibility", 16]]
    return found


def figures(cubin, shared, program, chip):
    """What a binary says of a kernel."""
    import triton

    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        used = _output(tools / "cuobjdump", "--dump-resource-usage", file.name)
        code = _output(tools / "nvdisasm", "-c", file.name)
    found = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", used))
    registers, stack, local = (int(found[name]) for name in ("REG", "STACK", "LOCAL"))
    count = collections.Counter(map(unit_of, hottest(code)))
    return {
        "registers": registers,
        "spilled bytes": stack + local,
        "shared bytes": shared,
        "warps": resident(registers, shared, program.warps, chip),
        "instructions": round(sum(count.values()) / program.cells, 1),
        "by unit": {unit: round(n / program.cells, 2) for unit, n in sorted(count.items())},
        "bytes": program.bytes,
        **({"products": products} if (products := getattr(program, "products", 0)) else {}),
    }


def _output(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def resident(registers, shared, warps, chip):
    """Warps that a multiprocessor holds at a time; registers come in eights for a thread, blocks of
    256 for a warp."""
    of_warp = 32 * -(-registers // 8) * 8
    blocks = min(REGISTERS // (of_warp * warps), WARPS // warps, 32)
    if shared:
        blocks = min(blocks, SHARED[chip] // (shared + 1024))
    return blocks * warps


def unit_of(instruction):
    name = re.sub(r"^@!?U?P\w+\s+", "", instruction).split()[0]
    for unit, beginnings in UNITS.items():
        if name.startswith(beginnings):
            return unit
    return "integer"


def hottest(code):
    """Instructions of the innermost loop with most work in the special function unit, else of the
    longest one; of a kernel without loops all."""
    labels: dict[str, int] = {}
    instructions: list[str] = []
    for line in code.splitlines():
        if label := re.match(r"(\.L_x?_?\w+):", line):
            labels[label[1]] = len(instructions)
        elif found := re.match(r"\s*/\*[0-9a-f]+\*/\s+(.*?);", line):
            instructions.append(found[1])
    loops = []
    for stop, instruction in enumerate(instructions):
        target = re.search(r"BRA.*?(\.L_x?_?\w+)", instruction)
        if target and labels.get(target[1], stop) < stop:  # not the one behind the end
            loops.append((labels[target[1]], stop + 1))
    inner = [x for x in loops if not any(x != y and x[0] <= y[0] and y[1] <= x[1] for y in loops)]
    bodies = [instructions[a:b] for a, b in inner] or [instructions]
    return max(bodies, key=lambda body: (sum(unit_of(x) == "special" for x in body), len(body)))


def differences(name, new, old):
    """What is worse than pinned, or not allowed at all, as sentences."""
    if "error" in new:
        return [f"{name}: {new['error']}"]
    worse = [f"{name}: {new['spilled bytes']} spilled bytes"] if new["spilled bytes"] else []
    if old is None:
        return [*worse, f"{name}: not in {FIGURES.name} (--update writes it)"]
    for figure in ("registers", "shared bytes", "instructions", "bytes"):
        if new[figure] > old[figure] * (1 + pinned.TOLERANCE):
            worse.append(f"{name}: {new[figure]} {figure}, were {old[figure]}")
    if new["by unit"].get(BARRIER, 0) > old["by unit"].get(BARRIER, 0):
        worse.append(f"{name}: more barriers in its loop than before")
    return worse


def main():
    arguments = pinned.parser(__doc__, CHIPS).parse_args()
    os.environ.setdefault("KERAS_BACKEND", "torch")
    from gpu_programs import programs

    file = pinned.Pinned(FIGURES, arguments.update, LIBRARIES)
    worse = []
    for program in programs():
        if arguments.only not in program.name:
            continue
        for chip in program.chips:
            if chip not in arguments.chips:
                continue
            try:
                found = compile_one(program, chip)
            except Exception as error:  # of any kind: it is what is reported
                found = {"error": f"{type(error).__name__}: {error}"[:2000]}
            print(f"{chip} {program.name}: {json.dumps(found)}", file=sys.stderr, flush=True)
            before = file.replaces(chip, program.name, found)
            worse += differences(f"{chip} {program.name}", found, before)
    return file.report(worse)


if __name__ == "__main__":
    sys.exit(main())
