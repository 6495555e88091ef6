"""Named cases of the structures on the lattice, shared by tests, benchmarks, support table."""

import numpy as np

from keras_struct.ops.alignment import edit, gapped, warping
from keras_struct.ops.law_cases import Case

RAGGED = ((2, 3, 2, 1), (3, 3, 1, 0))


def _outside(lengths, shape):
    """True outside the lengths, (..., L1, L2)."""
    first, second = (np.asarray(x)[..., None, None] for x in lengths)
    rows, columns = np.arange(shape[-2])[:, None], np.arange(shape[-1])
    return np.broadcast_to((rows >= first) | (columns >= second), shape)


def _case(
    name,
    function,
    shape,
    primary="scores",
    others=None,
    lengths=None,
    forbid=False,
    core=False,
    mask=None,
    **options,
):
    """A case with cells `primary` and `others`, a dict of names and shapes."""
    pairs: dict[str, list[str]] = {}
    for key in others or {}:
        if key.endswith(("_row", "_column")):
            pairs.setdefault(key.rsplit("_", 1)[0], []).append(key)

    def build(potentials, **more):
        potentials = dict(potentials)
        for key, (row, column) in pairs.items():
            potentials[key] = (potentials.pop(row), potentials.pop(column))
        places = {"lengths": _integers(lengths)} if mask is None else {"mask": _masks(mask)}
        return function(**potentials, **places, **options, **more)

    def potentials(rng):
        made = {primary: rng.normal(size=shape)}
        made.update({key: rng.normal(size=size) - 0.5 for key, size in (others or {}).items()})
        if forbid:
            made[primary][..., 1, 0] = np.inf if primary != "scores" else -np.inf
        return made

    def padding():
        if lengths is None and mask is None:
            return {}
        outside = _hidden(mask) if lengths is None else _outside(lengths, shape)
        pads = {primary: outside}
        for key, size in (others or {}).items():
            if size[-2:] == shape[-2:]:
                pads[key] = outside
        return pads

    return Case(name, build, potentials, padding, core=core)


HOLES = (
    ((0, 1, 1), (1, 0, 1), (0, 0, 1), (0, 0, 0)),
    ((1, 0, 1), (0, 1, 1), (1, 1, 0), (1, 1, 1)),
)


def _masks(mask):
    return tuple(np.array(x, bool) for x in mask)


def _hidden(mask):
    """True where a row or column is masked out, (..., L1, L2)."""
    first, second = _masks(mask)
    return ~(first[..., :, None] & second[..., None, :])


def _integers(lengths):
    return None if lengths is None else tuple(np.array(x, "int32") for x in lengths)


def _gapped_cases(function, core):
    def case(name, **options):
        return _case(name, function, core=name == core, **options)

    ragged = (4, 3, 3)
    linear, affine = {"gap_open": ()}, {"gap_open": (), "gap_extend": ()}
    return [
        case("linear", shape=(2, 2, 3), others=linear),
        case("affine", shape=(2, 3, 2), others=affine),
        case("ragged", shape=ragged, others=linear, lengths=RAGGED),
        case("ragged_affine", shape=ragged, others=affine, lengths=RAGGED),
        case("none_linear", shape=(1, 2, 3), others=linear, adjacent_gaps="none"),
        case("none", shape=(1, 3, 3), others=affine, adjacent_gaps="none"),
        case("ordered_linear", shape=(1, 3, 2), others=linear, adjacent_gaps="ordered"),
        case("ordered", shape=(1, 3, 3), others=affine, adjacent_gaps="ordered"),
        case("per_example", shape=(2, 2, 2), others={"gap_open": (2,), "gap_extend": (2,)}),
        case("per_row", shape=(2, 3, 2), others={"gap_open": (2, 3), "gap_extend": (2, 3, 1)}),
        case("per_column", shape=(2, 3, 2), others={"gap_open": (2, 2), "gap_extend": (2, 1, 2)}),
        case(
            "per_cell",
            shape=(2, 3, 3),
            others={"gap_open": (2, 3, 3), "gap_extend": (1, 3, 3)},
            lengths=((2, 3), (3, 2)),
        ),
        case(
            "pairs",
            shape=(2, 3, 3),
            others={
                "gap_open_row": (),
                "gap_open_column": (2, 3),
                "gap_extend_row": (2,),
                "gap_extend_column": (2, 3, 3),
            },
        ),
        case("forbidden", shape=(2, 3, 2), others=affine, forbid=True),
        case("holes", shape=ragged, others=affine, mask=HOLES),
        case(
            "holes_by_cell",
            shape=ragged,
            others={"gap_open_row": (4, 3, 1), "gap_open_column": (4, 3, 3)},
            mask=HOLES,
        ),
        case("one_cell", shape=(2, 1, 1), others=linear, lengths=((1, 1), (1, 0))),
        case("no_batch_axis", shape=(2, 3), others=linear),
        case("two_batch_axes", shape=(1, 2, 2, 2), others={"gap_open": (1, 2)}),
    ]


