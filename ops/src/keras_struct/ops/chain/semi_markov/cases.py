"""Named cases of the semi-Markov chain, shared by tests, benchmarks and the support table."""

import functools

import numpy as np

from keras_struct.ops.chain.semi_markov import semi_markov
from keras_struct.ops.law_cases import Case


def _build(potentials, lengths, **options):
    return semi_markov(**potentials, lengths=lengths, **options)


def _masked(potentials, mask, **options):
    return semi_markov(**potentials, mask=mask, **options)


def _case(name, shape, lengths=None, ends=False, forbid=False, core=False, mask=None):
    *batch, n, longest, k = shape

    def potentials(rng):
        made = {"segments": rng.normal(size=shape), "transitions": rng.normal(size=(k, k))}
        if ends:
            made["transitions"] = rng.normal(size=(*batch, k, k))
            made["start"] = rng.normal(size=k)
            made["end"] = rng.normal(size=(*batch, k))
        if forbid:
            made["segments"][..., 0, :] = -np.inf  # no segment of one position: length 1 has none
            made["transitions"][..., 0, 0] = -np.inf
        return made

    def padding():
        if mask is not None:  # a segment counts by the positions that are there
            valid = np.array(mask, bool)
            rank = np.cumsum(valid, axis=1) - 1
            ends_at = rank[..., None] + np.arange(longest)
            outside = (ends_at >= valid.sum(1)[:, None, None]) | ~valid[..., None]
            return {"segments": np.broadcast_to(outside[..., None], shape)}
        if lengths is None:
            return {}
        ends_at = np.arange(n)[:, None] + np.arange(longest)
        outside = ends_at >= np.asarray(lengths)[..., None, None]
        return {"segments": np.broadcast_to(outside[..., None], shape)}

    lengths_array = None if lengths is None else np.array(lengths, "int32")
    build = functools.partial(_build, lengths=lengths_array)
    if mask is not None:
        build = functools.partial(_masked, mask=np.array(mask, bool))
    static = {"segments": 2, "transitions": 2, "start": 1, "end": 1}
    return Case(name, build, potentials, padding, core=core, static=static)


CASES = [
    _case("ragged", (4, 4, 2, 2), (4, 3, 1, 0)),
    _case("ends_per_example", (2, 4, 3, 2), (4, 2), ends=True, core=True),
    _case("forbidden", (3, 4, 3, 2), (4, 3, 1), forbid=True, core=True),
    _case("holes", (3, 4, 2, 2), ends=True, mask=[[0, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 0]]),
    _case("longer_than_the_sequence", (2, 2, 4, 2)),
    _case("one_length", (2, 3, 1, 3), (3, 2)),
    _case("no_batch_axis", (4, 2, 2)),
    _case("two_batch_axes", (2, 1, 3, 2, 2), ((3,), (0,))),
]
