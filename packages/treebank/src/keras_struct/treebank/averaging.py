"""One parser from several that were trained from the same start."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np

from keras_struct.treebank.parser_task import ParserTask


def average(parsers: Sequence[ParserTask]) -> ParserTask:
    """Give a parser the mean of its weights and those of others.

    Parsers that went different ways from one start (by their seeds or learning rates) lie in one
    basin of the loss, and its middle is often better than each: an ensemble at the cost of one.

    Args:
        parsers: Parsers of one kind with the same sizes, labels and tags; the first is changed.

    Returns:
        The first parser.

    Raises:
        ValueError: If there are none, or they differ in more than their weights.

    Example:

    >>> import keras_hub
    >>> from keras_struct import treebank
    >>> def new():
    ...     backbone = keras_hub.models.BertBackbone(7, 1, 1, 8, 8)
    ...     return treebank.DependencyParser(backbone, None, labels=["root"], tags=["X"])
    >>> treebank.average([new(), new()]).labels
    ['root']

    Source: Wortsman et al. (2022), Model soups: averaging weights of multiple fine-tuned models
    improves accuracy without increasing inference time.
    """
    if not parsers:
        raise ValueError("Expected at least one parser. Received: parsers=[]")
    first, *others = parsers
    for other in others:
        for name in ("labels", "tags"):
            ours, theirs = getattr(first, name), getattr(other, name)
            if ours != theirs:
                raise ValueError(f"Expected parsers with the same {name}. Received: other {name}")
        sizes = ({w.path: tuple(w.shape) for w in parser.weights} for parser in (first, other))
        ours, theirs = (
            {path: size for path, size in found.items() if "seed_generator" not in path}
            for found in sizes
        )
        if ours != theirs:
            different = sorted(set(ours.items()) ^ set(theirs.items()))
            raise ValueError(f"Expected parsers with the same weights. Received: {different[:2]}")
    every = [{w.path: w for w in parser.weights} for parser in parsers]
    for path, weight in every[0].items():
        if "seed_generator" not in path:
            values = [keras.ops.convert_to_numpy(weights[path]) for weights in every]
            if not all(np.array_equal(values[0], value) for value in values[1:]):
                weight.assign(np.mean(values, axis=0))
    return first
