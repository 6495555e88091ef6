"""Named cases of the linear chain, shared by tests, benchmarks and the support table."""

import functools

import numpy as np

from keras_struct.ops.chain.linear_chain import linear_chain
from keras_struct.ops.law_cases import Case


def _build(potentials, lengths, mask, **options):
    return linear_chain(**potentials, lengths=lengths, mask=mask, **options)


def _case(
    name,
    shape,
    lengths=None,
    mask=None,
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
        if lengths is None and mask is None:
            return {}
        valid = np.array(mask, bool)
        if mask is None:
            valid = np.arange(n) < np.asarray(lengths)[..., None]
        pads = {"unary": np.broadcast_to(~valid[..., None], shape)}
        if over_time:  # a step counts that leads into a position, and not into the first one
            steps = valid[..., 1:] & (np.cumsum(valid, axis=-1)[..., 1:] > 1)
            pads["transitions"] = np.broadcast_to(~steps[..., None, None], (*batch, n - 1, k, k))
        return pads

    build = functools.partial(
        _build,
        lengths=None if lengths is None else np.array(lengths, "int32"),
        mask=None if mask is None else np.array(mask, bool),
    )
    static = {"unary": 1, "transitions": 2, "start": 1, "end": 1}
    return Case(name, build, potentials, padding, core=core, ties=ties, static=static)


HOLES = [[0, 0, 1, 1], [1, 0, 0, 1], [0, 0, 0, 0]]
CASES = [
    _case("ragged", (4, 4, 3), (4, 3, 1, 0)),
    _case("two_tags", (4, 5, 2), (5, 3, 1, 0), core=True),
    _case("scaled_products", (3, 3, 5), (3, 2, 1), ends=True, core=True),
    _case("over_time", (2, 4, 2), (4, 2), over_time=True, ends=True, core=True),
    _case("per_example_forbidden_scaled", (2, 3, 5), (3, 2), batched=True, forbid=True),
    _case("forbidden", (2, 4, 3), (4, 3), forbid=True),
    _case("holes", (3, 4, 3), mask=HOLES, ends=True),
    _case("one_position_over_time", (2, 1, 2), over_time=True, ends=True),
    _case("holes_over_time", (3, 4, 2), mask=HOLES, over_time=True, ends=True),
    _case("one_position", (2, 1, 3)),
    _case("one_tag", (2, 4, 1), (4, 2)),
    _case("ties_without_batch_axis", (4, 3), ties=True),
    _case("two_batch_axes", (2, 2, 3, 2), ((3, 1), (0, 2))),
]
