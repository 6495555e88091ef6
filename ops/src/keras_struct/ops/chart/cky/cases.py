"""Named cases of the bracketings, shared by tests, benchmarks and the support table."""

import functools

import numpy as np

from keras_struct.ops.chart.cky import cky
from keras_struct.ops.law_cases import Case


def _build(potentials, lengths, **options):
    return cky(**potentials, lengths=lengths, **options)


def _masked(potentials, mask, **options):
    return cky(**potentials, mask=mask, **options)


def _case(
    name, shape, lengths=None, labels=0, splits=False, forbid=False, ties=False, core=False,
    mask=None,
):  # fmt: skip
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
        there = np.arange(n) < ends[..., None] if mask is None else np.array(mask, bool)
        both = there[..., :, None] & there[..., None, :]
        spans = (i[:, 0] > j) | ~both
        padded = {"spans": np.broadcast_to(spans, shape)}
        if labels:
            padded["labels"] = np.broadcast_to(spans[..., None], (*shape, labels))
        if splits:
            cuts = spans[..., :, None, :] | (k < i) | (k >= j) | ~there[..., None, :, None]
            padded["splits"] = np.broadcast_to(cuts, (*shape, n))
        return padded

    lengths_array = None if lengths is None else np.array(lengths, "int32")
    build = functools.partial(_build, lengths=lengths_array)
    if mask is not None:
        build = functools.partial(_masked, mask=np.array(mask, bool))
    return Case(name, build, potentials, padding, core=core, ties=ties, static={"labels": 1})


HOLES = [[1, 0, 1, 1], [0, 0, 1, 1], [0, 1, 0, 0], [0, 0, 0, 0]]
CASES = [
    _case("ragged", (4, 4, 4), (4, 3, 1, 0)),
    _case("labelled", (3, 3, 3), (3, 2, 0), labels=2),
    _case("splits", (3, 4, 4), (4, 2, 3), splits=True, forbid=True),
    _case("forbidden", (2, 3, 3), (3, 2), labels=2, forbid=True),
    _case("everything", (3, 3, 3), (3, 1, 0), labels=2, splits=True, core=True),
    _case("holes", (4, 4, 4), labels=1, splits=True, mask=HOLES),
    _case("ties_without_batch_axis", (4, 4), ties=True),
    _case("two_batch_axes", (2, 1, 3, 3), ((3,), (2,))),
]
