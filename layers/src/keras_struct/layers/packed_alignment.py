"""All potentials of a batch of alignments in one tensor, so that they can be the output of a model.

Keras gives a loss or a metric one `y_pred` tensor. The packed tensor is the matrix of scores with a
border of two rows above and two columns to the left, (B, 2 + L1, 2 + L2):

    len1, temperature      gap_open of each skipped column
    len2, 0                gap_extend of each skipped column
    gap_open, gap_extend   scores
    of each skipped row

What a loss must know while its graph is traced, before there are values, is in the shape: axes of
size 1, none for the default of affine `smith_waterman` with adjacent gaps `"any"`. As many as the
place of the structure in `STRUCTURES` stand before the rows, one before the columns says linear
gaps, and as many as the place of `adjacent_gaps` in `ADJACENT_GAPS` stand at the end. The tensor is
float32 or float64, never half precision: a float16 counts to 2,048, and sequences are longer.
"""

from typing import Any, NamedTuple

import keras
from keras import ops as K

from keras_struct import ops
from keras_struct.ops.alignment.gapped import ADJACENT_GAPS

STRUCTURES = ("smith_waterman", "needleman_wunsch", "overlap", "saigo_vert")


class AlignmentPotentials(NamedTuple):
    """Potentials of a batch of alignments with gaps.

    Attributes:
        scores: `(B, L1, L2)`, of matching row i with column j.
        gap_open: Pair `(B, L1, 1)` and `(B, 1, L2)`, of the first skip of a gap, which skips a row
            or a column.
        gap_extend: The same for every further skip; None for linear gaps.
        lengths: Pair of `(B,)`, int32.
        temperature: `(B,)`.
        structure: `"smith_waterman"`, `"needleman_wunsch"`, `"overlap"` or `"saigo_vert"`.
        adjacent_gaps: `"any"`, `"none"` or `"ordered"`, see `ops.needleman_wunsch`.
    """

    scores: Any
    gap_open: Any
    gap_extend: Any
    lengths: Any
    temperature: Any
    structure: str
    adjacent_gaps: str

    def distribution(self, temperature=1.0):
        """The `ops` distribution of these potentials, at `temperature` times their own."""
        temperature = self.temperature * temperature if temperature else 0
        options = {} if self.structure == "saigo_vert" else {"adjacent_gaps": self.adjacent_gaps}
        return getattr(ops, self.structure)(*self[:4], temperature=temperature, **options)


def pack_alignment(
    scores,
    gap_open,
    gap_extend=None,
    lengths=None,
    temperature=1.0,
    structure="smith_waterman",
    adjacent_gaps=None,
):
    """Pack the potentials of a batch of alignments in one tensor (see the module's docstring).

    Args:
        scores: `(B, L1, L2)`, of matching row i with column j.
        gap_open: Score of the first skip of a gap: a number, `(B,)`, or a pair for skipped rows and
            columns, of these or of `(B, L1, 1)` and `(B, 1, L2)`, such as `GapPenalties` gives.
        gap_extend: The same for every further skip; None for linear gaps.
        lengths: Pair of integers `(B,)`; None for L1 or L2.
        temperature: Positive number or `(B,)`.
        structure: `"smith_waterman"`, `"needleman_wunsch"`, `"overlap"` or `"saigo_vert"`.
        adjacent_gaps: `"any"`, `"none"` or `"ordered"`, see `ops.needleman_wunsch`; None for
            `"any"`, of `saigo_vert` always `"ordered"`.

    Returns:
        `(B, 2 + L1, 2 + L2)`, with axes of size 1 for other structures than the default; float32
        at least.

    Raises:
        ValueError: For a structure, adjacent gaps or shapes that do not fit.

    Example:

    >>> import numpy as np
    >>> from keras_struct.layers import pack_alignment, unpack_alignment
    >>> packed = pack_alignment(np.ones((2, 4, 5), "float32"), gap_open=-3.0, gap_extend=-0.3)
    >>> tuple(packed.shape), unpack_alignment(packed).structure
    ((2, 6, 7), 'smith_waterman')
    """
    adjacent_gaps = check_structure(structure, adjacent_gaps)
    scores = K.convert_to_tensor(scores)
    if len(scores.shape) != 3:
        raise ValueError(
            f"Expected scores of shape (B, L1, L2). Received: shape={tuple(scores.shape)}"
        )
    dtype = keras.backend.result_type(scores.dtype, "float32")
    batch, rows, columns = K.shape(scores)

    def wide(x, *shape):
        x = K.cast(K.convert_to_tensor(x), dtype)
        return K.broadcast_to(x[:, None, None] if len(x.shape) == 1 else x, (batch, *shape))

    gaps = [gap_open, 0.0 if gap_extend is None else gap_extend]
    gaps = [gap if isinstance(gap, tuple | list) else (gap, gap) for gap in gaps]
    first, second = (None, None) if lengths is None else lengths
    first, second = (rows if first is None else first), (columns if second is None else second)
    corner = [[first, temperature], [second, 0.0]]
    corner = [K.concatenate([wide(x, 1, 1) for x in row], axis=2) for row in corner]
    above = [wide(gap[1], 1, columns) for gap in gaps]
    top = [K.concatenate(row, axis=2) for row in zip(corner, above, strict=True)]
    left = [wide(gap[0], rows, 1) for gap in gaps]
    packed = K.concatenate([*top, K.concatenate([*left, K.cast(scores, dtype)], axis=2)], axis=1)
    for axis in singletons(structure, gap_extend is None, adjacent_gaps):
        packed = K.expand_dims(packed, axis)
    return packed


