"""What the parsers of text share: backbone, words, batches, results in order."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import keras
import keras_hub
import numpy as np

from keras_struct.layers import export_saved_model
from keras_struct.layers.annotations import StrPath
from keras_struct.parsers import TreeDecoder
from keras_struct.runs import check_text
from keras_struct.runs.model_data import reading_model
from keras_struct.treebank.batches import batches_by_length, padded_size
from keras_struct.treebank.compact_preset import load_compact_preset, preset_folder
from keras_struct.treebank.preprocessor import LEAST_LENGTH, ParserPreprocessor, check_words
from keras_struct.treebank.text import Sentence, read_sentences, sentences_of
from keras_struct.treebank.word_pooling import WordPooling

BATCH_TOKENS = 2048
MAX_WORDS = 600
LOOKAHEAD = 2048
DECODINGS = ("tree", "minimum_risk")
ENDS = frozenset(".!?;:,")


class ParserTask(keras_hub.models.Task):
    """Base class of `ConstituencyParser` and `DependencyParser`.

    A subclass implements `result(words, tree, tags, marginals)` for one sentence and
    `joined(parses)`, which makes one result of those of the pieces of a long sentence.

    Args:
        backbone: `keras_hub.models.BertBackbone`, or another of KerasHub that makes a state of each
            token: RoBERTa, DistilBERT, DeBERTa, ALBERT, ELECTRA, ...
        preprocessor: `ParserPreprocessor`; None to call the model with arrays only.
        head: Parser head, see `keras_struct.parsers`.
        labels: Names of the labels or relations.
        tags: Names of the part-of-speech tags.
        dropout: Rate for the states of words.
        decoding: `"tree"`, the best tree, or `"minimum_risk"`, see `TreeDecoder`.
        decoder_options: Its other options.
        **kwargs: `name`.
    """

    backbone_cls = keras_hub.models.BertBackbone
    preprocessor_cls = ParserPreprocessor

    def __init__(
        self,
        backbone,
        preprocessor,
        head,
        labels,
        tags,
        dropout,
        decoding,
        decoder_options=None,
        **kwargs,
    ):
        if decoding not in DECODINGS:
            raise ValueError(f"Expected one of {DECODINGS}. Received: decoding={decoding!r}")
        pooling = WordPooling(name="word_pooling")
        word_dropout = keras.layers.Dropout(dropout, name="word_dropout")
        tag_scores = keras.layers.Dense(len(tags), name="tags", dtype="float32")

        def scores(states, places):
            """Packed scores of trees, and scores of tags, from the states of subwords."""
            words = word_dropout(pooling([states, places]))
            return {"tree": head(words), "tags": tag_scores(words)}

        places = keras.Input((None, 2), dtype="int32", name="places")
        states = backbone(backbone.input)
        states = states["sequence_output"] if isinstance(states, dict) else states
        super().__init__(
            inputs={**backbone.input, "places": places},
            outputs=scores(states, places),
            compile=False,
            **kwargs,
        )
        self.backbone = backbone
        self.preprocessor = preprocessor
        self.scores_of_states = scores
        self.labels, self.tags, self.dropout = list(labels), list(tags), dropout
        self.decoding, self.decoder_options = decoding, decoder_options or {}
        self._models = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Parses of a list of raw texts or of lists of words; else as any Keras model."""
        sentences = args[0] if args else None
        if isinstance(sentences, (str, list, tuple)) and not any(
            hasattr(sentence, "dtype") for sentence in sentences
        ):
            return list(self.parse(sentences, **kwargs))
        if isinstance(sentences, dict):
            args = (self.needed(sentences), *args[1:])
        return super().__call__(*args, **kwargs)

    def needed(self, arrays: dict[str, Any]) -> dict[str, Any]:
        """Of the arrays of a `ParserPreprocessor` those that the backbone reads, and the places."""
        return {name: value for name, value in arrays.items() if name in self.input}

    def fit(
        self, x: Any = None, y: Any = None, batch_tokens: int = 1200, **options: Any
    ) -> keras.callbacks.History:
        """Train on gold trees, or on what any Keras model is trained on.

        Args:
            x: List of gold trees, `parsers.Tree` or `conllu.TokenList`; they are put into batches,
                in another order each epoch. Or arrays, batches or a dataset of the model's inputs.
            y: Targets of arrays, a dict of `"tree"` and `"tags"`.
            batch_tokens: Most subwords of a batch of trees.
            **options: See `keras.Model.fit`.

        Returns:
            `keras.callbacks.History`. A parser that is not compiled is compiled with AdamW, the
            likelihood of trees and the cross-entropy of tags.

        Raises:
            ValueError: If there are no trees, or a tree has no words.
        """
        from keras_struct.treebank.tree_batches import TreeBatches, compile_parser

        if not self.compiled:
            compile_parser(self)
        if isinstance(x, (list, tuple)) and y is None:
            x = TreeBatches(self, x, batch_tokens)
        elif isinstance(x, dict):
            x = self.needed(x)
        # KerasHub would run its own preprocessing over what are arrays already.
        return keras.Model.fit(self, x, y, **options)

    def inference_model(self, probabilities: bool = False) -> keras.Model:
        """The model from arrays to trees and tags, and marginals: what `parse` runs and exports.

        Returns:
            `keras.Model` with a dict of outputs: `"tree"`, see `TreeDecoder`; `"tags"`, int32
            `(B, N)`; with probabilities also `"marginals"`, `(B, N, N, K)`.
        """
        if probabilities not in self._models:
            packed, tags = self.output["tree"], self.output["tags"]
            tree = TreeDecoder(self.decoding, **self.decoder_options)(packed)
            outputs = {"tree": tree, "tags": keras.ops.argmax(tags, axis=-1)}
            if probabilities:
                outputs["marginals"] = TreeDecoder("marginals")(packed)
            self._models[probabilities] = keras.Model(self.input, outputs)
        return self._models[probabilities]

    def parse(
        self,
        sentences: Iterable[str | Sequence[str]],
        batch_tokens: int = BATCH_TOKENS,
        probabilities: bool = False,
        max_words: int = MAX_WORDS,
        lookahead: int = LOOKAHEAD,
        skipped: Callable[[Exception], object] | None = None,
    ) -> Iterator[Any]:
        """Parse a stream of sentences, in batches of like length.

        Args:
            sentences: Iterable, without end if need be, of raw texts (each of any number of
                sentences) or of sentences as lists of words. Or an open text file, whose paragraphs
                are such texts: lines may end anywhere, a blank line ends a sentence.
            batch_tokens: Most subwords of a batch, padding included.
            probabilities: Whether to give the probability of every part.
            max_words: Longer sentences are parsed in pieces of at most so many words, cut after
                punctuation where there is some, and the trees of the pieces joined: time grows with
                the cube and memory with the square of this number.
            lookahead: How many sentences are taken from the stream before the first is parsed; more
                make batches of more equal lengths, fewer make results come sooner.
            skipped: Called with the error of a sentence or text that cannot be parsed, which is
                left out; None raises.

        Yields:
            One result for every sentence, in order; its words are a `Sentence`, which knows the
            text and the offsets in it where there was a text.

        Raises:
            ValueError: If a sentence is neither, a text stands alone, not in a list, or a number is
                not positive.
        """
        if self.preprocessor is None:
            raise ValueError("Expected a parser with a preprocessor. Received: preprocessor=None")
        numbers = {"batch_tokens": batch_tokens, "max_words": max_words, "lookahead": lookahead}
        for name, value in numbers.items():
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"Expected a positive integer. Received: {name}={value}")
        if isinstance(sentences, str):
            raise ValueError(f"Expected a list of texts. Received: the text {sentences[:80]!r}")
        words = _words(sentences, skipped)
        return self._parse(words, batch_tokens, probabilities, max_words, lookahead)

    def _parse(self, sentences, batch_tokens, probabilities, max_words, lookahead):
        while chunk := list(itertools.islice(sentences, lookahead)):
            cut = [_pieces(words, max_words) for words in chunk]
            pieces = list(itertools.chain.from_iterable(cut))
            subwords = [sum(map(len, self.preprocessor.subwords(words))) + 2 for words in pieces]
            sizes = [padded_size(n, LEAST_LENGTH) for n in subwords]
            found = [None] * len(pieces)
            for batch in batches_by_length(sizes, batch_tokens):
                parses = self._parse_batch([pieces[i] for i in batch], probabilities)
                for i, parse in zip(batch, parses, strict=True):
                    found[i] = parse
            parses = iter(found)
            for words, parts in zip(chunk, cut, strict=True):
                whole = list(itertools.islice(parses, len(parts)))
                tree: Any = whole[0] if len(whole) == 1 else self.joined(whole)
                yield tree._replace(words=words)

    def _parse_batch(self, sentences, probabilities):
        arrays = self.preprocessor.arrays(sentences, few_shapes=True)
        found = self.inference_model(probabilities).predict_on_batch(self.needed(arrays))
        marginals = found.get("marginals", [None] * len(sentences))
        rows = zip(sentences, found["tree"], found["tags"], marginals, strict=False)
        return [
            self.result(words, np.asarray(tree), [self.tags[k] for k in tags[: len(words)]], p)
            for words, tree, tags, p in rows
        ]

    def result(self, words, tree, tags, marginals):
        """The result of one sentence from its row of the outputs of `inference_model`."""
        raise NotImplementedError

    def joined(self, parses):
        """One result of those of the pieces of a long sentence."""
        raise NotImplementedError

    def export_saved_model(self, path: StrPath, overwrite: bool = False) -> Path:
        """Write a SavedModel that parses in plain TensorFlow.

        It takes the dict of arrays of a `ParserPreprocessor` and returns `"tree"` and `"tags"`, see
        `inference_model`. Beside it, in `assets.extra`, lie the names of labels and tags.

        Args:
            path: Folder to write, whole or not at all.
            overwrite: Whether to replace one that exists.

        Returns:
            The path.
        """
        path = export_saved_model(
            self.inference_model(),
            path,
            overwrite=overwrite,
            import_modules=("keras_struct.treebank",),
        )
        extra = path / "assets.extra"
        extra.mkdir()
        names = {"labels": self.labels, "tags": self.tags}
        (extra / "names.json").write_text(json.dumps(names) + "\n")
        return path

    def export(self, filepath: StrPath, format: str = "tf_saved_model", **kwargs: Any) -> None:
        """As `export_saved_model`, over what is there; for other formats see `keras.Model.export`.

        Args:
            filepath: Folder to write.
            format: `"tf_saved_model"`, on every backend, or another that Keras has for this one;
                then the model that gives scores is exported, not trees.
            **kwargs: See `keras.Model.export`; not for SavedModels.

        Raises:
            ValueError: If there are other arguments for a SavedModel.
        """
        if format != "tf_saved_model":
            super().export(filepath, format=format, **kwargs)
            return
        if unknown := sorted(set(kwargs) - {"verbose"}):
            raise ValueError(f"Expected no options of a SavedModel. Received: {unknown}")
        self.export_saved_model(filepath, overwrite=True)

    def get_config(self):
        return {
            **super().get_config(),
            "labels": self.labels,
            "tags": self.tags,
            "dropout": self.dropout,
            "decoding": self.decoding,
        }

    @classmethod
    def from_preset(cls, preset: StrPath, load_weights: bool = True, **kwargs: Any) -> Self:
        """A parser from the name of a shipped one (see `presets`) or from a folder.

        Args:
            preset: Name, or path of a folder that `save_compact_preset` or `save_to_preset` wrote.
            load_weights: Whether to load the weights.
            **kwargs: See `keras_hub.models.Task.from_preset`.
        """
        folder = preset_folder(preset)
        if folder is not None:
            return load_compact_preset(cls, folder, load_weights)
        if (Path(preset) / "task.json").is_file() and not kwargs:
            return cls._from_folder(Path(preset), load_weights)
        return super().from_preset(preset, load_weights=load_weights, **kwargs)

    @classmethod
    def _from_folder(cls, folder, load_weights):
        """What `save_to_preset` wrote; KerasHub loads a task over one class of backbones only."""
        with reading_model(folder):
            parser = keras.saving.deserialize_keras_object(
                json.loads((folder / "task.json").read_text())
            )
        if not isinstance(parser, cls):
            raise ValueError(
                f"Expected a {cls.__name__}. Received: {folder} with a {type(parser).__name__}"
            )
        with reading_model(folder):
            if parser.preprocessor is not None:
                parser.preprocessor.load_preset_assets(str(folder))
            if load_weights:
                parser.backbone.load_weights(folder / "model.weights.h5")
                parser.load_task_weights(str(folder / "task.weights.h5"))
        return parser


def _words(sentences, skipped):
    """Sentences as lists of words, of raw texts and of sentences that are lists already."""
    if isinstance(sentences, io.TextIOBase):
        name = getattr(sentences, "name", "<stream>")
        try:
            yield from read_sentences(sentences, "text", name, skipped)
        except UnicodeDecodeError as error:
            raise ValueError(f"{name}: {error}") from error
        return
    for number, sentence in enumerate(sentences):
        try:
            if isinstance(sentence, str):
                check_text(sentence)
                found = sentences_of(sentence)
            else:
                check_words(sentence)
                found = [sentence if isinstance(sentence, Sentence) else Sentence(sentence)]
        except ValueError as error:
            if skipped is None:
                raise
            skipped(ValueError(f"sentence {number} of those given: {error}"))
            continue
        yield from found


def _pieces(words, max_words):
    """The sentence in pieces of at most `max_words`, cut after punctuation where there is some."""
    pieces = []
    while len(words) > max_words:
        ends = [i for i in range(max_words // 2, max_words) if words[i] in ENDS]
        cut = ends[-1] + 1 if ends else max_words
        pieces.append(words[:cut])
        words = words[cut:]
    return [*pieces, words]
