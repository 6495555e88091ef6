"""What a tail of R steps omits of the gradient of all steps, and the certificate of that."""

from keras import ops as K

from keras_struct import ops
from keras_struct.ops.testing import fast, grad
from sinkhorn_validation.problem import Problem, largest

TITLE = "Gradient of the tail against that of all steps (float64)"
HEADER = (
    "epsilon",
    "seed",
    "R",
    "omitted gradient, max abs",
    "relative",
    "base cotangent, max abs",
    "certificate's residual",
    "certified R at 1e-3 relative",
)


def rows(smoke=False):
    epsilons, depths, seeds = (
        ((1.0,), (0, 2), 1) if smoke else ((2.0, 1.0, 0.5), (0, 1, 2, 3, 4), 3)
    )
    for epsilon in epsilons:
        for seed in range(seeds):
            yield from _rows_of_seed(Problem(dtype="float64", epsilon=epsilon, seed=seed), depths)


def _rows_of_seed(problem, depths):
    query, key, value, cotangent = problem.arrays()
    inputs = query, key, value

    def gradient(tail_steps, mode):
        def loss(q, k, v):
            output = ops.sinkhorn_tail(
                q, k, v, tail_steps=tail_steps, gradient=mode, **problem.options()
            )
            return K.sum(output * cotangent)

        return fast(grad(loss))(*inputs)[:2]

    for tail_steps in depths:
        full = gradient(tail_steps, "unrolled")
        tail = gradient(tail_steps, "tail")
        omitted = [a - b for a, b in zip(full, tail, strict=True)]
        bias = ops.sinkhorn_tail_bias(
            query, key, value, cotangent, tail_steps=tail_steps, **problem.options()
        )
        residual = largest(a - b for a, b in zip(omitted, (bias.query, bias.key), strict=True))
        size = largest(full)
        certified: int | str = ""
        if tail_steps == depths[-1]:
            found = ops.certified_tail_steps(
                query, key, value, cotangent, 1e-3 * size, max_tail_steps=12, **problem.options()
            )
            certified = found.tail_steps if found.tail_steps is not None else "> 12"
        yield (
            problem.epsilon,
            problem.seed,
            tail_steps,
            largest(omitted),
            largest(omitted) / size,
            largest([bias.columns]),
            residual,
            certified,
        )
