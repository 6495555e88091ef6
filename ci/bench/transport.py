"""Times attention by transport, output and gradients, beside OTT-JAX and POT.

    python -m ci.bench.transport [--sizes 512 2048 8192] [--lengths 2048 8192 32768] [--rounds 5]

All systems take the same steps of Sinkhorn's iteration on the same problem: one head of n queries
and n keys of 64 features, all pairs; its output times a random matrix is differentiated. Each runs
in a process of its own, and its time stands in the table only if output and gradients agree with
dense float64 arithmetic; the tail's gradient leaves out what its column says.

With `--tolerance`, a second table has a lower temperature and runs until the masses are off by that
much in sum: OTT-JAX by its own threshold, the others by the steps that it takes in float64. A third
is of a band of 256 pairs on both sides, over lengths.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

FEATURES, STEPS, BAND_WIDTH = 64, 20, 256
TOLERANCE = 1e-3
LIMIT = 900  # seconds for one system
OURS = ("tail", "implicit", "unrolled")
SYSTEMS = [
    *(f"{mode} ({backend})" for backend in ("jax", "torch", "tensorflow") for mode in OURS),
    "OTT implicit",
    "OTT unrolled",
    "POT unrolled",
]
# What remembers every plan: STEPS · 2 arrays of n x n.
REMEMBERS = ("unrolled",)


@dataclasses.dataclass(frozen=True)
class Setting:
    """One problem, and when to stop; `tolerance` for who can stop by itself."""

    n: int
    band_width: int | None = None
    epsilon: float = 1.0
    steps: int = STEPS
    tolerance: float = 0.0

    @property
    def scale(self) -> float:
        return float(self.epsilon * np.sqrt(FEATURES))


def inputs(n: int) -> list[np.ndarray]:
    """Queries, keys, values and the cotangent of the output, (n, FEATURES)."""
    random = np.random.default_rng(0)
    return [random.normal(size=(n, FEATURES)).astype("float32") for _ in range(4)]


def reference(setting: Setting) -> list[np.ndarray]:
    """Output and gradients at the solution, dense, in float64."""
    q, k, v, cotangent = (x.astype("float64") for x in inputs(setting.n))
    scores = q @ k.T / setting.scale
    steps = setting.steps * (5 if setting.tolerance else 1)
    *_, (_, f, g) = iterates(scores, steps)
    plan = np.exp(scores + f[:, None] + g)
    slope = plan * (cotangent @ v.T)
    df, dg = slope.sum(1), slope.sum(0)
    for _ in range(steps):  # the Neumann series of the adjoint at the solution
        slope -= plan * dg
        df = df - plan @ dg
        slope -= plan * df[:, None]
        dg, df = -(plan.T @ df), np.zeros(setting.n)
    scale = setting.scale
    return [plan @ v, slope @ k / scale, slope.T @ q / scale, plan.T @ cotangent]


def iterates(scores: np.ndarray, most: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Number of steps, f and g, after each."""
    g = np.zeros(scores.shape[1])
    for step in range(1, most + 1):
        f = -_log_sum(scores + g, 1)
        g = -_log_sum(scores + f[:, None], 0)
        yield step, f, g


def steps_for(n: int, epsilon: float, tolerance: float) -> int:
    """Steps, in tens, until the masses of the rows, of sum 1, are off by the tolerance in sum."""
    q, k, *_ = (x.astype("float64") for x in inputs(n))
    scores = q @ k.T / Setting(n, epsilon=epsilon).scale
    for step, f, g in iterates(scores, 100_000):
        if step % 10 == 0:
            masses = np.exp(_log_sum(scores + g, 1) + f)
            if abs(masses - 1).mean() < tolerance:
                return step
    raise ValueError(f"Expected a tolerance that is reached. Received: tolerance={tolerance}")


def _log_sum(x: np.ndarray, axis: int) -> np.ndarray:
    peak = x.max(axis, keepdims=True)
    return np.log(np.exp(x - peak).sum(axis)) + peak.squeeze(axis)


