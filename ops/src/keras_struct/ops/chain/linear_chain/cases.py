"""Named cases of the linear chain, shared by tests, benchmarks and the support table."""

import functools

import numpy as np

from keras_struct.ops.chain.linear_chain import linear_chain
from keras_struct.ops.laws import Case


def _build(potentials, lengths, algorithm, **options):
    return linear_chain(**potentials, lengths=lengths, algorithm=algorithm, **options)


def _case(
    name,
    shape,
    lengths=None,
    algorithm="auto",
    over_time=False,
    ends=False,
    forbid=False,
    batched=False,
    ties=False,
    core=False,
):
    *batch, n, k = shape

    def potentials(rng):
        pairs = (*batch, n - 1, k, k) if over_time else (*batch, k, k) if batched else (k, k)
        made = {"unary": rng.normal(size=shape), "transitions": rng.normal(size=pairs)}
        if ends:
            made["start"] = rng.normal(size=k)
            made["end"] = rng.normal(size=(*batch, k))
        if forbid:
            made["transitions"][..., 0, 1] = -np.inf
            made["unary"][..., 1, 0] = -np.inf
        if ties:
            made = {key: np.zeros_like(x) for key, x in made.items()}
        return made

    def padding():
        if lengths is None:
            return {}
        valid = np.arange(n) < np.asarray(lengths)[..., None]
        pads = {"unary": np.broadcast_to(~valid[..., None], shape)}
        if over_time:
            pads["transitions"] = np.broadcast_to(
                ~valid[..., 1:, None, None], (*batch, n - 1, k, k)
            )
        return pads

    build = functools.partial(
        _build, lengths=None if lengths is None else np.array(lengths, "int32"), algorithm=algorithm
    )
    static = {"unary": 1, "transitions": 2, "start": 1, "end": 1}
    return Case(
        name,
        build,
        potentials,
        padding,
        core=core,
        ties=ties,
        static=None if algorithm == "parallel" else static,
    )


CASES = [
    _case("ragged_sequential", (4, 4, 3), (4, 3, 1, 0), "sequential"),
    _case("ragged_parallel", (4, 5, 2), (5, 3, 1, 0), "parallel", core=True),
    _case("scaled_products", (3, 3, 5), (3, 2, 1), "sequential", ends=True, core=True),
    _case("over_time", (2, 4, 2), (4, 2), "sequential", over_time=True, ends=True, core=True),
    _case("over_time_parallel", (2, 4, 2), (4, 2), "parallel", over_time=True),
    _case("per_example_forbidden_scaled", (2, 3, 5), (3, 2), batched=True, forbid=True),
    _case("forbidden", (2, 4, 3), (4, 3), "sequential", forbid=True),
    _case("forbidden_parallel", (2, 4, 3), (4, 3), "parallel", forbid=True),
    _case("one_position", (2, 1, 3)),
    _case("one_tag", (2, 4, 1), (4, 2)),
    _case("ties_without_batch_axis", (4, 3), ties=True),
    _case("two_batch_axes", (2, 2, 3, 2), ((3, 1), (0, 2))),
]
