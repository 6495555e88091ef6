"""What the prediction heads return: all potentials of a batch of structures."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
from keras import ops as K

from keras_struct import ops
from keras_struct.layers.sequence_mask import all_of, mask_from_lengths
from keras_struct.ops.alignment.gapped import ADJACENT_GAPS
from keras_struct.ops.annotations import ArrayLike, Tensor

ALIGNMENTS = ("smith_waterman", "needleman_wunsch", "overlap", "saigo_vert")
TREES = ("cky", "eisner", "spanning_tree")


class ChainPotentials(NamedTuple):
    """Potentials of a batch of linear or semi-Markov chains.

    Attributes:
        scores: `(B, N, K)`, of tag k at position n, or `(B, N, D, K)`, of the segment that starts
            at n, has length d + 1 and label k.
        transitions: `(K, K)`, from the first tag to the second, shared by the batch.
        start: `(K,)`, of the first tag; None for zeros.
        end: `(K,)`, of the last tag; None for zeros.
        lengths: `(B,)`, integers: what comes after them is padding; None for N.
        mask: `(B, N)`, booleans: where False, there is no position; None for all up to the lengths.

    Example:

    >>> import numpy as np
    >>> from keras_struct.layers import ChainPotentials
    >>> chain = ChainPotentials(np.ones((2, 5, 3), "float32"), np.eye(3, dtype="float32"))
    >>> chain.structure, tuple(chain.distribution().value().shape)
    ('linear_chain', (2,))
    """

    scores: Any
    transitions: Any
    start: Any = None
    end: Any = None
    lengths: Any = None
    mask: Any = None

    @property
    def structure(self) -> str:
        """`"linear_chain"` or `"semi_markov"`."""
        return "linear_chain" if len(self.scores.shape) == 3 else "semi_markov"

    def positions(self) -> Tensor:
        """Booleans `(B, N)`: which positions there are, wherever they stand."""
        return positions_of(self.lengths, self.mask, K.shape(self.scores)[:2])

    def distribution(self, temperature: ArrayLike = 1.0) -> ops.Distribution:
        """The `ops.linear_chain` or `ops.semi_markov` distribution of these potentials."""
        which = _extent(self.lengths, self.mask)
        return getattr(ops, self.structure)(*self[:4], temperature=temperature, **which)


class AlignmentPotentials(NamedTuple):
    """Potentials of a batch of alignments with gaps.

    Attributes:
        scores: `(B, L1, L2)`, of matching row i with column j.
        gap_open: Score of the first skip of a gap: a number, `(B,)`, or a pair (a tuple) for
            skipped rows and columns, of these or of `(B, L1, 1)` and `(B, 1, L2)`, such as
            `GapPenalties` gives.
        gap_extend: The same for every further skip; None for linear gaps.
        lengths: Pair of integers `(B,)`: what comes after them is padding; None for L1 or L2.
        temperature: Positive number or `(B,)`.
        structure: `"smith_waterman"`, `"needleman_wunsch"`, `"overlap"` or `"saigo_vert"`.
        adjacent_gaps: `"any"`, `"none"` or `"ordered"`, see `ops.needleman_wunsch`; None for
            `"any"`, of `saigo_vert` always `"ordered"`.
        mask: Pair of booleans `(B, L1)` and `(B, L2)`: where False, there is no row or column; None
            for all up to the lengths.

    Example:

    >>> import numpy as np
    >>> from keras_struct.layers import AlignmentPotentials
    >>> alignment = AlignmentPotentials(np.ones((2, 4, 5), "float32"), gap_open=-3.0)
    >>> tuple(alignment.distribution().marginals().shape)
    (2, 4, 5)
    """

    scores: Any
    gap_open: Any
    gap_extend: Any = None
    lengths: Any = None
    temperature: Any = 1.0
    structure: str = "smith_waterman"
    adjacent_gaps: str | None = None
    mask: Any = None

    def positions(self) -> tuple[Tensor, Tensor]:
        """Pair of booleans `(B, L1)` and `(B, L2)`: which rows and columns there are."""
        batch, *sizes = K.shape(self.scores)
        lengths, masks = self.lengths or (None, None), self.mask or (None, None)
        return tuple(
            positions_of(length, mask, (batch, n))
            for length, mask, n in zip(lengths, masks, sizes, strict=True)
        )

    def distribution(self, temperature: ArrayLike = 1.0) -> ops.Distribution:
        """The `ops` distribution of these potentials, at `temperature` times their own."""
        adjacent_gaps = check_alignment(self.structure, self.adjacent_gaps)
        temperature = self.temperature * temperature if temperature else 0
        options = {} if self.structure == "saigo_vert" else {"adjacent_gaps": adjacent_gaps}
        lengths, masks = self.lengths or (None, None), self.mask or (None, None)
        which = [_extent(*given) for given in zip(lengths, masks, strict=True)]
        for name in ("lengths", "mask"):
            options[name] = tuple(given.get(name) for given in which)
        return getattr(ops, self.structure)(*self[:3], temperature=temperature, **options)


class TreePotentials(NamedTuple):
    """Scores of a batch of trees.

    Attributes:
        scores: `(B, N, N, K)`. Of a constituency tree (`"cky"`): [first word, last word, label] of
            a span. Of a dependency tree: [dependent, head, relation] of an arc, on the diagonal of
            an arc from the root.
        lengths: `(B,)`, integers: what comes after them is padding; None for N.
        structure: `"cky"`, `"eisner"` or `"spanning_tree"`.
        single_root: Whether a dependency tree has exactly one root; else one or more.
        mask: `(B, N)`, booleans: where False, there is no word; None for all up to the lengths.

    Example:

    >>> import numpy as np
    >>> from keras_struct.layers import TreePotentials
    >>> trees = TreePotentials(np.ones((2, 4, 4, 3), "float32"), structure="eisner")
    >>> tuple(trees.distribution().marginals("labels").shape)
    (2, 4, 4, 3)
    """

    scores: Any
    lengths: Any = None
    structure: str = "cky"
    single_root: bool = True
    mask: Any = None

    def positions(self) -> Tensor:
        """Booleans `(B, N)`: which words there are, wherever they stand."""
        return positions_of(self.lengths, self.mask, K.shape(self.scores)[:2])

    @property
    def constituency(self) -> bool:
        """Whether the parts are spans, not arcs."""
        return self.structure == "cky"

    def distribution(self, temperature: ArrayLike = 1.0) -> ops.Distribution:
        """The `ops.cky`, `ops.eisner` or `ops.spanning_tree` distribution of these scores.

        Its labels are the last axis of the scores, also where there is only one.
        """
        options = {"temperature": temperature, **_extent(self.lengths, self.mask)}
        if not self.constituency:
            options["single_root"] = self.single_root
        parts = K.zeros_like(self.scores[..., 0])
        return getattr(ops, self.structure)(parts, labels=self.scores, **options)


def positions_of(lengths, mask, shape):
    """Booleans of this shape, `(B, N)`: which positions there are."""
    if lengths is not None:
        lengths = mask_from_lengths(lengths, shape[1])
    found = all_of(lengths, mask)
    return K.ones(shape, "bool") if found is None else K.broadcast_to(found, shape)


def _extent(lengths, mask):
    """What `ops` takes of lengths and a mask, as keyword arguments: not both."""
    if mask is None:
        return {"lengths": lengths}
    if lengths is None:
        return {"mask": mask}
    return {"mask": positions_of(lengths, mask, K.shape(mask))}


def potential_dtype(dtype):
    """The dtype of potentials that come from scores or a layer with this dtype: not half precision.

    `keras.backend.result_type` would make float32 of float64 on some backends.
    """
    return "float64" if keras.backend.standardize_dtype(dtype) == "float64" else "float32"


def check_alignment(structure, adjacent_gaps):
    """What `adjacent_gaps` stands for, or a `ValueError`."""
    if structure not in ALIGNMENTS:
        raise ValueError(
            f"Expected a structure among {ALIGNMENTS}. Received: structure={structure!r}"
        )
    allowed = ("ordered",) if structure == "saigo_vert" else ADJACENT_GAPS
    if adjacent_gaps is not None and adjacent_gaps not in allowed:
        raise ValueError(
            f"Expected adjacent_gaps among {allowed} for structure={structure!r}. "
            f"Received: adjacent_gaps={adjacent_gaps!r}"
        )
    return allowed[0] if adjacent_gaps is None else adjacent_gaps
