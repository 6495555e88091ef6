"""Judges results against float64: one process on the NumPy backend for the whole run.

    python -m ci.bench.oracle

Each line on standard input is `{"module", "problem", "task", "outputs"}`, where `outputs` is an
`.npz` file; each line on standard output is `{"error", "tolerance"}`. What is expected is our own
float64 run, after it agreed with the reference implementation at a tiny size. Gradients of
marginals are expected to be the central difference of marginals, so they depend on no sweep of
second order; a decoded structure must have the best score.
"""

import functools
import json
import sys

import keras
import numpy as np
from ci.bench import ours
from ci.bench.problem import CURVATURE, DECODE, GRADIENT, VALUE, Inputs, Problem, find_problem

from keras_struct import ops

# Largest error over the largest magnitude (at least 1). Peers whose messages grow with the length
# are off by 6e-4 in their marginals at 512 positions.
TOLERANCES = {VALUE: 2e-3, GRADIENT: 2e-3, CURVATURE: 2e-3, DECODE: 1e-6}
REFERENCE_TOLERANCE = 1e-9
STEP = 1e-4


def relative_error(expected: Inputs, outputs: Inputs) -> float:
    """Largest over the named arrays; infinite where one is missing, misshapen or not finite."""
    worst = 0.0
    if set(expected) != set(outputs):
        return float("inf")
    for name, x in expected.items():
        y = outputs[name]
        if x.shape != y.shape or not np.isfinite(y).all():
            return float("inf")
        scale = max(1.0, float(np.abs(x).max()))
        worst = max(worst, float(np.abs(x - y).max()) / scale)
    return worst


def float64(inputs: Inputs) -> Inputs:
    return {n: x.astype("float64") if x.dtype.kind == "f" else x for n, x in inputs.items()}


def run(problem: Problem, task: str, inputs: Inputs) -> Inputs:
    """The exact outputs of a task; for `DECODE` the best score."""
    if task == GRADIENT:
        job = ours.marginals_job(problem, inputs)
        return job.read(job.run())
    if task == VALUE:
        return {"value": np.asarray(problem.distribution(**inputs).value())}
    if task == DECODE:
        d = problem.distribution(**inputs)
        return {"score": np.asarray(d.score(d.argmax()))}
    primary = problem.potentials[0]
    direction = ours.curvature_direction(problem, inputs)
    ahead, behind = (
        run(problem, GRADIENT, {**inputs, primary: inputs[primary] + step * direction})
        for step in (STEP, -STEP)
    )
    names = [f"gradient of {name}" for name in problem.potentials]
    return {name: (ahead[name] - behind[name]) / (2 * STEP) for name in names}


@functools.cache
def expected(module: str, name: str, task: str) -> Inputs:
    problem = find_problem(module, name)
    tiny = type(problem)(**{**problem.sizes, **problem.tiny})
    inputs = float64(tiny.inputs())
    with ops.use("reference"):
        reference = run(tiny, task, inputs)
    error = relative_error(reference, run(tiny, task, inputs))
    if not error <= REFERENCE_TOLERANCE:
        raise RuntimeError(f"{tiny.title} {task} is off the reference by {error:.1e}")
    return run(problem, task, float64(problem.inputs()))


def judge(module: str, name: str, task: str, outputs: Inputs) -> dict[str, float]:
    if task == DECODE:
        problem = find_problem(module, name)
        d = problem.distribution(**float64(problem.inputs()))
        outputs = {"score": np.asarray(d.score(outputs["event"]))}
    error = relative_error(expected(module, name, task), outputs)
    return {"error": error, "tolerance": TOLERANCES[task]}


def main() -> None:
    keras.config.set_floatx("float64")
    for line in sys.stdin:
        request = json.loads(line)
        with np.load(request["outputs"]) as outputs:
            answer = judge(request["module"], request["problem"], request["task"], dict(outputs))
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
