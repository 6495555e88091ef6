"""Times attention by transport, output and gradients, beside OTT-JAX and POT.

    python -m ci.bench.transport [--sizes 512 2048 8192] [--lengths 2048 8192 32768] [--rounds 5]

All systems take the same steps of Sinkhorn's iteration on the same problem: one head of n queries
and n keys of 64 features, all pairs; its output times a random matrix is differentiated. Each runs
in a process of its own, and its time stands in the table only if output and gradients agree with
dense float64 arithmetic; the tail's gradient leaves out what its column says. A second table is of
a band of 256 pairs on both sides, over lengths.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

FEATURES, STEPS, BAND_WIDTH = 64, 20, 256
TOLERANCE = 1e-3
OURS = ("tail", "implicit", "unrolled")
SYSTEMS = [
    *(f"{mode} ({backend})" for backend in ("jax", "torch", "tensorflow") for mode in OURS),
    "OTT implicit",
    "OTT unrolled",
    "POT unrolled",
]
# What remembers every plan: STEPS · 2 arrays of n x n.
REMEMBERS = ("unrolled",)


def inputs(n: int) -> list[np.ndarray]:
    """Queries, keys, values and the cotangent of the output, (n, FEATURES)."""
    random = np.random.default_rng(0)
    return [random.normal(size=(n, FEATURES)).astype("float32") for _ in range(4)]


def reference(n: int) -> list[np.ndarray]:
    """Output and gradients at the solution, dense, in float64."""
    q, k, v, cotangent = (x.astype("float64") for x in inputs(n))
    scores = q @ k.T / np.sqrt(FEATURES)
    g = np.zeros(n)
    for _ in range(STEPS):
        f = -_log_sum(scores + g, 1)
        g = -_log_sum(scores + f[:, None], 0)
    plan = np.exp(scores + f[:, None] + g)
    slope = plan * (cotangent @ v.T)
    df, dg = slope.sum(1), slope.sum(0)
    for _ in range(STEPS):  # the Neumann series of the adjoint at the solution
        slope -= plan * dg
        df = df - plan @ dg
        slope -= plan * df[:, None]
        dg, df = -(plan.T @ df), np.zeros(n)
    scale = np.sqrt(FEATURES)
    return [plan @ v, slope @ k / scale, slope.T @ q / scale, plan.T @ cotangent]


def _log_sum(x: np.ndarray, axis: int) -> np.ndarray:
    peak = x.max(axis, keepdims=True)
    return np.log(np.exp(x - peak).sum(axis)) + peak.squeeze(axis)


def ours(mode: str, band_width: int | None) -> Any:
    """A function from the inputs to output and gradients, on the active backend."""
    import keras

    from keras_struct import ops

    def attend(q: Any, k: Any, v: Any) -> Any:
        steps = STEPS - 2
        return ops.sinkhorn_tail(
            q[None], k[None], v[None], band_width=band_width, base_steps=steps, gradient=mode
        )[0]

    backend = keras.backend.backend()
    if backend == "jax":
        return _jax_job(attend)
    if backend == "torch":
        return _torch_job(attend)
    import tensorflow as tf

    @tf.function
    def run(q: Any, k: Any, v: Any, cotangent: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch((q, k, v))
            output = attend(q, k, v)
            loss = tf.reduce_sum(output * cotangent)
        return [output, *tape.gradient(loss, (q, k, v))]

    return lambda *x: [y.numpy() for y in run(*map(tf.constant, x))]


def _jax_job(attend: Any) -> Any:
    import jax

    @jax.jit
    def run(q: Any, k: Any, v: Any, cotangent: Any) -> Any:
        output, pull = jax.vjp(attend, q, k, v)
        return [output, *pull(cotangent)]

    return lambda *x: [np.asarray(y) for y in run(*x)]


def _torch_job(attend: Any) -> Any:
    import torch

    def run(q: Any, k: Any, v: Any, cotangent: Any) -> Any:
        leaves = [torch.from_numpy(x).requires_grad_() for x in (q, k, v)]
        output = attend(*leaves)
        output.backward(torch.from_numpy(cotangent))
        return [output.detach().numpy(), *(x.grad.numpy() for x in leaves)]

    return run


def ott(implicit: bool) -> Any:
    from ott.geometry import geometry
    from ott.problems.linear import linear_problem
    from ott.solvers.linear import implicit_differentiation, sinkhorn

    solver = sinkhorn.Sinkhorn(
        threshold=0.0,
        inner_iterations=STEPS,
        max_iterations=STEPS,
        implicit_diff=implicit_differentiation.ImplicitDiff() if implicit else None,
    )

    def attend(q: Any, k: Any, v: Any) -> Any:
        cost = -(q @ k.T) / np.sqrt(FEATURES)
        problem = linear_problem.LinearProblem(geometry.Geometry(cost_matrix=cost, epsilon=1.0))
        return len(q) * (solver(problem).matrix @ v)

    return _jax_job(attend)


def pot() -> Any:
    import ot
    import torch

    def attend(q: Any, k: Any, v: Any) -> Any:
        mass = torch.full((len(q),), 1.0 / len(q))
        cost = -(q @ k.T) / np.sqrt(FEATURES)
        plan = ot.sinkhorn(mass, mass, cost, 1.0, "sinkhorn_log", STEPS, stopThr=0.0, warn=False)
        return len(q) * (plan @ v)

    return _torch_job(attend)


def measure(system: str, n: int, band_width: int | None, rounds: int) -> dict[str, Any]:
    """Median seconds, growth of the peak memory, and the results of one system."""
    name = system.split()
    if name[0] == "OTT":
        run = ott(name[1] == "implicit")
    elif name[0] == "POT":
        run = pot()
    else:
        run = ours(name[0], band_width)
    x = inputs(n)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = run(*x)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        run(*x)
        seconds.append(time.perf_counter() - start)
    return {"seconds": np.median(seconds), "peak": peak * 1024, "result": np.stack(result)}


def child(system: str, n: int, band_width: int | None, rounds: int) -> dict[str, Any] | None:
    """`measure` in a process of its own; None if it ended without a result."""
    backend = system.split("(")[-1].rstrip(")") if "(" in system else "jax"
    environment = {**os.environ, "KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu"}
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder, "result.npz"))
        command = [sys.executable, "-m", "ci.bench.transport", "--rounds", str(rounds)]
        command += ["--one", system, str(n), str(band_width or 0), file]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            print(f"{system}, n={n}: ended with status {done.returncode}", file=sys.stderr)
            print(done.stderr[-600:], file=sys.stderr)
            return None
        with np.load(file) as arrays:
            return dict(arrays)


def dense_table(sizes: list[int], rounds: int, most_bytes: float) -> None:
    for n in sizes:
        wanted = np.stack(reference(n))
        scale = abs(wanted).max(axis=(1, 2), keepdims=True)
        print(f"\n## All pairs, n = {n:,}, {STEPS} steps\n")
        print("| system | ms | growth of the peak memory, MiB | output off by | gradients off by |")
        print("| --- | ---: | ---: | ---: | ---: |")
        for system in SYSTEMS:
            plans = 2 * STEPS * n * n * 4
            if any(word in system for word in REMEMBERS) and plans > most_bytes:
                print(f"| {system} | not run: would remember {plans / 2**30:.0f} GiB | | | |")
                continue
            found = child(system, n, None, rounds if n < 8192 else 1)
            if found is None:
                print(f"| {system} | failed | | | |")
                continue
            error = (abs(found["result"] - wanted) / scale).max(axis=(1, 2))
            biased = system.startswith("tail")
            checked = error[0] < TOLERANCE and (biased or error.max() < TOLERANCE)
            milliseconds = f"{found['seconds'] * 1e3:,.0f}" if checked else "WRONG"
            print(
                f"| {system} | {milliseconds} | {found['peak'] / 2**20:,.0f} | {error[0]:.0e} | "
                f"{error[1:].max():.0e} |",
                flush=True,
            )


def band_table(lengths: list[int], rounds: int) -> None:
    print(f"\n## A band of {BAND_WIDTH} on both sides, {STEPS} steps, gradient of the tail\n")
    print("| L | jax, ms | ms per 1,000 rows | torch, ms | ms per 1,000 rows | jax, MiB |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for n in lengths:
        row, memory = [], ""
        for backend in ("jax", "torch"):
            found = child(f"tail ({backend})", n, BAND_WIDTH, rounds)
            seconds = float("nan") if found is None else float(found["seconds"])
            row += [f"{seconds * 1e3:,.0f}", f"{seconds * 1e6 / n:.1f}"]
            if backend == "jax" and found is not None:
                memory = f"{found['peak'] / 2**20:,.0f}"
        print(f"| {n:,} | {' | '.join(row)} | {memory} |", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="*", default=[512, 2048, 8192])
    parser.add_argument("--lengths", type=int, nargs="*", default=[2048, 8192, 32768])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--most-gib", type=float, default=8.0, help="of remembered plans")
    parser.add_argument("--one", nargs=4, metavar=("SYSTEM", "N", "BAND", "FILE"))
    options = parser.parse_args()
    if options.one is not None:
        system, n, band, file = options.one
        np.savez(file, **measure(system, int(n), int(band) or None, options.rounds))
        return 0
    print("# Transport\n\n- Command: `python -m ci.bench.transport`\n- Two cores, CPU, float32")
    dense_table(options.sizes, options.rounds, options.most_gib * 2**30)
    band_table(options.lengths, options.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
