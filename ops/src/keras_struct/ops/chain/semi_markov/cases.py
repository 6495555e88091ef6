"""Named cases of the semi-Markov chain, shared by tests, benchmarks and the support table."""

import functools

import numpy as np

from keras_struct.ops.chain.semi_markov import semi_markov
from keras_struct.ops.laws import Case


def _build(potentials, lengths, **options):
    return semi_markov(**potentials, lengths=lengths, **options)


def _case(name, shape, lengths=None, ends=False, forbid=False, core=False):
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
        if lengths is None:
            return {}
        ends_at = np.arange(n)[:, None] + np.arange(longest)
        outside = ends_at >= np.asarray(lengths)[..., None, None]
        return {"segments": np.broadcast_to(outside[..., None], shape)}

    lengths_array = None if lengths is None else np.array(lengths, "int32")
    build = functools.partial(_build, lengths=lengths_array)
    static = {"segments": 2, "transitions": 2, "start": 1, "end": 1}
    return Case(name, build, potentials, padding, core=core, static=static)


CASES = [
    _case("ragged", (4, 4, 2, 2), (4, 3, 1, 0)),
    _case("ends_per_example", (2, 4, 3, 2), (4, 2), ends=True, core=True),
    _case("forbidden", (3, 4, 3, 2), (4, 3, 1), forbid=True, core=True),
    _case("longer_than_the_sequence", (2, 2, 4, 2)),
    _case("one_length", (2, 3, 1, 3), (3, 2)),
    _case("no_batch_axis", (4, 2, 2)),
    _case("two_batch_axes", (2, 1, 3, 2, 2), ((3,), (0,))),
]
