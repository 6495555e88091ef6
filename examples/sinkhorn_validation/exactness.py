"""The adjoint in tiles against autodiff of whole plans, over lengths and depths of the tail."""

from keras import ops as K

from keras_struct import ops
from keras_struct.ops.testing import fast, grad
from sinkhorn_validation.problem import Problem, largest, whole_plan_attention

TITLE = "Exactness of the adjoint"
HEADER = ("dtype", "L", "R", "output, max abs", "gradient, max abs", "gradient, max rel")


def rows(smoke=False):
    lengths, depths = ((32,), (0, 2)) if smoke else ((128, 256, 512), (0, 1, 2, 4))
    for dtype in ("float32",) if smoke else ("float32", "float64"):
        for length in lengths:
            for tail_steps in depths:
                problem = Problem(length=length, dtype=dtype)
                *inputs, cotangent = problem.arrays()

                def tiles(q, k, v, problem=problem, tail_steps=tail_steps):
                    return ops.sinkhorn_tail(q, k, v, tail_steps=tail_steps, **problem.options())

                def whole(q, k, v, problem=problem, tail_steps=tail_steps):
                    return whole_plan_attention(problem, q, k, v, tail_steps)

                def gradient(attend, cotangent=cotangent):
                    return fast(grad(lambda *x: K.sum(attend(*x) * cotangent)))

                outputs = [fast(attend)(*inputs) for attend in (tiles, whole)]
                found, wanted = (gradient(attend)(*inputs) for attend in (tiles, whole))
                error = largest(a - b for a, b in zip(found, wanted, strict=True))
                relative = max(
                    largest([a - b]) / largest([b]) for a, b in zip(found, wanted, strict=True)
                )
                yield dtype, length, tail_steps, largest([outputs[0] - outputs[1]]), error, relative
