"""From words to the arrays that a parser takes."""

from __future__ import annotations

from collections.abc import Sequence
from string import whitespace
from typing import Any

import keras
import keras_hub
import numpy as np

from keras_struct.layers.annotations import Config
from keras_struct.parsers import unescape_word
from keras_struct.runs import check_text
from keras_struct.treebank.batches import padded_size

LEAST_LENGTH, LEAST_WORDS = 32, 16  # of padded batches
REMEMBERED = 1_000_000  # words whose subwords are kept
QUOTES = {"``": '"', "''": '"'}


def check_words(words):
    """Raise a `ValueError` unless a sentence is a list of words that are not empty."""
    if not isinstance(words, (list, tuple)):
        received = f"a sentence of type {type(words).__name__}"
    elif not words:
        received = "a sentence without words"
    else:
        # Words of some treebanks are other blanks than those of ASCII.
        wrong = [w for w in words if not (isinstance(w, str) and w.strip(whitespace))]
        if not wrong:
            for word in words:
                check_text(word)
            return
        received = f"{wrong[0]!r} in a sentence of {len(words)}"
    raise ValueError(f"Expected a list of words, none empty. Received: {received}")


@keras.saving.register_keras_serializable("keras_struct")
class ParserPreprocessor(keras_hub.models.Preprocessor):
    """Splits words into subwords, and remembers which are whose.

    A sentence of more subwords than fit the encoder is laid out in overlapping windows, each a row
    of `token_ids`; a word is read where it is farthest from the ends of a window. So sentences have
    no limit here.

    Args:
        tokenizer: A KerasHub tokenizer with tokens for the start, the end and the padding of texts,
            such as `keras_hub.models.BertTokenizer` or `RobertaTokenizer`.
        sequence_length: Subwords of a window, with the two at its ends; at most the
            `max_sequence_length` of the backbone.
        **kwargs: `name`, `dtype`.

    Call arguments:
        x: List of sentences, each a list of words; the escapes of treebanks, such as `-LRB-`, are
            read as what they stand for.

    Returns:
        Dict of `"token_ids"`, `"segment_ids"` and `"padding_mask"`, `(R, T)`, with a row for every
        window, and `"places"`, `(B, N, 2)`, see `WordPooling`; all int32.

    Raises:
        ValueError: If a sentence is not a list of words that are not empty.

    Example:

    >>> import keras_hub
    >>> from keras_struct.treebank import ParserPreprocessor
    >>> vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "we", "left", "##over"]
    >>> tokenizer = keras_hub.models.BertTokenizer(vocabulary, lowercase=True)
    >>> arrays = ParserPreprocessor(tokenizer)([["We", "leftover"], ["We"]])
    >>> arrays["token_ids"].tolist(), arrays["places"].tolist()
    ([[2, 5, 6, 7, 3], [2, 5, 3, 0, 0]], [[[1, 1], [2, 3]], [[6, 6], [-1, -1]]])
    """

    tokenizer_cls = keras_hub.models.BertTokenizer
    backbone_cls = keras_hub.models.BertBackbone

    def __init__(
        self, tokenizer: keras_hub.tokenizers.Tokenizer, sequence_length: int = 512, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if not isinstance(sequence_length, int) or sequence_length < 4:
            raise ValueError(
                f"Expected an integer of at least 4. Received: sequence_length={sequence_length}"
            )
        self.tokenizer = tokenizer
        self.sequence_length = sequence_length
        self._subwords: dict[str, list[int]] = {}

    def subwords(self, words: Sequence[str]) -> list[list[int]]:
        """The list of the numbers of the subwords of each word, at least one."""
        check_words(words)
        new = sorted({word for word in words if word not in self._subwords})
        if new:
            if len(self._subwords) > REMEMBERED:
                self._subwords = {}
                new = sorted(set(words))
            # Byte pairs tell the beginning of a word by the blank before it.
            blank = " " * isinstance(self.tokenizer, keras_hub.tokenizers.BytePairTokenizer)
            texts = [blank + QUOTES.get(word, unescape_word(word)) for word in new]
            unknown = [self._token_id("unk_token_id", "mask_token_id", "pad_token_id")]
            if "[UNK]" in self.tokenizer.get_vocabulary():
                unknown = [self.tokenizer.token_to_id("[UNK]")]
            pieces = self.tokenizer(texts)
            for word, ids in zip(new, pieces, strict=True):
                self._subwords[word] = [int(i) for i in ids] or unknown
        return [self._subwords[word] for word in words]

    def _token_id(self, *names):
        """The number of the first of these tokens that the tokenizer has."""
        found = [getattr(self.tokenizer, name, None) for name in names]
        found = [number for number in found if number is not None]
        if not found:
            received = type(self.tokenizer).__name__
            raise ValueError(f"Expected a tokenizer with one of {names}. Received: {received}")
        return found[0]

    def call(
        self, x: Sequence[str | Sequence[str]], y: Any = None, sample_weight: Any = None
    ) -> Any:
        return keras.utils.pack_x_y_sample_weight(self.arrays(x), y, sample_weight)

    def __call__(
        self, x: Sequence[str | Sequence[str]], y: Any = None, sample_weight: Any = None
    ) -> Any:
        return self.call(x, y, sample_weight)  # lists of words are no tensors for Keras to convert

    def arrays(
        self, sentences: Sequence[Sequence[str]], few_shapes: bool = False
    ) -> dict[str, np.ndarray]:
        """The dict of arrays of a batch, with `few_shapes` of sizes that `padded_size` gives."""
        cls = self._token_id("cls_token_id", "start_token_id")
        sep = self._token_id("sep_token_id", "end_token_id")
        rows: list[list[int]] = []
        places: list[list[tuple[int, int, int]]] = []
        for words in sentences:
            windows, where = self._windows(self.subwords(words))
            places.append([(len(rows) + row, first, last) for row, first, last in where])
            rows += [[cls, *window, sep] for window in windows]
        sizes = len(rows), max(map(len, rows)), len(sentences), max(1, *map(len, places))
        if few_shapes:
            sizes = tuple(map(padded_size, sizes, (1, LEAST_LENGTH, 1, LEAST_WORDS)))
        rows_to, length, count, widest = sizes
        length = min(length, self.sequence_length)
        shape = rows_to, length
        token_ids = np.full(shape, self.tokenizer.pad_token_id)
        padding_mask = np.zeros(shape, "int32")
        for number, window in enumerate(rows):
            token_ids[number, : len(window)] = window
            padding_mask[number, : len(window)] = 1
        found = np.full((count, widest, 2), -1)
        for number, where in enumerate(places):
            for word, (row, first, last) in enumerate(where):
                found[number, word] = row * length + first + 1, row * length + last + 1
        return {
            "token_ids": token_ids.astype("int32"),
            "segment_ids": np.zeros_like(padding_mask),
            "padding_mask": padding_mask,
            "places": found.astype("int32"),
        }

    def _windows(self, subwords):
        """Windows of subwords, and for each word the window, its first and its last subword."""
        ends = np.cumsum([len(pieces) for pieces in subwords]).tolist()
        flat = [piece for pieces in subwords for piece in pieces]
        size = self.sequence_length - 2
        step = max(1, size // 2)
        starts = [0, *range(step, len(flat) - size + step, step)] if len(flat) > size else [0]
        where, row = [], 0
        for pieces, end in zip(subwords, ends, strict=True):
            first, last = end - len(pieces), end - 1
            # On to the next window when it holds the word and has it farther from its ends.
            while row + 1 < len(starts) and (first + last) / 2 >= starts[row + 1] + size / 4:
                row += 1
            low, high = starts[row], starts[row] + size - 1
            where.append((row, *(min(max(at, low), high) - low for at in (first, last))))
        return [flat[start : start + size] for start in starts], where

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "tokenizer": keras.layers.serialize(self.tokenizer),
            "sequence_length": self.sequence_length,
        }
