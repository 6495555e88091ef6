"""Dynamic time warping and monotonic alignment."""

from __future__ import annotations

import functools

from keras import ops

from keras_struct.ops.alignment import spec
from keras_struct.ops.alignment.lattice import Lattice
from keras_struct.ops.annotations import ArrayLike, Pair
from keras_struct.ops.distribution import Distribution
from keras_struct.ops.structure import as_lengths
from keras_struct.ops.symbolic import public


@public
def dtw(
    costs: ArrayLike,
    band: ArrayLike | None = None,
    lengths: Pair = None,
    temperature: ArrayLike = 1.0,
    mask: Pair = None,
    implementation: str | None = None,
) -> Distribution:
    """Distribution over the warping paths between two series (soft dynamic time warping).

    A path runs from the first cell to the last in steps (1, 0), (0, 1) and (1, 1); its cost is the
    sum of `costs` over its cells. `value` is the soft minimum, soft-DTW with gamma = temperature.

    Shapes: `...` batch axes, `L1` and `L2` points of the two series.

    Args:
        costs: (..., L1, L2) cost of pairing point i with point j; infinity forbids the pair.
        band: Radius of the Sakoe-Chiba band, an integer or integers (...,), at least 0; None for no
            band. A cell (i, j) is allowed if `j - i` lies between `min(0, len2 - len1) - band` and
            `max(0, len2 - len1) + band`.
        lengths: Pair of integers (...,); None for L1 or L2. Two empty series have one path, the
            empty one, of cost 0; if only one is empty there is no path: value plus infinity.
        temperature: Positive number, tensor or variable, () or (...,); the number 0 is DTW.
        mask: Pair of booleans (..., L1) and (..., L2), or None, instead of lengths: a point where
            it is False is not part of the series, wherever it stands; the band counts the others.
        implementation: Name, or None for the best one (see `ops.explain`).

    Returns:
        `Distribution` with potential `costs`; marginals are expected uses of the cells, at least 0.
        Events are paths (..., L1 + L2 - 1, 2), int32: the cells in order, then -1.

    Raises:
        ValueError: For shapes, lengths or a band that do not fit.

    Example:

    >>> import numpy as np
    >>> from keras_struct import ops
    >>> x, y = np.array([0.0, 1.0, 2.0]), np.array([0.0, 2.0])
    >>> print(np.array(ops.dtw((x[:, None] - y) ** 2, temperature=0).value()))
    1.0

    Source: Sakoe and Chiba (1978); Cuturi and Blondel (2017), Soft-DTW.
    """
    inside = None if band is None else functools.partial(_inside_band, band)
    cells = {"costs": costs}
    structure = Lattice("dtw", spec.DTW, cells, {}, lengths, mask, costs=True, inside=inside)
    return Distribution(structure, temperature, implementation)


def _inside_band(band, structure):
    band = as_lengths("band", band, structure.batch_shape, None, structure.checks)[:, None, None]
    first, second = structure.lengths
    longer = (second - first)[:, None, None]
    rows = ops.arange(structure.rows, dtype="int32")[:, None]
    columns = ops.arange(structure.columns, dtype="int32")[None]
    low, high = ops.minimum(longer, 0) - band, ops.maximum(longer, 0) + band
    return ops.logical_and(columns - rows >= low, columns - rows <= high)


@public
def monotonic_alignment(
    scores: ArrayLike,
    lengths: Pair = None,
    temperature: ArrayLike = 1.0,
    mask: Pair = None,
    implementation: str | None = None,
) -> Distribution:
    """Distribution over the monotonic alignments of frames to tokens (MAS).

    Every frame takes one token, in order, and every token has at least one frame; the score is the
    sum of `scores` over the frames. Every row of the map sums to 1.

    Shapes: `...` batch axes, `T` frames, `S` tokens.

    Args:
        scores: (..., T, S) scores of frame t taking token s, such as log-likelihoods.
        lengths: Pair of integers (...,), frames and tokens; None for T or S. With fewer frames than
            tokens, or frames and no token, there is no alignment: value minus infinity. No frame
            and no token: value 0.
        temperature: Positive number, tensor or variable, () or (...,); the number 0 is the search.
        mask: Pair of booleans (..., T) and (..., S), or None, instead of lengths: a frame or token
            where it is False is not there.
        implementation: Name, or None for the best one (see `ops.explain`).

    Returns:
        `Distribution` with potential `scores`. Events are the tokens of the frames (..., T), int32,
        -1 in the padding.

    Raises:
        ValueError: For shapes or lengths that do not fit.

    Example:

    >>> import numpy as np
    >>> from keras_struct import ops
    >>> scores = np.array([[2.0, 0.0], [2.0, 1.0], [0.0, 1.0]], "float32")
    >>> print(np.array(ops.monotonic_alignment(scores).argmax()))
    [0 0 1]

    Source: Kim, Kim, Kong and Yoon (2020), Glow-TTS, section 3.1.
    """
    cells = {"scores": scores}
    structure = Lattice("monotonic_alignment", spec.MONOTONIC, cells, {}, lengths, mask)
    return Distribution(structure, temperature, implementation)