def check_structure(structure, adjacent_gaps):
    """What `adjacent_gaps` stands for, or a `ValueError`."""
    if structure not in STRUCTURES:
        raise ValueError(
            f"Expected a structure among {STRUCTURES}. Received: structure={structure!r}"
        )
    local_kernel = structure == "saigo_vert"
    allowed = ("ordered",) if local_kernel else ADJACENT_GAPS
    if adjacent_gaps is not None and adjacent_gaps not in allowed:
        raise ValueError(
            f"Expected adjacent_gaps among {allowed} for structure={structure!r}. "
            f"Received: adjacent_gaps={adjacent_gaps!r}"
        )
    return allowed[0] if adjacent_gaps is None else adjacent_gaps


def singletons(structure, linear, adjacent_gaps):
    """Where to insert axes of size 1 into (B, 2 + L1, 2 + L2), one after the other."""
    place = STRUCTURES.index(structure)
    return [1] * place + [2 + place] * linear + [-1] * ADJACENT_GAPS.index(adjacent_gaps)


def unpack_alignment(packed):
    """The `AlignmentPotentials` in a packed tensor.

    Args:
        packed: As `pack_alignment` and `Aligner` return it.

    Raises:
        ValueError: If it is not float32 or float64, or no packed alignment by its shape.
    """
    packed = K.convert_to_tensor(packed)
    dtype = keras.backend.standardize_dtype(packed.dtype)
    if dtype not in ("float32", "float64"):
        raise ValueError(
            "Expected packed potentials in float32 or float64, which count beyond 2,048. "
            f"Received: dtype={dtype}"
        )
    rows, columns = wide_axes(packed.shape)
    single = tuple(axis for axis in range(1, len(packed.shape)) if axis not in (rows, columns))
    linear, after = columns - rows == 2, len(packed.shape) - 1 - columns
    packed = K.squeeze(packed, single) if single else packed
    gaps = [(packed[:, 2:, k : k + 1], packed[:, k : k + 1, 2:]) for k in range(2)]
    return AlignmentPotentials(
        scores=packed[:, 2:, 2:],
        gap_open=gaps[0],
        gap_extend=None if linear else gaps[1],
        lengths=tuple(K.cast(K.round(packed[:, k, 0]), "int32") for k in range(2)),
        temperature=packed[:, 0, 1],
        structure=STRUCTURES[rows - 1],
        adjacent_gaps=ADJACENT_GAPS[after],
    )


def wide_axes(shape):
    """The axes of the rows and of the columns of a packed tensor of this shape."""
    wide = [axis for axis, size in enumerate(shape) if axis > 0 and size != 1]
    if len(wide) == 2:
        before, between, after = wide[0] - 1, wide[1] - wide[0] - 1, len(shape) - 1 - wide[1]
        if before < len(STRUCTURES) and between < 2 and after < len(ADJACENT_GAPS):
            return wide
    raise ValueError(
        "Expected packed potentials (B, 2 + L1, 2 + L2) of an alignment, as pack_alignment gives "
        f"them. Received: shape={tuple(shape)}"
    )
