"""Named cases of the grammars, shared by tests, benchmarks and the support table."""

import functools

import numpy as np

from keras_struct.ops.law_cases import Case
from keras_struct.ops.pcfg import pcfg


def _build(potentials, lengths, **options):
    return pcfg(**potentials, lengths=lengths, **options)


def _masked(potentials, mask, **options):
    return pcfg(**potentials, mask=mask, **options)


def _case(
    name, batch, n, k, p, lengths=None, shared=False, forbid=False, ties=False, core=False,
    mask=None,
):  # fmt: skip
    lead = () if shared else batch
    shapes = {
        "rules": (*lead, k, k + p, k + p),
        "terms": (*batch, n, p),
        "roots": (*lead, k),
    }

    def potentials(rng):
        made = {
            key: np.zeros(shape) if ties else rng.normal(size=shape)
            for key, shape in shapes.items()
        }
        if forbid:
            made["rules"][..., 0, 0, :] = -np.inf  # phrases of the first symbol: right-branching
            made["terms"][..., 1, 0] = -np.inf
            made["roots"][..., 0] = -np.inf
        return made

    def padding():
        ends = np.full(batch, n) if lengths is None else np.asarray(lengths)
        outside = np.arange(n) >= ends[..., None] if mask is None else ~np.array(mask, bool)
        return {"terms": np.broadcast_to(outside[..., None], shapes["terms"])}

    lengths_array = None if lengths is None else np.array(lengths, "int32")
    build = functools.partial(_build, lengths=lengths_array)
    if mask is not None:
        build = functools.partial(_masked, mask=np.array(mask, bool))
    static = {"rules": 3, "terms": 1, "roots": 1}
    return Case(name, build, potentials, padding, core=core, ties=ties, static=static)


HOLES = [[1, 0, 1, 1], [0, 0, 1, 1], [0, 1, 0, 0], [0, 0, 0, 0]]
CASES = [
    _case("ragged", (4,), 3, 2, 2, lengths=(3, 2, 1, 0), core=True),
    _case("shared_grammar", (2,), 4, 1, 2, lengths=(4, 3), shared=True),
    _case("forbidden", (2,), 3, 2, 2, lengths=(3, 2), forbid=True),
    _case("holes", (4,), 4, 1, 2, mask=HOLES, core=True),
    _case("one_symbol_each", (2,), 4, 1, 1),
    _case("ties_without_batch_axis", (), 3, 2, 1, ties=True),
    _case("two_batch_axes", (2, 1), 3, 1, 2, lengths=((3,), (2,)), shared=True),
]
