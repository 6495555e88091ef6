"""Named cases of the subsets, shared by tests, benchmarks and the support table."""

import functools

import numpy as np

from keras_struct.ops.chain.subset import subset
from keras_struct.ops.law_cases import Case


def _build(potentials, k, lengths, **options):
    return subset(**potentials, k=k, lengths=lengths, **options)


def _masked(potentials, k, mask, **options):
    return subset(**potentials, k=k, mask=mask, **options)


def _case(name, shape, k, lengths=None, forbid=False, ties=False, core=False, mask=None):
    def potentials(rng):
        scores = np.zeros(shape) if ties else rng.normal(size=shape)
        if forbid:
            scores[..., 1] = -np.inf
        return {"scores": scores}

    def padding():
        if mask is not None:
            return {"scores": ~np.array(mask, bool)}
        if lengths is None:
            return {}
        valid = np.arange(shape[-1]) < np.asarray(lengths)[..., None]
        return {"scores": np.broadcast_to(~valid, shape)}

    lengths_array = None if lengths is None else np.array(lengths, "int32")
    build = functools.partial(_build, k=k, lengths=lengths_array)
    if mask is not None:
        build = functools.partial(_masked, k=k, mask=np.array(mask, bool))
    return Case(name, build, potentials, padding, core=core, ties=ties)


CASES = [
    _case("ragged", (4, 5), 2, (5, 3, 1, 0), core=True),
    _case("forbidden", (2, 4), 3, (4, 3), forbid=True),
    _case("k_per_example", (3, 4), np.array([0, 2, 4]), (4, 3, 4)),
    _case("holes", (3, 5), 2, mask=[[0, 1, 0, 1, 1], [0, 0, 1, 1, 0], [0, 0, 0, 1, 0]]),
    _case("none", (2, 3), 0, (3, 0)),
    _case("all", (2, 3), 3, (3, 2)),
    _case("ties_without_batch_axis", (5,), 2, ties=True),
    _case("two_batch_axes", (2, 2, 3), 1, ((3, 1), (0, 2))),
]