NEEDLEMAN_WUNSCH = _gapped_cases(gapped.needleman_wunsch, core="ragged_affine")
OVERLAP = _gapped_cases(gapped.overlap, core="ragged")
SMITH_WATERMAN = _gapped_cases(gapped.smith_waterman, core="ragged_affine")

SAIGO_VERT = [
    _case("linear", gapped.saigo_vert, (2, 3, 3), others={"gap_open": ()}, core=True),
    _case(
        "ragged_affine",
        gapped.saigo_vert,
        (4, 3, 3),
        others={"gap_open": (), "gap_extend": (4,)},
        lengths=RAGGED,
    ),
]

DTW = [
    _case("plain", warping.dtw, (2, 3, 4), "costs"),
    _case(
        "ragged",
        warping.dtw,
        (5, 3, 3),
        "costs",
        lengths=((3, 2, 1, 0, 0), (2, 3, 1, 2, 0)),
        core=True,
    ),
    _case(
        "band",
        warping.dtw,
        (3, 4, 3),
        "costs",
        lengths=((4, 2, 3), (3, 3, 3)),
        band=np.array((1, 0, 0)),
    ),
    _case("forbidden", warping.dtw, (2, 3, 3), "costs", forbid=True),
    _case("holes", warping.dtw, (4, 3, 3), "costs", mask=HOLES, band=1),
    _case("one_cell", warping.dtw, (2, 1, 1), "costs"),
    _case("no_batch_axis", warping.dtw, (3, 2), "costs"),
]

MONOTONIC_ALIGNMENT = [
    _case("plain", warping.monotonic_alignment, (2, 5, 3)),
    _case(
        "ragged",
        warping.monotonic_alignment,
        (5, 4, 3),
        lengths=((4, 2, 1, 2, 0), (2, 2, 3, 0, 0)),
        core=True,
    ),
    _case("forbidden", warping.monotonic_alignment, (2, 4, 2), forbid=True),
    _case("holes", warping.monotonic_alignment, (4, 3, 3), mask=(HOLES[1], HOLES[0])),
    _case("one_token", warping.monotonic_alignment, (2, 3, 1)),
    _case("two_batch_axes", warping.monotonic_alignment, (1, 2, 4, 2)),
]

_EDIT = {"deletion": (), "insertion": ()}
LEVENSHTEIN = [
    _case("plain", edit.levenshtein, (2, 3, 2), "substitutions", _EDIT),
    _case("ragged", edit.levenshtein, (4, 3, 3), "substitutions", _EDIT, RAGGED, core=True),
    _case("holes", edit.levenshtein, (4, 3, 3), "substitutions", _EDIT, mask=HOLES),
    _case(
        "per_symbol",
        edit.levenshtein,
        (2, 3, 2),
        "substitutions",
        {"deletion": (2, 3), "insertion": (2, 2)},
    ),
    _case("forbidden", edit.levenshtein, (2, 3, 2), "substitutions", _EDIT, forbid=True),
]

