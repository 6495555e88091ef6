"""Trains on one long pair of sequences: seconds and peak memory with and without checkpoints.

    python -m ci.bench.long_pair [--length 8192] [--backend jax]

The scores are dot products of token states, so what is measured is a whole training step: states to
scores, value, gradient of the states. Each implementation runs in a process of its own, and counts
only if value and gradients of all agree.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np

IMPLEMENTATIONS = ("portable", "checkpointed")
STRUCTURES = ("dtw", "needleman_wunsch")
FEATURES = 16
TOLERANCE = 1e-3


def step(structure: str, implementation: str, length: int) -> dict[str, Any]:
    """Value and gradients of one training step, its seconds and the peak memory of the process."""
    import keras
    from ci.bench import ours

    from keras_struct import ops

    random = np.random.default_rng(0)
    states = random.normal(size=(2, 1, length, FEATURES)).astype("float32")
    inputs = {"first": states[0], "second": states[1], "gap": np.array([-2.0, -0.5], "float32")}

    def loss(x):
        scores = keras.ops.einsum("bif,bjf->bij", x["first"], x["second"])
        if structure == "dtw":
            d = ops.dtw(-scores, implementation=implementation)
        else:
            gaps = x["gap"][0], x["gap"][1]
            d = ops.needleman_wunsch(scores, *gaps, implementation=implementation)
        value = d.value()
        return keras.ops.sum(value), {"value": value}

    names = ("first", "second") if structure == "dtw" else tuple(inputs)
    job = ours.gradient_job(loss, inputs, names)
    job.run()
    start = time.perf_counter()
    result = job.read(job.run())
    result["seconds"] = np.array(time.perf_counter() - start)
    result["peak"] = np.array(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--length", type=int, default=8192)
    parser.add_argument("--backend", default="jax", choices=("jax", "tensorflow", "torch"))
    parser.add_argument("--one", nargs=3, metavar=("STRUCTURE", "IMPLEMENTATION", "FILE"))
    options = parser.parse_args()
    if options.one is not None:
        structure, implementation, file = options.one
        np.savez(file, **step(structure, implementation, options.length))
        return 0

    print(f"One pair of {options.length:,} tokens, training step on {options.backend}\n")
    print("| structure | implementation | seconds | peak memory of the process, MiB |")
    print("| --- | --- | ---: | ---: |")
    environment = {**os.environ, "KERAS_BACKEND": options.backend, "JAX_PLATFORMS": "cpu"}
    for structure in STRUCTURES:
        first: dict[str, Any] = {}
        for implementation in IMPLEMENTATIONS:
            with tempfile.TemporaryDirectory() as folder:
                file = os.path.join(folder, "result.npz")
                command = [sys.executable, "-m", "ci.bench.long_pair"]
                command += ["--length", str(options.length)]
                command += ["--one", structure, implementation, file]
                subprocess.run(command, check=True, env=environment)
                with np.load(file) as arrays:
                    result = dict(arrays)
            seconds, peak = float(result.pop("seconds")), int(result.pop("peak"))
            first = first or result
            error = max(np.abs(first[n] - x).max() / np.abs(x).max() for n, x in result.items())
            if not error <= TOLERANCE:
                print(f"Expected equal results. Received: relative error={error:.1e}")
                return 1
            print(f"| {structure} | {implementation} | {seconds:.1f} | {peak / 2**20:,.0f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