def ours(mode: str, setting: Setting) -> Any:
    """A function from the inputs to output and gradients, on the active backend."""
    import keras

    from keras_struct import ops

    def attend(q: Any, k: Any, v: Any) -> Any:
        return ops.sinkhorn_tail(
            q[None],
            k[None],
            v[None],
            epsilon=setting.epsilon,
            band_width=setting.band_width,
            base_steps=setting.steps - 2,
            gradient=mode,
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


def ott(implicit: bool, setting: Setting) -> Any:
    from ott.geometry import geometry
    from ott.problems.linear import linear_problem
    from ott.solvers.linear import implicit_differentiation, sinkhorn

    known = setting.tolerance == 0.0
    solver = sinkhorn.Sinkhorn(
        threshold=setting.tolerance,
        inner_iterations=setting.steps if known else 10,
        max_iterations=setting.steps,
        implicit_diff=implicit_differentiation.ImplicitDiff() if implicit else None,
    )

    def attend(q: Any, k: Any, v: Any) -> Any:
        cost = -(q @ k.T) / np.sqrt(FEATURES)
        geometry_of_cost = geometry.Geometry(cost_matrix=cost, epsilon=setting.epsilon)
        problem = linear_problem.LinearProblem(geometry_of_cost)
        return len(q) * (solver(problem).matrix @ v)

    return _jax_job(attend)


def pot(setting: Setting) -> Any:
    import ot
    import torch

    def attend(q: Any, k: Any, v: Any) -> Any:
        mass = torch.full((len(q),), 1.0 / len(q))
        cost = -(q @ k.T) / np.sqrt(FEATURES)
        plan = ot.sinkhorn(
            mass,
            mass,
            cost,
            setting.epsilon,
            "sinkhorn_log",
            setting.steps,
            stopThr=0.0,
            warn=False,
        )
        return len(q) * (plan @ v)

    return _torch_job(attend)


def measure(system: str, setting: Setting, rounds: int) -> dict[str, Any]:
    """Median seconds, growth of the peak memory, and the results of one system."""
    name = system.split()
    if name[0] == "OTT":
        run = ott(name[1] == "implicit", setting)
    elif name[0] == "POT":
        run = pot(setting)
    else:
        run = ours(name[0], setting)
    x = inputs(setting.n)
    # A process starts with the peak of the one that it comes from.
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_memory()
    result = run(*x)
    peak = peak_memory() - before
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        run(*x)
        seconds.append(time.perf_counter() - start)
    return {"seconds": np.median(seconds), "peak": peak, "result": np.stack(result)}


def peak_memory() -> int:
    """Most memory that this process had, in bytes."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def child(system: str, setting: Setting, rounds: int) -> dict[str, Any] | None:
    """`measure` in a process of its own; None if it ended without a result."""
    backend = system.split("(")[-1].rstrip(")") if "(" in system else "jax"
    environment = {**os.environ, "KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu"}
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder, "result.npz"))
        command = [sys.executable, "-m", "ci.bench.transport", "--rounds", str(rounds)]
        command += ["--one", system, json.dumps(dataclasses.asdict(setting)), file]
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=LIMIT
            )
        except subprocess.TimeoutExpired:
            print(f"{system}, {setting}: ended after {LIMIT} s", file=sys.stderr)
            return None
        if done.returncode:
            print(f"{system}, {setting}: ended with status {done.returncode}", file=sys.stderr)
            print(done.stderr[-600:], file=sys.stderr)
            return None
        with np.load(file) as arrays:
            return dict(arrays)


def dense_table(setting: Setting, rounds: int, most_bytes: float, title: str) -> None:
    """All systems on one problem."""
    n = setting.n
    wanted = np.stack(reference(setting))
    scale = abs(wanted).max(axis=(1, 2), keepdims=True)
    print(f"\n## All pairs, n = {n:,}, {title}\n")
    print("| system | ms | growth of the peak memory, MiB | output off by | gradients off by |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for system in SYSTEMS:
        plans = 2 * setting.steps * n * n * 4
        if any(word in system for word in REMEMBERS) and plans > most_bytes:
            print(f"| {system} | not run: would remember {plans / 2**30:.0f} GiB | | | |")
            continue
        found = child(system, setting, rounds if n < 8192 else 1)
        if found is None:
            print(f"| {system} | failed | | | |")
            continue
        error = (abs(found["result"] - wanted) / scale).max(axis=(1, 2))
        biased = system.startswith("tail")
        allowed = max(TOLERANCE, 1e3 * setting.tolerance)
        checked = error[0] < allowed and (biased or error.max() < allowed)
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
            found = child(f"tail ({backend})", Setting(n, BAND_WIDTH), rounds)
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
    parser.add_argument("--tolerance", type=float, default=1e-5, help="0 for no such table")
    parser.add_argument("--epsilon", type=float, default=0.3, help="of that table")
    parser.add_argument("--one", nargs=3, metavar=("SYSTEM", "SETTING", "FILE"))
    options = parser.parse_args()
    if options.one is not None:
        system, setting, file = options.one
        np.savez(file, **measure(system, Setting(**json.loads(setting)), options.rounds))
        return 0
    command = " ".join(["python -m ci.bench.transport", *sys.argv[1:]])
    print(f"# Transport\n\n- Command: `{command}`")
    print("- Two cores, CPU, float32")
    most = options.most_gib * 2**30
    for n in options.sizes:
        dense_table(Setting(n), options.rounds, most, f"{STEPS} steps")
    for n in options.sizes if options.tolerance else ():
        steps = steps_for(n, options.epsilon, options.tolerance)
        setting = Setting(n, None, options.epsilon, steps, options.tolerance)
        title = f"epsilon {options.epsilon:g}, until masses are off by {options.tolerance:g}"
        dense_table(setting, options.rounds, most, f"{title}: {steps} steps")
    band_table(options.lengths, options.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
