"""Compiles every Pallas kernel for TPUs by the real compiler, and compares what it schedules.

    python ci/tpu_compile.py [--update] [--chips v5e v6e v5p 7x] [--only WORD]

No TPU is needed: libtpu (group `tpu`) compiles for a topology. For each kernel of each program in
`tpu_programs.py` it reads the static schedule: the VLIW bundles (cycles without a stall) of every
innermost loop, stores of spilled registers, and the VMEM of blocks and scratch. A kernel that does
not compile fails; so does a figure more than 10 % above the one in `tpu_figures.json`, which
`--update` writes anew. Nothing is run, so nothing here is a time.
"""

import argparse
import glob
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pinned

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "ci" / "tpu_figures.json"
TOPOLOGIES = {"v5e": "v5e:2x2", "v6e": "v6e:2x2", "v5p": "v5p:2x2x1", "7x": "tpu7x:2x2x1"}
# Of a process in which libtpu compiles.
COMPILER = {
    "KERAS_BACKEND": "jax",
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
SMALL = 16  # bundles of a loop that is not worth a figure
SPILLS = 8  # the column of stores of spilled registers
KERNEL = re.compile(r"keras_struct_\w+")


def compile_one(program, chip):
    """Names of the kernels in a program compiled for a chip, and its memory."""
    import jax
    from jax.experimental import topologies
    from jax.sharding import SingleDeviceSharding

    from keras_struct import ops

    device = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGIES[chip]).devices[0]
    sharding = SingleDeviceSharding(device)
    arguments = [
        jax.ShapeDtypeStruct(shape, "float32", sharding=sharding) for shape in program.shapes
    ]

    def run(*arrays):
        with ops.target("tpu", chip):
            return program.run(*arrays)

    compiled = jax.jit(run).lower(*arguments).compile()
    return sorted(set(KERNEL.findall(compiled.as_text()))), compiled.memory_analysis()


def loops(text):
    """Bundles of every innermost loop of a schedule.

    To be read before the delay converter, which folds empty bundles.
    """
    found = []
    for line in text.splitlines():
        at = re.match(r"\s*(0x[0-9a-f]+|0)\s", line)
        target = re.search(r"sbr\.rel \(!?%p\w+\) target bundleno = (\d+)", line)
        if at and target and int(target[1]) <= int(at[1], 16):
            found.append((int(target[1]), int(at[1], 16) + 5))  # with the branch's delay slots
    return [
        stop - start
        for start, stop in sorted(set(found))
        if not any(start <= a and b <= stop and (a, b) != (start, stop) for a, b in found)
    ]


def figures(dump, kernel):
    """Of the newest schedule of a kernel in the folder `dump`."""
    (*_, schedule) = sorted(glob.glob(f"{dump}/*-{kernel}.*packed-bundles-post-ra.txt"))
    text = Path(schedule).read_text(encoding="utf-8", errors="replace")
    (*_, allocated) = sorted(
        path
        for path in glob.glob(f"{dump}/*-{kernel}.*-post-ra.txt")
        if "packed-bundles" not in path
    )
    sizes = re.findall(
        r"(#allocation\d+) \[.*?space=vmem, size = (0x[0-9a-f]+)", Path(allocated).read_text()
    )
    (*_, used) = sorted(glob.glob(f"{dump}/*-{kernel}.*pre-delay*per-bundle-utilization.txt"))
    table = Path(used).read_text().split("== UTILIZATION:")[1].split("\n")
    spills = sum(int(line.split()[SPILLS]) for line in table if line.strip())
    return {
        "bundles": [n for n in loops(text) if n > SMALL],
        "spills": spills,
        "scratch MB": round(sum(int(size, 16) for size in dict(sizes).values()) / 2**20, 1),
    }


def child(chip, only):
    """Print the figures of a chip as JSON."""
    from tpu_programs import programs

    dump = os.environ["TPU_DUMP"]
    found = {}
    for program in programs():
        if chip not in program.chips or only not in program.name:
            continue
        for path in glob.glob(f"{dump}/*"):
            os.remove(path)
        try:
            kernels, memory = compile_one(program, chip)
        except Exception as error:  # of any kind: it is what is reported
            found[program.name] = {"error": f"{type(error).__name__}: {error}"[:2000]}
            print(f"{chip} {program.name}: {found[program.name]}", file=sys.stderr)
            continue
        found[program.name] = {kernel: figures(dump, kernel) for kernel in kernels}
        found[program.name]["HBM MB"] = round(memory.peak_memory_in_bytes / 1e6)
        print(f"{chip} {program.name}: {json.dumps(found[program.name])}", file=sys.stderr)
    print(json.dumps(found))


def run_child(chip, only):
    with tempfile.TemporaryDirectory() as dump:
        environment = {
            **os.environ,
            **COMPILER,
            "TPU_DUMP": dump,
            "LIBTPU_INIT_ARGS": f"--xla_jf_dump_to={dump} --xla_jf_dump_llo_text=true",
        }
        command = [sys.executable, __file__, "--child", chip, "--only", only]
        child = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    child.check_returncode()
    return json.loads(child.stdout.splitlines()[-1])


def differences(name, new, old):
    """What is worse than pinned, as sentences."""
    if "error" in new:
        return [f"{name}: {new['error']}"]
    if old is None:
        return [f"{name}: not in {FIGURES.name} (--update writes it)"]
    worse = [f"{name}, {kernel}: not in the program" for kernel in old if kernel not in new]
    if not any(KERNEL.fullmatch(kernel) for kernel in new):
        worse.append(f"{name}: no kernel")
    for kernel, x in new.items():
        if not isinstance(x, dict):
            continue
        y = old.get(kernel)
        if y is None or len(y["bundles"]) != len(x["bundles"]):
            worse.append(f"{name}, {kernel}: other loops than pinned: {x}, were {y}")
            continue
        if x["spills"] > y["spills"]:
            worse.append(f"{name}, {kernel}: {x['spills']} spills, were {y['spills']}")
        now, before = (sum(z["bundles"]) for z in (x, y))
        if now > before * (1 + pinned.TOLERANCE):
            worse.append(f"{name}, {kernel}: {now} bundles, were {before}")
        if x["scratch MB"] > y["scratch MB"] * (1 + pinned.TOLERANCE):
            worse.append(f"{name}, {kernel}: {x['scratch MB']} MB, were {y['scratch MB']}")
    return worse


def main():
    parser = pinned.parser(__doc__, TOPOLOGIES)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child, arguments.only)
        return 0
    file = pinned.Pinned(FIGURES, arguments.update, ("jax", "libtpu"))
    worse = []
    for chip in arguments.chips:
        for name, found in run_child(chip, arguments.only).items():
            before = file.replaces(chip, name, found)
            worse += differences(f"{chip} {name}", found, before)
    return file.report(worse)


if __name__ == "__main__":
    sys.exit(main())
