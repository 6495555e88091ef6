"""Compiles the C++ kernels, libraries for each kind of processor, beside their sources.

Run by `make`, by the wheel's build hook, or by hand: `python build.py`. It needs a compiler that
takes the options of GCC (`CXX`, else c++, g++ or clang++), and nothing of this package.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
# What each library is compiled from: programs, and headers.
LIBRARIES = {
    "lattice": (
        ("lattice.cpp", "best.cpp"),
        ("lanes.h", "threads.h", "frame.h", "structures.h", "lattice.h", "best.h"),
    ),
    "chain": (
        ("chain.cpp",),
        ("lanes.h", "threads.h", "weights.h", "scaled_chain.h", "log_chain.h", "best_chain.h"),
    ),
}
PROCESSORS = {"x86_64": ("x86-64-v4", "x86-64-v3"), "amd64": ("x86-64-v4", "x86-64-v3")}
MATHS = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-fwrapv"]
LIBRARY = ["-std=c++17", "-fPIC", "-shared", "-pthread", "-fvisibility=hidden", "-Wall", "-s"]


def processors():
    """What libraries are compiled for, best first: what the kernels were tested on."""
    return PROCESSORS.get(platform.machine().lower(), ())


def digest(name):
    """What a library must have been compiled from, as text."""
    programs, headers = LIBRARIES[name]
    content = b"".join((HERE / file).read_bytes() for file in (*headers, *programs))
    return hashlib.sha256(content).hexdigest()[:16]


def library(name, processor):
    """The file of a library; another one for other sources."""
    return HERE / f"{name}-{processor}-{digest(name)}.so"


def compiler():
    """The command of a compiler, or None."""
    given = os.environ.get("CXX")
    if given:
        return given.split()
    found = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    return None if found is None or sys.platform == "win32" else [found]


def build():
    """Compiles what is not there yet.

    Returns:
        List of the files; empty where there is no compiler, or another kind of processor.

    Raises:
        RuntimeError: If the compiler fails, with what it said.
    """
    command = compiler()
    if command is None:
        return []
    jobs = []
    wanted = [(name, processor) for name in LIBRARIES for processor in processors()]
    for name, processor in wanted:
        file = library(name, processor)
        if not file.exists():
            partial = file.with_suffix(f".{os.getpid()}")
            march = ["-march=" + processor, "-mprefer-vector-width=512"]
            options = [*LIBRARY, *MATHS, *march, "-o", str(partial)]
            full = [*command, *options, *(str(HERE / x) for x in LIBRARIES[name][0])]
            process = subprocess.Popen(full, stderr=subprocess.PIPE, text=True)
            jobs.append((file, partial, full, process))
    for file, partial, full, process in jobs:
        _, errors = process.communicate()
        if process.returncode:
            raise RuntimeError(f"{' '.join(full)}\n{errors}")
        partial.replace(file)
    kept = [library(*x) for x in wanted]
    for old in HERE.glob("*.so"):
        if old not in kept:
            old.unlink()
    return kept


if __name__ == "__main__":
    files = build()
    print("\n".join(map(str, files)) or "There is no C++ compiler: nothing is built.")
