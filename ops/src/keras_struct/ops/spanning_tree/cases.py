"""Named cases of the spanning trees, shared by tests, benchmarks and the support table."""

import functools

import numpy as np

from keras_struct.ops.law_cases import Case
from keras_struct.ops.spanning_tree import spanning_tree


def _build(potentials, lengths, single_root, **options):
    return spanning_tree(**potentials, lengths=lengths, single_root=single_root, **options)


def _masked(potentials, mask, single_root, **options):
    return spanning_tree(**potentials, mask=mask, single_root=single_root, **options)


def _case(
    name, shape, lengths=None, single_root=True, labels=0, shared=False, forbid=(), ties=False,
    core=False, mask=None,
):  # fmt: skip
    def potentials(rng):
        arcs = np.zeros(shape) if ties else rng.normal(size=shape)
        for arc in forbid:
            arcs[arc] = -np.inf
        made = {"arcs": arcs}
        if labels:
            made["labels"] = rng.normal(size=(*(shape[-2:] if shared else shape), labels))
            made["labels"][..., 0, 1, 0] = -np.inf
        return made

    def padding():
        if lengths is None and mask is None:
            return {}
        inside = np.array(mask, bool)
        if mask is None:
            inside = np.arange(shape[-1]) < np.asarray(lengths)[..., None]
        outside = ~(inside[..., None] & inside[..., None, :])
        padded = {"arcs": np.broadcast_to(outside, shape)}
        if labels and not shared:
            padded["labels"] = np.broadcast_to(outside[..., None], (*shape, labels))
        return padded

    lengths_array = None if lengths is None else np.array(lengths, "int32")
    build = functools.partial(_build, lengths=lengths_array, single_root=single_root)
    if mask is not None:
        build = functools.partial(_masked, mask=np.array(mask, bool), single_root=single_root)
    static = {"labels": 1} if labels else {}
    return Case(name, build, potentials, padding, core=core, ties=ties, static=static)


# Word 0 must be the root and word 1 hang below it; in the second example, words 0 and 1 have each
# other as only heads; in the third both can only be roots.
FORBIDDEN_ARCS = (
    (0, 0, slice(1, 3)), (0, 1, slice(1, 3)),
    (1, 0, 0), (1, 0, 2), (1, 1, slice(1, 3)),
    (2, 0, slice(1, 3)), (2, 1, 0), (2, 1, 2),
)  # fmt: skip

HOLES = [[1, 0, 1, 1], [0, 0, 1, 1], [0, 1, 0, 0], [0, 0, 0, 0]]
CASES = [
    _case("ragged", (4, 4, 4), (4, 3, 1, 0), core=True),
    _case("multi_root", (3, 3, 3), (3, 2, 0), single_root=False),
    _case("labelled", (3, 3, 3), (3, 2, 0), labels=2, single_root=False, core=True),
    _case("shared_labels", (2, 3, 3), (3, 2), labels=2, shared=True),
    _case("forbidden", (3, 3, 3), forbid=FORBIDDEN_ARCS),
    _case("forbidden_multi_root", (3, 3, 3), forbid=FORBIDDEN_ARCS, single_root=False),
    _case("holes", (4, 4, 4), mask=HOLES, core=True),
    _case("holes_with_labels", (4, 4, 4), labels=2, single_root=False, mask=HOLES),
    _case("ties_without_batch_axis", (3, 3), ties=True),
    _case("labelled_without_batch_axis", (2, 2), labels=3),
    _case("two_batch_axes", (2, 2, 3, 3), ((3, 1), (0, 2))),
]
