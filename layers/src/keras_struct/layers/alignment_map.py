"""Attention maps over pairs: one alignment of all queries with all keys for each head."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import initializers
from keras import ops as K

from keras_struct import ops
from keras_struct.layers.annotations import Config, Shape, Spec
from keras_struct.layers.attention_map import MARGINALS, AttentionMap
from keras_struct.ops.alignment.gapped import ADJACENT_GAPS
from keras_struct.ops.annotations import Pair, Tensor


class AlignmentMap(AttentionMap):
    """Base class of the maps that align the queries with the keys.

    The structure is over the whole matrix of a head, so it takes the number of queries, too. A
    subclass implements `marginals(scores, masks, temperature, read)`, where `masks` is the pair of
    `ops`: which queries and which keys there are, each booleans or None.

    Args:
        temperature: See `AttentionMap`.
        learn_temperature: See `AttentionMap`.
        **kwargs: `name`, `dtype`, `trainable`.

    Call arguments:
        scores: `(..., H, T, S)` of heads, queries and keys; minus infinity for a pair that must
            not be.
        key_mask: Booleans that broadcast against `(..., H, S)`: which keys there are, wherever they
            stand; None for all.
        query_mask: Booleans that broadcast against `(..., H, T)`: which queries there are.

    Returns:
        `(..., H, T, S)` in the dtype of the scores: the probability of each pair; exactly 0 for
        what is not there, and everywhere if there is no alignment.
    """

    over_pairs = True

    def call(
        self,
        scores: Tensor,
        key_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
        *,
        training: bool | None = None,
    ) -> Tensor:
        return self.read(scores, (query_mask, key_mask), training)

    def compute_output_spec(
        self,
        scores: Tensor,
        key_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
        *,
        training: bool | None = None,
    ) -> Spec:
        return super().compute_output_spec(scores)


class GappedMap(AlignmentMap):
    """Base class of the maps that skip queries and keys at a learned score.

    Args:
        gap_open: Initial score of the first skip of a gap, learned by each head; usually negative.
        gap_extend: Initial score of every further skip, learned by each head; None for `gap_open`
            (linear gaps).
        adjacent_gaps: `"any"`, `"none"` or `"ordered"`: whether a gap of skipped queries and one of
            skipped keys may touch, see `ops.needleman_wunsch`.
        temperature: See `AttentionMap`.
        learn_temperature: See `AttentionMap`.
        **kwargs: `name`, `dtype`, `trainable`.
    """

    alignment = staticmethod(ops.needleman_wunsch)

    def __init__(
        self,
        gap_open: float = -3.0,
        gap_extend: float | None = -0.3,
        adjacent_gaps: str = "any",
        temperature: float = 1.0,
        learn_temperature: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(temperature, learn_temperature, **kwargs)
        check_gaps(gap_open, gap_extend)
        if adjacent_gaps not in ADJACENT_GAPS:
            raise ValueError(
                f"Expected adjacent_gaps among {ADJACENT_GAPS}. "
                f"Received: adjacent_gaps={adjacent_gaps!r}"
            )
        self.gap_open = gap_open
        self.gap_extend = gap_extend
        self.adjacent_gaps = adjacent_gaps

    def build(self, scores_shape: Shape, key_mask_shape: Shape | None = None) -> None:
        super().build(scores_shape)
        self.gaps = [
            self.add_head_weight(name, (), initializers.Constant(value), scores_shape)
            for name, value in (("gap_open", self.gap_open), ("gap_extend", self.gap_extend))
            if value is not None
        ]

    def marginals(
        self,
        scores: Tensor,
        masks: Pair,
        temperature: float,
        read: Callable[[ops.Distribution], Tensor] = MARGINALS,
    ) -> Tensor:
        shape = (*[1] * (len(scores.shape) - 3), scores.shape[-3])
        aligned = self.alignment(
            scores,
            mask=masks,
            temperature=temperature,
            adjacent_gaps=self.adjacent_gaps,
            **{gap.name: K.reshape(gap, shape) for gap in self.gaps},
        )
        return read(aligned)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "gap_open": self.gap_open,
            "gap_extend": self.gap_extend,
            "adjacent_gaps": self.adjacent_gaps,
        }


def check_gaps(gap_open, gap_extend):
    """Raise a `ValueError` unless both are finite numbers, the second possibly None."""
    if not math.isfinite(gap_open) or not (gap_extend is None or math.isfinite(gap_extend)):
        raise ValueError(
            "Expected finite numbers, or gap_extend=None for linear gaps. "
            f"Received: gap_open={gap_open}, gap_extend={gap_extend}"
        )


@keras.saving.register_keras_serializable("keras_struct")
class SmithWatermanMap(GappedMap):
    """A part of the queries is aligned with a part of the keys (local alignment).

    The alignment starts and ends with a matched pair; pairs score, skips in between cost the
    learned gap scores. At least one pair is matched.

    Args:
        gap_open: Initial score of the first skip of a gap, learned by each head. The default of -3,
            with -0.3 to extend, is what the usual gaps beside BLOSUM62 (-11 and -1) are in nats,
            the unit of scores at temperature 1.
        gap_extend: Initial score of every further skip, learned by each head; None for `gap_open`
            (linear gaps).
        adjacent_gaps: `"any"`, `"none"` or `"ordered"`, see `ops.needleman_wunsch`.
        temperature: See `AttentionMap`.
        learn_temperature: See `AttentionMap`.
        **kwargs: `name`, `dtype`, `trainable`.

    Example:

    >>> import keras, numpy as np
    >>> from keras_struct import layers
    >>> scores = 9 * np.eye(3, k=1, dtype="float32")[None] - 5  # one head
    >>> print(np.round(keras.ops.convert_to_numpy(layers.SmithWatermanMap()(scores)), 2))
    [[[0.   0.98 0.  ]
      [0.   0.   0.98]
      [0.   0.   0.  ]]]

    Source: Smith and Waterman (1981), Identification of common molecular subsequences; Petti et
    al. (2023), End-to-end learning of multiple sequence alignments with differentiable
    Smith-Waterman.
    """

    alignment = staticmethod(ops.smith_waterman)


@keras.saving.register_keras_serializable("keras_struct")
class NeedlemanWunschMap(GappedMap):
    """All queries are aligned with all keys (global alignment).

    Pairs score, each skipped query and key costs the learned gap scores.

    Args:
        gap_open: Initial score of the first skip of a gap, see `SmithWatermanMap`.
        gap_extend: Initial score of every further skip, see `SmithWatermanMap`.
        adjacent_gaps: `"any"`, `"none"` or `"ordered"`, see `ops.needleman_wunsch`.
        temperature: See `AttentionMap`.
        learn_temperature: See `AttentionMap`.
        **kwargs: `name`, `dtype`, `trainable`.

    Example:

    >>> import keras, numpy as np
    >>> from keras_struct import layers
    >>> scores = np.zeros((1, 1, 2), "float32")  # one head, one query, two keys
    >>> attention = layers.NeedlemanWunschMap(temperature=0.1)(scores)
    >>> print(np.round(keras.ops.convert_to_numpy(attention), 2))
    [[[0.5 0.5]]]

    Source: Needleman and Wunsch (1970), A general method applicable to the search for similarities
    in the amino acid sequence of two proteins.
    """

    alignment = staticmethod(ops.needleman_wunsch)


@keras.saving.register_keras_serializable("keras_struct")
class OverlapMap(GappedMap):
    """One sequence overlaps the other: a global alignment whose end gaps are free.

    Args:
        gap_open: Initial score of the first skip of a gap, see `SmithWatermanMap`.
        gap_extend: Initial score of every further skip, see `SmithWatermanMap`.
        adjacent_gaps: `"any"`, `"none"` or `"ordered"`, see `ops.needleman_wunsch`.
        temperature: See `AttentionMap`.
        learn_temperature: See `AttentionMap`.
        **kwargs: `name`, `dtype`, `trainable`.

    Example:

    >>> import keras, numpy as np
    >>> from keras_struct import layers
    >>> scores = 9 * np.eye(2, 3, k=1, dtype="float32")[None]  # one head, two queries, three keys
    >>> print(np.round(keras.ops.convert_to_numpy(layers.OverlapMap(temperature=0)(scores)), 2))
    [[[0. 1. 0.]
      [0. 0. 1.]]]
    """

    alignment = staticmethod(ops.overlap)


@keras.saving.register_keras_serializable("keras_struct")
class DTWMap(AlignmentMap):
    """A warping path from the first query and key to the last (dynamic time warping).

    Each step of the path advances to the next query, the next key or both, so every query and every
    key is used at least once, and the rows of the map sum to 1 or more. Scores are similarities:
    the cost of a pair is minus its score.

    Args:
        band: Radius of the Sakoe-Chiba band, an integer >= 0, see `ops.dtw`; None for no band.
        temperature: See `AttentionMap`; the gamma of soft-DTW.
        learn_temperature: See `AttentionMap`.
        **kwargs: `name`, `dtype`, `trainable`.

    Example:

    >>> import keras, numpy as np
    >>> from keras_struct import layers
    >>> scores = np.zeros((1, 2, 2), "float32")  # one head, two queries, two keys
    >>> print(np.round(keras.ops.convert_to_numpy(layers.DTWMap()(scores)), 2))
    [[[1.   0.33]
      [0.33 1.  ]]]

    Source: Sakoe and Chiba (1978); Cuturi and Blondel (2017), Soft-DTW.
    """

    def __init__(
        self,
        band: int | None = None,
        temperature: float = 1.0,
        learn_temperature: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(temperature, learn_temperature, **kwargs)
        self.band = check_band(band)

    def marginals(
        self,
        scores: Tensor,
        masks: Pair,
        temperature: float,
        read: Callable[[ops.Distribution], Tensor] = MARGINALS,
    ) -> Tensor:
        return read(ops.dtw(-scores, self.band, mask=masks, temperature=temperature))

    def get_config(self) -> Config:
        return {**super().get_config(), "band": self.band}


def check_band(band):
    """The band, or a `ValueError`."""
    if band is not None and (not isinstance(band, int) or band < 0):
        raise ValueError(f"Expected an integer >= 0, or None. Received: band={band}")
    return band


@keras.saving.register_keras_serializable("keras_struct")
class MonotonicMap(AlignmentMap):
    """Every query takes one key, in order, and every key has at least one query.

    The alignment of speech frames (queries) with text (keys): the rows of the map sum to 1. With
    fewer queries than keys there is no alignment, and the map is 0.

    Args:
        temperature: See `AttentionMap`.
        learn_temperature: See `AttentionMap`.
        **kwargs: `name`, `dtype`, `trainable`.

    Example:

    >>> import keras, numpy as np
    >>> from keras_struct import layers
    >>> scores = np.zeros((1, 3, 2), "float32")  # one head, three queries, two keys
    >>> print(np.round(keras.ops.convert_to_numpy(layers.MonotonicMap()(scores)), 2))
    [[[1.  0. ]
      [0.5 0.5]
      [0.  1. ]]]

    Source: Kim, Kim, Kong and Yoon (2020), Glow-TTS, section 3.1.
    """

    def marginals(
        self,
        scores: Tensor,
        masks: Pair,
        temperature: float,
        read: Callable[[ops.Distribution], Tensor] = MARGINALS,
    ) -> Tensor:
        return read(ops.monotonic_alignment(scores, mask=masks, temperature=temperature))
