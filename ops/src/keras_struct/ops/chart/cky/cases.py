"""Named cases of the bracketings, shared by tests, benchmarks and the support table."""

import functools

import numpy as np

from keras_struct.ops.chart.cky import cky
from keras_struct.ops.laws import Case


def _build(potentials, lengths, **options):
    return cky(**potentials, lengths=lengths, **options)


def _case(name, shape, lengths=None, labels=0, splits=False, forbid=False, ties=False, core=False):
    n = shape[-1]

    def potentials(rng):
        made = {"spans": np.zeros(shape) if ties else rng.normal(size=shape)}
        if labels:
            made["labels"] = rng.normal(size=(*shape, labels))
        if splits:
            made["splits"] = rng.normal(size=(*shape, n))
        if forbid:
            made["spans"][..., 0, 1] = -np.inf  # the first two words are no span: length 2 has none
            if labels:
                made["labels"][..., 0, 2, 0] = -np.inf
            if splits:
                made["splits"][..., 1, 1, 2] = -np.inf
        return made

    def padding():
        i, k, j = np.arange(n)[:, None, None], np.arange(n)[:, None], np.arange(n)
        ends = np.full((1,) * (len(shape) - 2), n) if lengths is None else np.asarray(lengths)
        spans = (i[:, 0] > j) | (j >= ends[..., None, None])
        padded = {"spans": np.broadcast_to(spans, shape)}
        if labels:
            padded["labels"] = np.broadcast_to(spans[..., None], (*shape, labels))
        if splits:
            cuts = spans[..., :, None, :] | (k < i) | (k >= j)
            padded["splits"] = np.broadcast_to(cuts, (*shape, n))
        return padded

    lengths_array = None if lengths is None else np.array(lengths, "int32")
    build = functools.partial(_build, lengths=lengths_array)
    return Case(name, build, potentials, padding, core=core, ties=ties, static={"labels": 1})


CASES = [
    _case("ragged", (4, 4, 4), (4, 3, 1, 0)),
    _case("labelled", (3, 3, 3), (3, 2, 0), labels=2),
    _case("splits", (3, 4, 4), (4, 2, 3), splits=True, forbid=True),
    _case("forbidden", (2, 3, 3), (3, 2), labels=2, forbid=True),
    _case("everything", (3, 3, 3), (3, 1, 0), labels=2, splits=True, core=True),
    _case("ties_without_batch_axis", (4, 4), ties=True),
    _case("two_batch_axes", (2, 1, 3, 3), ((3,), (2,))),
]