_SWAPS = np.random.default_rng(5).random((4, 3, 4)) < 0.6
_OSA = {**_EDIT, "transposition": ()}
OSA = [
    _case("plain", edit.osa, (4, 3, 4), "substitutions", _OSA, swaps=_SWAPS),
    _case("ragged", edit.osa, (4, 3, 4), "substitutions", _OSA, RAGGED, core=True, swaps=_SWAPS),
    _case(
        "per_cell",
        edit.osa,
        (4, 3, 4),
        "substitutions",
        {"deletion": (4,), "insertion": (4, 3, 4), "transposition": (4, 3, 4)},
        swaps=_SWAPS,
    ),
]

_FIRST = np.random.default_rng(6).integers(0, 2, (4, 3))
_SECOND = np.random.default_rng(7).integers(0, 2, (4, 4))


def _damerau(substitutions, **options):
    sources = edit.transposition_sources(_FIRST, _SECOND)
    return edit.damerau(substitutions, sources, **options)


_HOLES = HOLES[0], tuple((*row, 1) for row in HOLES[1])
_MASKED = _masks(_HOLES)


def _damerau_with_holes(substitutions, **options):
    sources = edit.transposition_sources(_FIRST, _SECOND, _MASKED)
    return edit.damerau(substitutions, sources, **options)


def _osa_with_holes(substitutions, **options):
    swaps = edit.adjacent_swaps(_FIRST, _SECOND, _MASKED)
    return edit.osa(substitutions, swaps, **options)


OSA.append(_case("holes", _osa_with_holes, (4, 3, 4), "substitutions", _OSA, mask=_HOLES))
DAMERAU = [
    _case("holes", _damerau_with_holes, (4, 3, 4), "substitutions", _OSA, mask=_HOLES),
    _case("plain", _damerau, (4, 3, 4), "substitutions", _OSA),
    _case("ragged", _damerau, (4, 3, 4), "substitutions", _OSA, RAGGED, core=True),
    _case(
        "per_cell",
        _damerau,
        (4, 3, 4),
        "substitutions",
        {"deletion": (4,), "insertion": (), "transposition": (4, 3, 4)},
    ),
]

LCS = [
    _case("plain", edit.lcs, (2, 3, 2)),
    _case("ragged", edit.lcs, (4, 3, 3), lengths=RAGGED, core=True),
    _case("forbidden", edit.lcs, (2, 3, 3), forbid=True),
]

ALL = {
    "NEEDLEMAN_WUNSCH": NEEDLEMAN_WUNSCH,
    "OVERLAP": OVERLAP,
    "SMITH_WATERMAN": SMITH_WATERMAN,
    "SAIGO_VERT": SAIGO_VERT,
    "DTW": DTW,
    "MONOTONIC_ALIGNMENT": MONOTONIC_ALIGNMENT,
    "LEVENSHTEIN": LEVENSHTEIN,
    "OSA": OSA,
    "DAMERAU": DAMERAU,
    "LCS": LCS,
}
WITHOUT_JUMPS = {name: group for name, group in ALL.items() if name != "DAMERAU"}

# Two strips of eight rows, with lengths 0 and 1.
_SHAPE, _LENGTHS = (3, 9, 6), ((9, 1, 0), (5, 6, 0))
_GAPS = {"gap_open_row": (3, 9, 1), "gap_open_column": (3, 9, 6), "gap_extend": (3, 1, 6)}
_COSTS = {"deletion": (3, 9), "insertion": (3, 6), "transposition": ()}
ACROSS_STRIPS = {
    "needleman_wunsch": _case("", gapped.needleman_wunsch, _SHAPE, "scores", _GAPS, _LENGTHS),
    "osa": _case(
        "", edit.osa, _SHAPE, "substitutions", _COSTS, _LENGTHS, swaps=np.ones(_SHAPE, bool)
    ),
    "saigo_vert": _case("", gapped.saigo_vert, _SHAPE, "scores", {"gap_open": ()}, _LENGTHS),
    "overlap": _case("", gapped.overlap, _SHAPE, "scores", {"gap_open": ()}, _LENGTHS),
    "smith_waterman": _case("", gapped.smith_waterman, _SHAPE, "scores", _GAPS, _LENGTHS),
    "dtw": _case("", warping.dtw, _SHAPE, "costs", None, _LENGTHS, band=9),
    "monotonic": _case("", warping.monotonic_alignment, _SHAPE, lengths=((9, 7, 1), (6, 3, 1))),
}
