"""Named cases of CTC, shared by tests, benchmarks and the support table."""

import functools

import numpy as np

from keras_struct.ops.chain.ctc import ctc
from keras_struct.ops.law_cases import Case


def _build(potentials, labels, lengths, blank, **options):
    return ctc(**potentials, labels=labels, lengths=lengths, blank=blank, **options)


def _masked(potentials, labels, mask, blank, **options):
    return ctc(**potentials, labels=labels, mask=mask, blank=blank, **options)


def _case(name, shape, labels, lengths=None, blank=0, forbid=False, core=False, mask=None):
    labels = np.array(labels, "int32")

    def potentials(rng):
        scores = rng.normal(size=shape)
        if forbid:
            scores[..., 1, blank] = -np.inf
        return {"log_probs": scores}

    def padding():
        if mask is not None:
            hidden = ~np.array(mask[0], bool)
            return {"log_probs": np.broadcast_to(hidden[..., None], shape)}
        if lengths is None:
            return {}
        valid = np.arange(shape[-2]) < np.asarray(lengths[0])[..., None]
        return {"log_probs": np.broadcast_to(~valid[..., None], shape)}

    lengths_arrays = None if lengths is None else tuple(np.array(x, "int32") for x in lengths)
    build = functools.partial(_build, labels=labels, lengths=lengths_arrays, blank=blank)
    if mask is not None:
        masks = tuple(None if x is None else np.array(x, bool) for x in mask)
        build = functools.partial(_masked, labels=labels, mask=masks, blank=blank)
    return Case(name, build, potentials, padding, core=core, static={"log_probs": 1})


CASES = [
    _case(
        "ragged",
        (5, 5, 3),
        [[1, 2, 1], [1, 1, 0], [2, 0, 0], [0, 0, 0], [1, 1, 1]],
        ((5, 4, 3, 0, 4), (3, 2, 1, 0, 3)),  # the last has too few frames for 1 1 1
        core=True,
    ),
    _case("repeated_labels", (2, 5, 3), [[1, 1], [2, 1]]),
    _case("blank_last_forbidden", (2, 4, 3), [[0, 1], [1, 1]], blank=2, forbid=True),
    _case("no_labels", (2, 3, 2), np.zeros((2, 0))),
    _case(
        "holes",
        (3, 5, 3),
        [[1, 1, 2], [2, 1, 1], [1, 2, 1]],
        mask=([[0, 1, 1, 1, 1], [1, 0, 1, 0, 1], [0] * 5], [[1, 0, 1], [0, 0, 1], [0, 0, 0]]),
    ),
    _case("no_batch_axis", (4, 3), [1, 2]),
    _case("two_batch_axes", (2, 2, 3, 3), [[[1], [2]], [[2], [2]]]),
]
