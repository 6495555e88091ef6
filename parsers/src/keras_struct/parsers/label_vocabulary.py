"""Numbers of labels, and padded arrays of labelled spans."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Self

import keras
import numpy as np

from keras_struct.layers.annotations import Config, Span
from keras_struct.ops.annotations import ArrayLike


@keras.saving.register_keras_serializable("keras_struct")
class LabelVocabulary:
    """Numbers labels from 0 on, and saves itself with the layers that hold it.

    Args:
        labels: Names, each once.
        unknown: The name whose number stands for names that are not in the list, such as `NULL`;
            by default they are an error.

    Raises:
        ValueError: If a name is there twice, or `unknown` is not among them.

    Example:

    >>> from keras_struct.parsers import LabelVocabulary
    >>> vocabulary = LabelVocabulary.of(["NP", "S", "NP"], first=["@"], unknown="@")
    >>> vocabulary.labels, vocabulary.number("NP"), vocabulary.number("SINV")
    (['@', 'NP', 'S'], 1, 0)
    >>> vocabulary.encode_spans([(0, 2, "S"), (0, 1, "NP")], 3).tolist()
    [[0, 2, 2], [0, 1, 1], [-1, -1, -1]]
    """

    def __init__(self, labels: Sequence[str], unknown: str | None = None) -> None:
        self.labels = list(labels)
        self.unknown = unknown
        self._numbers: dict[str | None, int] = {x: k for k, x in enumerate(self.labels)}
        if len(self._numbers) < len(self.labels):
            raise ValueError(f"Expected every label once. Received: labels={self.labels}")
        if unknown is not None and unknown not in self._numbers:
            raise ValueError(f"Expected one of {self.labels}. Received: unknown={unknown!r}")

    @classmethod
    def of(
        cls, labels: Iterable[str], first: Iterable[str] = (), unknown: str | None = None
    ) -> Self:
        """The vocabulary of `first` and then, sorted, the other labels that occur."""
        return cls([*first, *sorted(set(labels) - set(first))], unknown)

    def __len__(self):
        return len(self.labels)

    def number(self, label: str) -> int:
        """The number of a label."""
        number = self._numbers.get(label, self._numbers.get(self.unknown))
        if number is None:
            raise ValueError(f"Expected one of {self.labels}. Received: label={label!r}")
        return number

    def encode_spans(self, spans: Sequence[Span], length: int) -> np.ndarray:
        """Array `(length, 3)`, int32, of `(start, end, label)`, with rows of -1 after them."""
        array = np.full((length, 3), -1, "int32")
        if len(spans) > length:
            raise ValueError(f"Expected at most {length} spans. Received: {len(spans)} spans")
        for row, (start, end, label) in zip(array, spans, strict=False):
            row[:] = start, end, self.number(label)
        return array

    def decode_spans(self, array: ArrayLike) -> list[Span]:
        """List of `(start, end, label)` of an array `(M, 3)`, without the rows of -1."""
        return [(s, e, self.labels[k]) for s, e, k in np.asarray(array).tolist() if s >= 0]

    def get_config(self) -> Config:
        return {"labels": self.labels, "unknown": self.unknown}

    @classmethod
    def from_config(cls, config: Config) -> Self:
        return cls(**config)
