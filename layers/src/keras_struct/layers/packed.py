"""All potentials of a batch in one tensor, so that they can be the output of a model.

Keras gives a loss or a metric one `y_pred` tensor. A structure needs its scores, a few more numbers
(transitions, gaps, the temperature), and the mask of its positions. All are in the packed tensor:

    chains       (B, H + N, D, K + 1)      scores (B, N, D, K); D = 1 for tags
    alignments   (B, 3 + L1, 3 + L2, 1)    scores (B, L1, L2)
    trees        (B, 2 + N, N, K)          scores (B, N, N, K)

- Chains: the last column of a position is its mask. The header, read row by row, is the code, the
  transitions (K·K), the start scores (K), the end scores (K), and zeros. Transitions, start and end
  scores are shared by the batch: they are read from the first example.
- Alignments: above the scores stand the first and the further skips of a gap of each column, and
  its mask, left of them those of each row; the code and the temperature are in the corner.
- Trees: the first row is the code, the second the mask.

**What is packed is named by a code, the place in `CODES`, which is append-only.** The header says
it, and is checked where there are values. A loss must know it while its graph is traced, where only
shapes are known: `code // 4` axes of size 1 stand after the batch, and `code % 4` at the end. (The
first axis of what they enclose is its header and more, so never of size 1.)

Positions stay where they are, whatever the mask. The tensor is float32 or float64, never half
precision, which would round the scores of a confident model.
"""

import math
from typing import Any, NamedTuple

import keras
from keras import ops as K

from keras_struct import ops
from keras_struct.layers.sequence_mask import mask_from_lengths
from keras_struct.ops.alignment.gapped import ADJACENT_GAPS
from keras_struct.ops.validation import readable

ALIGNMENTS = ("smith_waterman", "needleman_wunsch", "overlap", "saigo_vert")
TREES = ("cky", "eisner", "spanning_tree", "eisner_multi_root", "spanning_tree_multi_root")

# Saved outputs hold these places: new names go to the end.
CODES = (
    "linear_chain",
    "semi_markov",
    "smith_waterman",
    "smith_waterman linear",
    "cky",
    "eisner",
    "spanning_tree",
    "eisner_multi_root",
    "spanning_tree_multi_root",
    "needleman_wunsch",
    "needleman_wunsch linear",
    "overlap",
    "overlap linear",
    "saigo_vert ordered",
    "saigo_vert linear ordered",
    "smith_waterman none",
    "smith_waterman linear none",
    "smith_waterman ordered",
    "smith_waterman linear ordered",
    "needleman_wunsch none",
    "needleman_wunsch linear none",
    "needleman_wunsch ordered",
    "needleman_wunsch linear ordered",
    "overlap none",
    "overlap linear none",
    "overlap ordered",
    "overlap linear ordered",
)
BORDER = 3  # of an alignment
TREE_HEADER = 2
WHAT = {
    "chain": "potentials of a CRF or a SemiMarkovCRF",
    "alignment": "potentials of an Aligner",
    "tree": "scores of a parser head",
}


class ChainPotentials(NamedTuple):
    """Potentials of a batch of linear or semi-Markov chains.

    Attributes:
        scores: `(B, N, K)`, of tag k at position n, or `(B, N, D, K)`, of the segment that starts
            at n, has length d + 1 and label k.
        transitions: `(K, K)`, from the first tag to the second.
        start: `(K,)`, of the first tag.
        end: `(K,)`, of the last tag.
        mask: `(B, N)`, True for the positions of the sequence.
    """

    scores: Any
    transitions: Any
    start: Any
    end: Any
    mask: Any

    @property
    def lengths(self):
        """How many positions there are, `(B,)`, int32."""
        return count(self.mask)

    def distribution(self, temperature=1.0):
        """The `ops.linear_chain` or `ops.semi_markov` distribution of these potentials."""
        structure = ops.linear_chain if len(self.scores.shape) == 3 else ops.semi_markov
        return structure(*self[:4], mask=self.mask, temperature=temperature)


