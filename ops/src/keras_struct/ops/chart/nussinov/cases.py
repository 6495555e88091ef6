"""Named cases of the nested pairs, shared by tests, benchmarks and the support table."""

import functools

import numpy as np

from keras_struct.ops.chart.nussinov import nussinov
from keras_struct.ops.laws import Case


def _build(potentials, lengths, min_loop, **options):
    return nussinov(**potentials, lengths=lengths, min_loop=min_loop, **options)


def _case(name, shape, lengths=None, min_loop=0, forbid=False, ties=False, core=False):
    n = shape[-1]

    def potentials(rng):
        made = {"pairs": np.zeros(shape) if ties else rng.normal(size=shape)}
        if forbid:
            made["pairs"][..., 0, 0] = -np.inf  # the first is paired: length 1 has no structure
            made["pairs"][..., 1, 2] = -np.inf
        return made

    def padding():
        distance = np.arange(n) - np.arange(n)[:, None]
        ends = np.full((1,) * (len(shape) - 2), n) if lengths is None else np.asarray(lengths)
        near = (distance != 0) & (distance <= min_loop)
        outside = near | (np.arange(n) >= ends[..., None, None])
        return {"pairs": np.broadcast_to(outside, shape)}

    lengths_array = None if lengths is None else np.array(lengths, "int32")
    build = functools.partial(_build, lengths=lengths_array, min_loop=min_loop)
    return Case(name, build, potentials, padding, core=core, ties=ties)


CASES = [
    _case("ragged", (4, 5, 5), (5, 3, 1, 0)),
    _case("forbidden", (3, 4, 4), (4, 2, 1), forbid=True, core=True),
    _case("loops", (2, 6, 6), (6, 5), min_loop=3),
    _case("ties_without_batch_axis", (4, 4), ties=True),
    _case("two_batch_axes", (2, 1, 3, 3), ((3,), (2,))),
]
