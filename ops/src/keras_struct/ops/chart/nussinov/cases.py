"""Named cases of the nested pairs, shared by tests, benchmarks and the support table."""

import functools

import numpy as np

from keras_struct.ops.chart.nussinov import nussinov
from keras_struct.ops.law_cases import Case


def _build(potentials, lengths, min_loop, **options):
    return nussinov(**potentials, lengths=lengths, min_loop=min_loop, **options)


def _masked(potentials, mask, min_loop, **options):
    return nussinov(**potentials, mask=mask, min_loop=min_loop, **options)


def _case(name, shape, lengths=None, min_loop=0, forbid=False, ties=False, core=False, mask=None):
    n = shape[-1]

    def potentials(rng):
        made = {"pairs": np.zeros(shape) if ties else rng.normal(size=shape)}
        if forbid:
            made["pairs"][..., 0, 0] = -np.inf  # the first is paired: length 1 has no structure
            made["pairs"][..., 1, 2] = -np.inf
        return made

    def padding():
        ends = np.full((1,) * (len(shape) - 2), n) if lengths is None else np.asarray(lengths)
        there = np.arange(n) < ends[..., None] if mask is None else np.array(mask, bool)
        number = np.cumsum(there, -1)  # of a position among those that are there
        distance = number[..., None, :] - number[..., :, None]
        near = (distance <= min_loop) & (np.arange(n) != np.arange(n)[:, None])
        below = np.arange(n) < np.arange(n)[:, None]
        outside = near | below | ~(there[..., :, None] & there[..., None, :])
        return {"pairs": np.broadcast_to(outside, shape)}

    lengths_array = None if lengths is None else np.array(lengths, "int32")
    build = functools.partial(_build, lengths=lengths_array, min_loop=min_loop)
    if mask is not None:
        build = functools.partial(_masked, mask=np.array(mask, bool), min_loop=min_loop)
    return Case(name, build, potentials, padding, core=core, ties=ties)


HOLES = [[1, 0, 1, 1, 1], [0, 0, 1, 1, 1], [0, 1, 0, 0, 1], [0, 0, 0, 0, 0]]
CASES = [
    _case("ragged", (4, 5, 5), (5, 3, 1, 0)),
    _case("forbidden", (3, 4, 4), (4, 2, 1), forbid=True, core=True),
    _case("loops", (2, 6, 6), (6, 5), min_loop=3),
    _case("holes", (4, 5, 5), min_loop=1, mask=HOLES),
    _case("ties_without_batch_axis", (4, 4), ties=True),
    _case("two_batch_axes", (2, 1, 3, 3), ((3,), (2,))),
]