class AlignmentPotentials(NamedTuple):
    """Potentials of a batch of alignments with gaps.

    Attributes:
        scores: `(B, L1, L2)`, of matching row i with column j.
        gap_open: Pair `(B, L1, 1)` and `(B, 1, L2)`, of the first skip of a gap, which skips a row
            or a column.
        gap_extend: The same for every further skip; None for linear gaps.
        mask: Pair of `(B, L1)` and `(B, L2)`, True for the positions of the sequences.
        temperature: `(B,)`.
        structure: `"smith_waterman"`, `"needleman_wunsch"`, `"overlap"` or `"saigo_vert"`.
        adjacent_gaps: `"any"`, `"none"` or `"ordered"`, see `ops.needleman_wunsch`.
    """

    scores: Any
    gap_open: Any
    gap_extend: Any
    mask: Any
    temperature: Any
    structure: str
    adjacent_gaps: str

    @property
    def lengths(self):
        """How many positions there are: a pair of `(B,)`, int32."""
        return tuple(count(mask) for mask in self.mask)

    def distribution(self, temperature=1.0):
        """The `ops` distribution of these potentials, at `temperature` times their own."""
        temperature = self.temperature * temperature if temperature else 0
        options = {} if self.structure == "saigo_vert" else {"adjacent_gaps": self.adjacent_gaps}
        structure = getattr(ops, self.structure)
        return structure(*self[:3], mask=self.mask, temperature=temperature, **options)


class TreePotentials(NamedTuple):
    """Scores of a batch of trees.

    Attributes:
        scores: `(B, N, N, K)`. Of a constituency tree (`"cky"`): [first word, last word, label] of
            a span. Of a dependency tree: [dependent, head, relation] of an arc, on the diagonal of
            an arc from the root.
        mask: `(B, N)`, True for the words.
        structure: `"cky"`, `"eisner"`, `"spanning_tree"`, or one of the last two with
            `"_multi_root"` after it.
    """

    scores: Any
    mask: Any
    structure: str

    @property
    def lengths(self):
        """How many words there are, `(B,)`, int32."""
        return count(self.mask)

    @property
    def constituency(self):
        """Whether the parts are spans, not arcs."""
        return self.structure == "cky"

    def distribution(self, temperature=1.0):
        """The `ops.cky`, `ops.eisner` or `ops.spanning_tree` distribution of these scores.

        Its labels are the last axis of the scores, also where there is only one.
        """
        options = {"mask": self.mask, "temperature": temperature}
        parts = K.zeros_like(self.scores[..., 0])
        if self.constituency:
            return ops.cky(parts, labels=self.scores, **options)
        structure = self.structure.removesuffix("_multi_root")
        options["single_root"] = structure == self.structure
        return getattr(ops, structure)(parts, labels=self.scores, **options)


# Chains ------------------------------------------------------------------------------------------


def pack_potentials(scores, transitions, start=None, end=None, lengths=None, mask=None):
    """Pack the potentials of a batch of chains in one tensor (see the module's docstring).

    Args:
        scores: `(B, N, K)` or `(B, N, D, K)`; D and K static.
        transitions: `(K, K)`, shared by the batch.
        start: `(K,)`, or None for zeros.
        end: `(K,)`, or None for zeros.
        lengths: Integers `(B,)`, or None for N.
        mask: Booleans `(B, N)`, instead of lengths: where the positions of the sequence are.

    Returns:
        `(B, H + N, 1, K + 1)`, or for `(B, N, D, K)` `(B, H + N, D, K + 1, 1)`; float32 at least.

    Example:

    >>> import numpy as np
    >>> from keras_struct.layers import pack_potentials, unpack_potentials
    >>> packed = pack_potentials(np.ones((2, 5, 3), "float32"), np.eye(3), lengths=[5, 2])
    >>> tuple(packed.shape), np.asarray(unpack_potentials(packed).lengths).tolist()
    ((2, 9, 1, 4), [5, 2])
    """
    scores = K.convert_to_tensor(scores)
    rows = chain_header(scores.shape)
    name = "linear_chain" if len(scores.shape) == 3 else "semi_markov"
    scores = K.cast(scores, keras.backend.result_type(scores.dtype, "float32"))
    scores = K.expand_dims(scores, 2) if len(scores.shape) == 3 else scores
    batch, n, d, k = K.shape(scores)
    dtype = scores.dtype
    given = ((code_value(name), 1), (transitions, k * k), (start, k), (end, k))
    parts = [K.zeros(m) if x is None else K.reshape(x, (m,)) for x, m in given]
    filler = K.zeros(rows * d * (k + 1) - sum(m for _, m in given))
    header = K.concatenate([K.cast(x, dtype) for x in (*parts, filler)])
    header = K.broadcast_to(K.reshape(header, (1, rows, d, k + 1)), (batch, rows, d, k + 1))
    mask = K.cast(given_mask(mask, lengths, (batch, n)), dtype)
    mask = K.broadcast_to(mask[:, :, None, None], (batch, n, d, 1))
    packed = K.concatenate([header, K.concatenate([scores, mask], axis=-1)], axis=1)
    return named(packed, name)


