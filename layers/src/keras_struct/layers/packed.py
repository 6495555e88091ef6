"""All potentials of a batch of structures in one tensor, so that they can be the output of a model.

Keras gives a loss or a metric one `y_pred` tensor. The packed tensor is the scores with a border,
whose first number in every example, the header, says what they are:

    chains        (B, H + N, K) or        the border, read row by row, holds header, length,
                  (B, H + N, D, K)        transitions, start and end, then zeros; H is about K + 3
                                          for linear chains, a D-th of it, at least 2, for segments
    alignments    (B, 2 + L1, 2 + L2)     header, temperature    gap_open of each skipped column
                                          len1, len2             gap_extend of each skipped column
                                          gap_open, gap_extend   scores
                                          of each skipped row
    trees         (B, 2 + N, 1 + N, K)    header 0, or HIDDEN ...
                                          length 0 ...
                                          0      scores

Positions from the lengths on are padding. One before that is not there, since a mask said so, has
`HIDDEN` in a place that does not count for it: its first score (chains), its score to open a gap
(alignments), the zero above its column (trees).

What a loss must know while its graph is traced, before there are values, is also in the shape, in
axes of size 1, the only ones that cost no memory where lengths are unknown: as many after the batch
as the code of the structure, its place in `LAYOUTS`, and as many at the end as the code of its
options there. No first axis of the scores has size 1, thanks to the border. Where there are values,
they are compared with the shape.

The tensor is float32 or float64, never half precision: a float16 counts to 2,048, and sequences are
longer.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import keras
from keras import ops as K

from keras_struct.layers.potentials import (
    AlignmentPotentials,
    ChainPotentials,
    TreePotentials,
    check_alignment,
    positions_of,
    potential_dtype,
)
from keras_struct.layers.sequence_mask import mask_from_lengths
from keras_struct.layers.targets import known_now
from keras_struct.ops.annotations import ArrayLike, Tensor
from keras_struct.ops.validation import concrete

VERSION = 1
HIDDEN = -(2.0**127)  # exact in every dtype that a packed tensor has, and no score of any model


class Header(NamedTuple):
    """What a packed tensor says about itself.

    Attributes:
        version: Of the format.
        structure: Name of the structure, as in `keras_struct.ops`.
        options: Dict of what else is known while a graph is traced, such as `{"gaps": "affine",
            "adjacent_gaps": "any"}` of alignments.
    """

    version: int
    structure: str
    options: dict


class Layout(NamedTuple):
    """How a structure is packed: the class of its potentials, their axes, and its options."""

    structure: str
    kind: Any
    axes: int
    options: tuple = ({},)


_ORDERED = tuple({"gaps": gaps, "adjacent_gaps": "ordered"} for gaps in ("affine", "linear"))
_GAPS = (
    *({"gaps": gaps, "adjacent_gaps": "any"} for gaps in ("affine", "linear")),
    *({"gaps": gaps, "adjacent_gaps": "none"} for gaps in ("affine", "linear")),
    *_ORDERED,
)
_ROOTS = ({"single_root": True}, {"single_root": False})

# Codes are places, in this tuple and in the options of a row: only append, saved outputs hold them.
LAYOUTS = (
    Layout("linear_chain", ChainPotentials, 2),
    Layout("semi_markov", ChainPotentials, 3),
    Layout("cky", TreePotentials, 3),
    Layout("eisner", TreePotentials, 3, _ROOTS),
    Layout("spanning_tree", TreePotentials, 3, _ROOTS),
    Layout("smith_waterman", AlignmentPotentials, 2, _GAPS),
    Layout("needleman_wunsch", AlignmentPotentials, 2, _GAPS),
    Layout("overlap", AlignmentPotentials, 2, _GAPS),
    Layout("saigo_vert", AlignmentPotentials, 2, _ORDERED),
)


def pack(potentials: ChainPotentials | AlignmentPotentials | TreePotentials) -> Tensor:
    """Pack the potentials of a batch in one tensor (see the module's docstring).

    Args:
        potentials: `ChainPotentials`, `AlignmentPotentials` or `TreePotentials`. Their labels and
            durations, K and D, are static.

    Returns:
        The scores with a border, and axes of size 1 that name the structure; float32 at least.

    Raises:
        ValueError: For a structure, options or shapes that do not fit.

    Example:

    >>> import numpy as np
    >>> from keras_struct import layers
    >>> chain = layers.ChainPotentials(np.ones((2, 5, 3), "float32"), np.eye(3), lengths=[5, 2])
    >>> packed = layers.pack(chain)
    >>> tuple(packed.shape), np.asarray(layers.unpack(packed).lengths).tolist()
    ((2, 11, 3), [5, 2])
    >>> alignment = layers.AlignmentPotentials(np.ones((2, 4, 5), "float32"), gap_open=-3.0)
    >>> layers.header(layers.pack(alignment)).structure
    'smith_waterman'
    """
    scores = _tensor(potentials.scores)
    code, option = _codes(potentials.structure, _options(potentials))
    _check_scores(LAYOUTS[code], scores.shape)
    dtype = potential_dtype(scores.dtype)
    potentials = potentials._replace(scores=K.cast(scores, dtype))
    packed = _BORDERS[LAYOUTS[code].kind].add(potentials, _number(code, option))
    for axis in [1] * code + [-1] * option:
        packed = K.expand_dims(packed, axis)
    return packed


def pack_potentials(
    scores: ArrayLike,
    transitions: ArrayLike,
    start: ArrayLike | None = None,
    end: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
) -> Tensor:
    """`pack` of the `ChainPotentials` of these arguments, for a model that scores tags itself.

    Example:

    >>> import numpy as np
    >>> from keras_struct.layers import StructuredNLL, pack_potentials
    >>> packed = pack_potentials(np.zeros((1, 4, 2), "float32"), np.zeros((2, 2), "float32"))
    >>> round(float(StructuredNLL()(np.array([[0, 1, 1, 0]]), packed)), 4)  # log of 2^4 sequences
    2.7726
    """
    return pack(ChainPotentials(scores, transitions, start, end, lengths, mask))


def unpack(packed: ArrayLike, kind: type | None = None) -> Any:
    """The potentials in a packed tensor.

    Args:
        packed: As `pack` and the prediction heads return it.
        kind: `ChainPotentials`, `AlignmentPotentials` or `TreePotentials`, if only these will do.

    Returns:
        One of the three.

    Raises:
        ValueError: If it is not float32 or float64, or no packed tensor (of this kind).

    Example:

    >>> import numpy as np
    >>> from keras_struct import layers
    >>> trees = layers.TreePotentials(np.ones((2, 5, 5, 3), "float32"), structure="eisner")
    >>> potentials = layers.unpack(layers.pack(trees))
    >>> potentials.structure, np.asarray(potentials.lengths).tolist()
    ('eisner', [5, 5])
    """
    packed = _tensor(packed)
    layout, options, body, first = _opened(packed, kind)
    if known_now(first):
        _check_number(layout, options, K.convert_to_numpy(K.stop_gradient(first)))
    return _BORDERS[layout.kind].remove(body, layout.structure, options)


def header(packed: ArrayLike) -> Header:
    """What a packed tensor says about itself, such as a saved prediction.

    Args:
        packed: As `pack` and the prediction heads return it.

    Returns:
        `Header`.

    Raises:
        ValueError: If it is no packed tensor.

    Example:

    >>> import numpy as np
    >>> from keras_struct import layers
    >>> head = layers.Aligner("overlap", gaps=layers.GapPenalties(gap_extend=None))
    >>> states = np.ones((2, 5, 8), "float32")
    >>> layers.header(head(states, states))
    Header(version=1, structure='overlap', options={'gaps': 'linear', 'adjacent_gaps': 'any'})
    """
    layout, options, _, first = _opened(_tensor(packed), None)
    found = concrete(first)
    if found is not None:
        _check_number(layout, options, found)
    return Header(VERSION, layout.structure, dict(options))


def packed_spec(structure, options, shape, dtype):
    """The `KerasTensor` of `pack` for scores of this shape; options as in a `Header`."""
    code, option = _codes(structure, options)
    border = _border(LAYOUTS[code], shape)
    sizes = [None if n is None else n + wide for n, wide in zip(shape[1:], border, strict=True)]
    return keras.KerasTensor((shape[0], *[1] * code, *sizes, *[1] * option), dtype)


def scores_spec(packed, kind):
    """The `KerasTensor` of the scores that `unpack` gives, and the `Header`, by shape alone."""
    layout, options, shape = _parsed(packed, kind)
    border = _border(layout, shape)
    sizes = [None if n is None else n - wide for n, wide in zip(shape[1:], border, strict=True)]
    scores = keras.KerasTensor((shape[0], *sizes), packed.dtype)
    return scores, Header(VERSION, layout.structure, dict(options))


def _options(potentials):
    """The static options of potentials, as `LAYOUTS` writes them."""
    if isinstance(potentials, AlignmentPotentials):
        adjacent_gaps = check_alignment(potentials.structure, potentials.adjacent_gaps)
        return alignment_options(potentials.gap_extend is None, adjacent_gaps)
    if isinstance(potentials, TreePotentials):
        return tree_options(potentials.structure, potentials.single_root)
    return {}


def alignment_options(linear, adjacent_gaps):
    """The options of an alignment in `LAYOUTS`."""
    return {"gaps": "linear" if linear else "affine", "adjacent_gaps": adjacent_gaps}


def tree_options(structure, single_root):
    """The options of a tree in `LAYOUTS`."""
    return {} if structure == "cky" else {"single_root": single_root}


def _codes(structure, options):
    names = [layout.structure for layout in LAYOUTS]
    if structure not in names:
        raise ValueError(f"Expected a structure among {names}. Received: structure={structure!r}")
    code = names.index(structure)
    allowed = LAYOUTS[code].options
    if options not in allowed:
        raise ValueError(
            f"Expected options among {allowed} for structure={structure!r}. "
            f"Received: options={options}"
        )
    return code, allowed.index(options)


def _number(code, option):
    return VERSION * 10_000 + code * 100 + option


def _check_scores(layout, shape):
    if len(shape) != 1 + layout.axes or None in _static(layout, shape):
        raise ValueError(
            f"Expected scores of shape {_SHAPES[layout.kind]} for structure="
            f"{layout.structure!r}, with D and K known. Received: shape={tuple(shape)}"
        )


def _static(layout, shape):
    """The sizes of the axes of labels and durations, which must be known."""
    return shape[2:] if layout.kind is ChainPotentials else shape[3:]


def _parsed(packed, kind):
    """The layout and the options that a shape stands for, and the shape without axes of size 1."""
    shape = tuple(packed.shape)
    code = next((axis for axis, n in enumerate(shape[1:]) if n != 1), len(shape))
    if code < len(LAYOUTS):
        layout = LAYOUTS[code]
        end = 1 + code + layout.axes
        option = len(shape) - end
        named = 0 <= option < len(layout.options) and all(n == 1 for n in shape[end:])
        inner = (shape[0], *shape[1 + code : end])
        if named and kind in (None, layout.kind) and _fits(layout, inner):
            return layout, layout.options[option], inner
    names = [layout.structure for layout in LAYOUTS if kind in (None, layout.kind)]
    raise ValueError(
        f"Expected packed potentials, as pack and the heads give them, of a structure among "
        f"{names}. Received: shape={shape}"
    )


def _fits(layout, shape):
    if None in _static(layout, shape):
        return False
    border = _border(layout, shape)
    return all(n is None or n >= wide for n, wide in zip(shape[1:], border, strict=True))


def _opened(packed, kind):
    """The layout, the options, the tensor without axes of size 1, and its first numbers `(B,)`."""
    dtype = keras.backend.standardize_dtype(packed.dtype)
    if dtype not in ("float32", "float64"):
        raise ValueError(
            "Expected packed potentials in float32 or float64, which count beyond 2,048. "
            f"Received: dtype={dtype}"
        )
    layout, options, _ = _parsed(packed, kind)
    code = LAYOUTS.index(layout)
    single = (*range(1, 1 + code), *range(1 + code + layout.axes, len(packed.shape)))
    body = K.squeeze(packed, single) if single else packed
    return layout, options, body, body[(slice(None), *[0] * layout.axes)]


def _check_number(layout, options, found):
    """Compare what the shape says with the first number of every example."""
    expected = _number(LAYOUTS.index(layout), layout.options.index(options))
    if (found != expected).any():
        raise ValueError(
            f"Expected packed potentials of {layout.structure!r}, as pack and the heads give them, "
            f"whose examples all begin with {expected}. Received: {found.tolist()}"
        )


def _border(layout, shape):
    """How many rows, columns, ... stand before the scores, for a shape with the same last axes."""
    return _BORDERS[layout.kind].sizes(shape)


def _extent(lengths, mask, batch, n, dtype):
    """Lengths `(B,)`, and which positions `(B, N)` before them there are not, or None."""
    if mask is None:
        return K.broadcast_to(_tensor(n if lengths is None else lengths, dtype), (batch,)), None
    valid = positions_of(lengths, K.cast(_tensor(mask), "bool"), (batch, n))
    places = K.arange(n, dtype="int32")
    ends = K.max(K.where(valid, places + 1, 0), axis=1, initial=0)
    hidden = K.logical_and(places < ends[:, None], K.logical_not(valid))
    return K.cast(ends, dtype), hidden


def _hide(hidden, x, axis=1):
    """`x` with `HIDDEN` at the positions along an axis that are not there."""
    return x if hidden is None else K.where(_along(hidden, x, axis), K.cast(HIDDEN, x.dtype), x)


def _shown(found, lengths, x, axis=1):
    """The mask of the positions, and `x` with zeros for those that are hidden.

    Args:
        found: `(B, N)` numbers, `HIDDEN` where a position is.
        lengths: `(B,)` integers.
        x: `(B, ..., N, ...)`.
        axis: Of the positions in `x`.

    Returns:
        Booleans `(B, N)`, or None where nothing is known to be hidden, and `x`.
    """
    mask, hidden = _mask(found, lengths)
    return mask, x if mask is None else K.where(_along(hidden, x, axis), K.zeros_like(x), x)


def _mask(found, lengths):
    """The mask `(B, N)`, or None where nothing is known to be hidden, and what is hidden."""
    hidden = K.equal(found, HIDDEN)
    if known_now(hidden) and not K.convert_to_numpy(hidden).any():
        return None, hidden
    valid = K.logical_and(mask_from_lengths(lengths, K.shape(found)[1]), K.logical_not(hidden))
    return valid, hidden


def _along(mask, x, axis):
    """Booleans `(B, N)` as they broadcast against `x`, whose positions are along an axis."""
    shape = [1] * len(x.shape)
    shape[0], shape[axis] = K.shape(mask)
    return K.reshape(mask, shape)


def _tensor(x, dtype=None):
    """A tensor that keeps its values: conversion may round float64 to float32."""
    x = x if K.is_tensor(x) else K.convert_to_tensor(x, dtype)
    return x if dtype is None else K.cast(x, dtype)


def _integers(x):
    return K.cast(K.round(x), "int32")


class _ChainBorder:
    """Rows before the positions, whose numbers stand one after the other."""

    @staticmethod
    def sizes(shape):
        inner = tuple(shape[2:])
        k = inner[-1]
        rows = max(2, math.ceil((2 + k * k + 2 * k) / math.prod(inner)))
        return (rows, *[0] * len(inner))

    @classmethod
    def add(cls, potentials, number):
        scores = potentials.scores
        dtype, inner = scores.dtype, tuple(map(int, scores.shape[2:]))  # no tensors of a trace
        rows, k = cls.sizes((None, None, *inner))[0], inner[-1]
        batch, n = K.shape(scores)[:2]
        given = ((potentials.transitions, k * k), (potentials.start, k), (potentials.end, k))
        parts = [
            K.zeros(m, dtype) if x is None else K.reshape(_tensor(x, dtype), (m,)) for x, m in given
        ]
        shared = K.concatenate(
            [*parts, K.zeros(rows * math.prod(inner) - 2 - k * k - 2 * k, dtype)]
        )
        first = K.broadcast_to(K.cast(number, dtype), (batch, 1))
        lengths, hidden = _extent(potentials.lengths, potentials.mask, batch, n, dtype)
        shared = K.broadcast_to(shared, (batch, shared.shape[0]))
        border = K.concatenate([first, lengths[:, None], shared], axis=1)
        border = K.reshape(border, (batch, rows, *inner))
        return K.concatenate([border, _hide(hidden, scores)], axis=1)

    @classmethod
    def remove(cls, body, structure, options):
        rows, k = cls.sizes(body.shape)[0], body.shape[-1]
        border = K.reshape(body[:, :rows], (-1, rows * math.prod(body.shape[2:])))
        # Shared by the batch: those of the first example, zeros where there is none.
        shared = K.sum(border[:1, 2:], axis=0)
        lengths, scores = _integers(border[:, 1]), body[:, rows:]
        mask, scores = _shown(scores[(..., *[0] * (len(body.shape) - 2))], lengths, scores)
        return ChainPotentials(
            scores=scores,
            transitions=K.reshape(shared[: k * k], (k, k)),
            start=shared[k * k : k * k + k],
            end=shared[k * k + k : k * k + 2 * k],
            lengths=lengths,
            mask=mask,
        )


class _AlignmentBorder:
    """Two rows before the rows, and two columns before the columns, of the gap scores."""

    @staticmethod
    def sizes(shape):
        return 2, 2

    @staticmethod
    def add(potentials, number):
        scores = potentials.scores
        dtype = scores.dtype
        batch, rows, columns = K.shape(scores)

        def wide(x, *shape):
            x = _tensor(x, dtype)
            return K.broadcast_to(x[:, None, None] if len(x.shape) == 1 else x, (batch, *shape))

        extend = potentials.gap_extend
        gaps = [potentials.gap_open, 0.0 if extend is None else extend]
        gaps = [gap if isinstance(gap, tuple) else (gap, gap) for gap in gaps]
        (first, no_row), (second, no_column) = (
            _extent(length, mask, batch, n, dtype)
            for length, mask, n in zip(
                potentials.lengths or (None, None),
                potentials.mask or (None, None),
                (rows, columns),
                strict=True,
            )
        )
        corner = [[number, potentials.temperature], [first, second]]
        corner = [K.concatenate([wide(x, 1, 1) for x in row], axis=2) for row in corner]
        above = [wide(gap[1], 1, columns) for gap in gaps]
        above[0] = _hide(no_column, above[0], 2)
        top = [K.concatenate(row, axis=2) for row in zip(corner, above, strict=True)]
        left = [wide(gap[0], rows, 1) for gap in gaps]
        left[0] = _hide(no_row, left[0])
        return K.concatenate([*top, K.concatenate([*left, scores], axis=2)], axis=1)

    @staticmethod
    def remove(body, structure, options):
        # Of one element also where sizes are unknown.
        (row, column), extend = ((body[:, 2:, k, None], body[:, None, k, 2:]) for k in range(2))
        lengths = tuple(_integers(body[:, 1, k]) for k in range(2))
        rows, row = _shown(row[:, :, 0], lengths[0], row)
        columns, column = _shown(column[:, 0], lengths[1], column, 2)
        return AlignmentPotentials(
            scores=body[:, 2:, 2:],
            gap_open=(row, column),
            gap_extend=None if options["gaps"] == "linear" else extend,
            lengths=lengths,
            temperature=body[:, 0, 1],
            structure=structure,
            adjacent_gaps=options["adjacent_gaps"],
            mask=None if rows is None and columns is None else (rows, columns),
        )


class _TreeBorder:
    """Two rows and a column: zeros, but for the first of either row and what says `HIDDEN`."""

    @staticmethod
    def sizes(shape):
        return 2, 1, 0

    @staticmethod
    def add(potentials, number):
        scores = potentials.scores
        batch, n, _, k = K.shape(scores)
        lengths, hidden = _extent(potentials.lengths, potentials.mask, batch, n, scores.dtype)
        corner = K.stack([K.full_like(lengths, number), lengths], axis=1)
        top = K.pad(corner[:, :, None], [(0, 0), (0, 0), (0, n)])
        if hidden is not None:
            hidden = K.pad(hidden[:, None], [(0, 0), (0, 1), (1, 0)])
            top = K.where(hidden, K.cast(HIDDEN, top.dtype), top)
        top = K.pad(top[..., None], [(0, 0), (0, 0), (0, 0), (0, k - 1)])
        return K.concatenate([top, K.pad(scores, [(0, 0), (0, 0), (1, 0), (0, 0)])], axis=1)

    @staticmethod
    def remove(body, structure, options):
        lengths = _integers(body[:, 1, 0, 0])
        return TreePotentials(
            scores=body[:, 2:, 1:],
            lengths=lengths,
            structure=structure,
            mask=_mask(body[:, 0, 1:, 0], lengths)[0],
            **options,
        )


_BORDERS: dict[type, Any] = {
    ChainPotentials: _ChainBorder,
    AlignmentPotentials: _AlignmentBorder,
    TreePotentials: _TreeBorder,
}
_SHAPES = {
    ChainPotentials: "(B, N, K) or (B, N, D, K)",
    AlignmentPotentials: "(B, L1, L2)",
    TreePotentials: "(B, N, N, K)",
}
