"""Named cases of the categorical, shared by tests, benchmarks and the support table."""

import functools

import numpy as np

from keras_struct.ops.chain.categorical import categorical
from keras_struct.ops.law_cases import Case


def _build(potentials, lengths, **options):
    return categorical(**potentials, lengths=lengths, **options)


def _masked(potentials, mask, **options):
    return categorical(**potentials, mask=mask, **options)


def _case(name, shape, lengths=None, forbid=False, core=False, mask=None):
    def potentials(rng):
        scores = rng.normal(size=shape)
        if forbid:
            scores[..., 0] = -np.inf
        return {"scores": scores}

    def padding():
        if mask is not None:
            return {"scores": ~np.array(mask, bool)}
        if lengths is None:
            return {}
        valid = np.arange(shape[-1]) < np.asarray(lengths)[..., None]
        return {"scores": np.broadcast_to(~valid, shape)}

    lengths_array = None if lengths is None else np.array(lengths, "int32")
    build = functools.partial(_build, lengths=lengths_array)
    if mask is not None:
        build = functools.partial(_masked, mask=np.array(mask, bool))
    return Case(name, build, potentials, padding, core=core)


CASES = [
    _case("ragged", (4, 5), (5, 3, 1, 0), core=True),
    _case("forbidden", (2, 4), (4, 1), forbid=True),
    _case("no_batch_axis", (3,)),
    _case("holes", (3, 4), core=True, mask=[[0, 1, 0, 1], [1, 1, 0, 0], [0, 0, 0, 0]]),
    _case("two_batch_axes", (2, 2, 3), ((3, 1), (0, 2))),
]