def unpack_potentials(packed):
    """The `ChainPotentials` in a packed tensor.

    Args:
        packed: As `pack_potentials`, a `CRF` or a `SemiMarkovCRF` returns it.

    Raises:
        ValueError: If it is something else, or not float32 or float64.
    """
    packed, name = unnamed(packed, "chain")
    d, k = packed.shape[2], packed.shape[3] - 1
    rows = chain_header((None, None, d, k))
    size = rows * d * (k + 1)
    header = K.reshape(packed[:, :rows], (-1, size))
    check_code(header[:, 0], name)
    shared = K.sum(header[:1], axis=0)[1:]
    scores = packed[:, rows:, :, :k]
    return ChainPotentials(
        scores=scores[:, :, 0] if name == "linear_chain" else scores,
        transitions=K.reshape(shared[: k * k], (k, k)),
        start=shared[k * k : k * k + k],
        end=shared[k * k + k : k * k + 2 * k],
        mask=packed[:, rows:, 0, k] > 0.5,
    )


def chain_header(shape):
    """Number of rows of the header for scores of this shape."""
    inner = tuple(shape[2:])
    if len(shape) not in (3, 4) or None in inner:
        raise ValueError(
            "Expected potentials of shape (B, N, K) or (B, N, D, K), with K and D known. "
            f"Received: shape={tuple(shape)}"
        )
    k = inner[-1]
    return math.ceil((k + 1) / math.prod(inner[:-1]))


def chain_spec(shape, dtype):
    """The `KerasTensor` of `pack_potentials` for scores of this shape."""
    batch, n, *inner = shape
    rows = None if n is None else n + chain_header(shape)
    name = "linear_chain" if len(inner) == 1 else "semi_markov"
    return named_spec((batch, rows, math.prod(inner[:-1]), inner[-1] + 1), name, dtype)


def unpacked_chain(shape):
    """Batch, N and K of the scores in packed potentials of this shape."""
    core, _ = core_shape(shape, "chain")
    batch, rows, d, columns = core
    n = None if rows is None else rows - chain_header((None, None, d, columns - 1))
    return batch, n, columns - 1


# Alignments --------------------------------------------------------------------------------------


def pack_alignment(
    scores,
    gap_open,
    gap_extend=None,
    lengths=None,
    temperature=1.0,
    structure="smith_waterman",
    adjacent_gaps=None,
    mask=None,
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
        mask: Pair of booleans `(B, L1)` and `(B, L2)`, or None, instead of lengths: where the
            positions of the sequences are.

    Returns:
        `(B, 3 + L1, 3 + L2, 1)`, with as many axes of size 1 as the code says; float32 at least.

    Raises:
        ValueError: For a structure, adjacent gaps or shapes that do not fit.

    Example:

    >>> import numpy as np
    >>> from keras_struct.layers import pack_alignment, unpack_alignment
    >>> packed = pack_alignment(np.ones((2, 4, 5), "float32"), gap_open=-3.0, gap_extend=-0.3)
    >>> tuple(packed.shape), unpack_alignment(packed).structure
    ((2, 7, 8, 1, 1, 1), 'smith_waterman')
    """
    name = alignment_name(structure, gap_extend is None, adjacent_gaps)
    scores = K.convert_to_tensor(scores)
    if len(scores.shape) != 3:
        raise ValueError(
            f"Expected scores of shape (B, L1, L2). Received: shape={tuple(scores.shape)}"
        )
    dtype = keras.backend.result_type(scores.dtype, "float32")
    batch, *sizes = K.shape(scores)

    def wide(x, *shape):
        x = K.cast(K.convert_to_tensor(x), dtype)
        return K.broadcast_to(x[:, None, None] if len(x.shape) == 1 else x, (batch, *shape))

    gaps = [gap_open, 0.0 if gap_extend is None else gap_extend]
    gaps = [gap if isinstance(gap, tuple | list) else (gap, gap) for gap in gaps]
    lengths, mask = ((None, None) if x is None else x for x in (lengths, mask))
    masks = [
        given_mask(m, length, (batch, n)) for m, length, n in zip(mask, lengths, sizes, strict=True)
    ]
    gaps.append((K.expand_dims(masks[0], 2), K.expand_dims(masks[1], 1)))
    corner = [wide(code_value(name), 1, 1), wide(temperature, 1, 1), wide(0.0, 1, 1)]
    corner = K.concatenate([K.concatenate(corner, axis=2), wide(0.0, BORDER - 1, BORDER)], axis=1)
    above = K.concatenate([wide(gap[1], 1, sizes[1]) for gap in gaps], axis=1)
    left = K.concatenate([wide(gap[0], sizes[0], 1) for gap in gaps], axis=2)
    rows = [[corner, above], [left, K.cast(scores, dtype)]]
    packed = K.concatenate([K.concatenate(row, axis=2) for row in rows], axis=1)
    return named(K.expand_dims(packed, -1), name)


def unpack_alignment(packed):
    """The `AlignmentPotentials` in a packed tensor.

    Args:
        packed: As `pack_alignment` and `Aligner` return it.

    Raises:
        ValueError: If it is something else, or not float32 or float64.
    """
    packed, name = unnamed(packed, "alignment")
    packed = packed[..., 0]
    check_code(packed[:, 0, 0], name)
    structure, linear, adjacent_gaps = alignment_options(name)
    *gaps, masks = [
        (packed[:, BORDER:, k : k + 1], packed[:, k : k + 1, BORDER:]) for k in range(BORDER)
    ]
    return AlignmentPotentials(
        scores=packed[:, BORDER:, BORDER:],
        gap_open=gaps[0],
        gap_extend=None if linear else gaps[1],
        mask=(masks[0][:, :, 0] > 0.5, masks[1][:, 0] > 0.5),
        temperature=packed[:, 0, 1],
        structure=structure,
        adjacent_gaps=adjacent_gaps,
    )


def check_structure(structure, adjacent_gaps):
    """What `adjacent_gaps` stands for, or a `ValueError`."""
    if structure not in ALIGNMENTS:
        raise ValueError(
            f"Expected a structure among {ALIGNMENTS}. Received: structure={structure!r}"
        )
    local_kernel = structure == "saigo_vert"
    allowed = ("ordered",) if local_kernel else ADJACENT_GAPS
    if adjacent_gaps is not None and adjacent_gaps not in allowed:
        raise ValueError(
            f"Expected adjacent_gaps among {allowed} for structure={structure!r}. "
            f"Received: adjacent_gaps={adjacent_gaps!r}"
        )
    return allowed[0] if adjacent_gaps is None else adjacent_gaps


def alignment_name(structure, linear, adjacent_gaps):
    """The entry of `CODES` of an alignment."""
    adjacent_gaps = check_structure(structure, adjacent_gaps)
    words = [structure, "linear" if linear else "", adjacent_gaps.replace("any", "")]
    return " ".join(word for word in words if word)


def alignment_options(name):
    """Structure, whether gaps are linear, and adjacent gaps: the inverse of `alignment_name`."""
    structure, *words = name.split()
    adjacent_gaps = [word for word in words if word in ADJACENT_GAPS]
    return structure, "linear" in words, adjacent_gaps[0] if adjacent_gaps else "any"


def alignment_spec(shape, structure, linear, adjacent_gaps, dtype):
    """The `KerasTensor` of `pack_alignment` for scores of this shape."""
    batch, *sizes = shape
    sizes = (None if n is None else n + BORDER for n in sizes)
    return named_spec((batch, *sizes, 1), alignment_name(structure, linear, adjacent_gaps), dtype)


def unpacked_alignment(shape):
    """Shape of the scores in a packed alignment of this shape."""
    (batch, *sizes, _), _ = core_shape(shape, "alignment")
    return batch, *(None if size is None else size - BORDER for size in sizes)


# Trees -------------------------------------------------------------------------------------------


def pack_tree(scores, lengths=None, structure="cky", mask=None):
    """Pack the scores of a batch of trees in one tensor (see `keras_struct.layers.packed`).

    Args:
        scores: `(B, N, N, K)`, see `TreePotentials`; K static.
        lengths: Integers `(B,)`, or None for N.
        structure: `"cky"`, `"eisner"`, `"spanning_tree"`, or one of the last two with
            `"_multi_root"` after it.
        mask: Booleans `(B, N)`, instead of lengths: where the words are.

    Returns:
        `(B, 2 + N, N, K)`, with as many axes of size 1 as the code says; float32 at least.

    Raises:
        ValueError: For a structure or a shape that does not fit.

    Example:

    >>> import numpy as np
    >>> from keras_struct.parsers import pack_tree, unpack_tree
    >>> packed = pack_tree(np.ones((2, 5, 5, 3), "float32"), lengths=[5, 2], structure="eisner")
    >>> tuple(packed.shape), unpack_tree(packed).structure
    ((2, 1, 7, 5, 3, 1), 'eisner')
    """
    if structure not in TREES:
        raise ValueError(f"Expected a structure among {TREES}. Received: structure={structure!r}")
    scores = K.convert_to_tensor(scores)
    if len(scores.shape) != 4 or scores.shape[-1] is None:
        raise ValueError(
            "Expected scores (B, N, N, K) with a static K. "
            f"Received: shape of scores={tuple(scores.shape)}"
        )
    scores = K.cast(scores, keras.backend.result_type(scores.dtype, "float32"))
    batch, n, _, k = K.shape(scores)
    mask = K.cast(given_mask(mask, lengths, (batch, n)), scores.dtype)
    code = K.convert_to_tensor(code_value(structure), scores.dtype)
    header = [
        K.broadcast_to(code, (batch, 1, n, k)),
        K.broadcast_to(mask[:, None, :, None], (batch, 1, n, k)),
    ]
    return named(K.concatenate([*header, scores], axis=1), structure)


def unpack_tree(packed):
    """The `TreePotentials` in a packed tensor.

    Args:
        packed: As `pack_tree` and the heads of parsers return it.

    Raises:
        ValueError: If it is something else, or not float32 or float64.
    """
    packed, structure = unnamed(packed, "tree")
    check_code(packed[:, 0, 0, 0], structure)
    return TreePotentials(packed[:, TREE_HEADER:], packed[:, 1, :, 0] > 0.5, structure)


def tree_spec(shape, structure, dtype):
    """The `KerasTensor` of `pack_tree` for scores of this shape."""
    batch, n, _, k = shape
    rows = None if n is None else n + TREE_HEADER
    return named_spec((batch, rows, n, k), structure, dtype)


def unpacked_tree(shape):
    """Shape of the scores in packed trees of this shape, and the structure."""
    (batch, _, n, k), structure = core_shape(shape, "tree")
    return (batch, n, n, k), structure


# Codes -------------------------------------------------------------------------------------------


def kind_of(name):
    """`"chain"`, `"alignment"` or `"tree"`: which layout this entry of `CODES` has."""
    structure = name.split()[0]
    return "alignment" if structure in ALIGNMENTS else "tree" if structure in TREES else "chain"


def code_value(name):
    """The number in the header."""
    return float(1 + CODES.index(name))


def named_shape(shape, name):
    """The shape (batch, three axes) with the axes of size 1 that say what is packed."""
    code = CODES.index(name)
    return (shape[0], *[1] * (code // 4), *shape[1:], *[1] * (code % 4))


def named(packed, name):
    return K.reshape(packed, named_shape(K.shape(packed), name))


def named_spec(shape, name, dtype):
    return keras.KerasTensor(named_shape(shape, name), dtype)


def core_shape(shape, kind):
    """The shape without the axes that say what is packed, and its name in `CODES`."""
    shape = tuple(shape)
    before = next((i for i, size in enumerate(shape[1:]) if size != 1), len(shape))
    after = len(shape) - 4 - before
    code = 4 * before + after
    if not 0 <= after < 4 or code >= len(CODES) or kind_of(CODES[code]) != kind:
        raise ValueError(f"Expected the packed {WHAT[kind]}. Received: shape={shape}")
    return (shape[0], *shape[1 + before : 4 + before]), CODES[code]


def unnamed(packed, kind):
    """The tensor (batch, three axes) of a layout, and its name in `CODES`."""
    packed = K.convert_to_tensor(packed)
    dtype = keras.backend.standardize_dtype(packed.dtype)
    if dtype not in ("float32", "float64"):
        raise ValueError(
            f"Expected the packed {WHAT[kind]} in float32 or float64, which do not round them. "
            f"Received: dtype={dtype}"
        )
    _, name = core_shape(packed.shape, kind)
    code, rank = CODES.index(name), len(packed.shape)
    single = (*range(1, 1 + code // 4), *range(rank - code % 4, rank))
    return (K.squeeze(packed, single) if single else packed), name


def check_code(values, name):
    """Raises unless the numbers in the header are the code that the shape says."""
    if readable(values):
        values = K.convert_to_numpy(values)
        if (values != code_value(name)).any():
            raise ValueError(
                f"Expected potentials that were packed as {name!r}, with {code_value(name)} in "
                f"their header. Received: header={values}"
            )


def given_mask(mask, lengths, shape):
    """Boolean `(B, N)` from a mask, or from lengths, or True everywhere."""
    if mask is not None and lengths is not None:
        raise ValueError(f"Expected lengths or a mask, not both. Received: lengths={lengths}")
    if mask is None and lengths is None:
        return K.ones(shape, "bool")
    if mask is None:
        return K.broadcast_to(mask_from_lengths(K.convert_to_tensor(lengths), shape[1]), shape)
    return K.broadcast_to(K.cast(mask, "bool"), shape)


def count(mask):
    """How many positions there are."""
    return K.sum(K.cast(mask, "int32"), axis=-1)
