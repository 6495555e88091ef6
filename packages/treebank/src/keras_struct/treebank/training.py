"""Training of parsers on treebanks."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import keras_hub
import numpy as np

from keras_struct import parsers
from keras_struct.layers.annotations import StrPath
from keras_struct.layers.whole_files import whole_folder
from keras_struct.runs import claim, digest, digest_of_weights, fit
from keras_struct.runs.checks import check_count, check_positive, check_seed
from keras_struct.treebank.batches import batches_by_length, padded_size
from keras_struct.treebank.compact_preset import check_rank, save_compact_preset
from keras_struct.treebank.constituency_parser import ConstituencyParser
from keras_struct.treebank.dependency_parser import DependencyParser
from keras_struct.treebank.evaluation import evaluate
from keras_struct.treebank.gold_trees import KINDS
from keras_struct.treebank.minilm import minilm_backbone, minilm_tokenizer
from keras_struct.treebank.parser_task import ParserTask
from keras_struct.treebank.preprocessor import LEAST_LENGTH, LEAST_WORDS, ParserPreprocessor
from keras_struct.treebank.tree_batches import UNKNOWN_TAG, compile_parser

LONGEST = 128  # words of a sentence in training; longer ones are left out
JITTER = 4  # subwords by which the sentences of a batch may differ for the sake of variety

# Weights with an axis of labels or tags: which names, and the axis.
BY_NAME = {
    "tags/kernel": ("tags", 1),
    "tags/bias": ("tags", 0),
    "tree/biaffine/kernel": ("labels", 1),
    "tree/relation_scores/kernel": ("labels", 1),
}
PARSERS: dict[str, type[ParserTask]] = {
    "constituency": ConstituencyParser,
    "dependency": DependencyParser,
}


def train(
    kind: str,
    train_files: Sequence[StrPath],
    dev_files: Sequence[StrPath],
    output: StrPath,
    epochs: int = 4,
    learning_rate: float = 4e-4,
    batch_tokens: int = 1200,
    frozen_layers: int | None = 3,
    loss: str = "nll",
    seed: int = 0,
    limit: int | None = None,
    about: str = "",
    backbone: keras_hub.models.Backbone | None = None,
    preprocessor: ParserPreprocessor | None = None,
    start: ParserTask | StrPath | None = None,
    rank: int | None = None,
    restart: bool = False,
    skipped: Callable[[Exception], object] | None = None,
    encoding: str | None = None,
    progress: Callable[[str], None] = print,
    **options: Any,
) -> ParserTask:
    """Train a parser over MiniLM on treebanks.

    The embeddings and the lowest layers stay as they are, so their states are computed once. After
    each epoch the state of the training is stored in `output/checkpoint` and the parser in
    `output/model`; a training that was interrupted, at any moment and in any way, goes on after its
    last epoch, to the same result. What decides it is in `output/training.json`.

    Args:
        kind: `"constituency"` or `"dependency"`.
        train_files: Paths of bracket files, or of CoNLL-U files.
        dev_files: The same, to score after each epoch; may be empty.
        output: Folder, made if need be.
        epochs: How often to see every sentence.
        learning_rate: Highest learning rate of AdamW, reached after a tenth of the steps.
        batch_tokens: Most subwords of a batch.
        frozen_layers: How many layers of the backbone stay as they are, and its embeddings with
            them; None trains all of another backbone than MiniLM.
        loss: `"nll"`, `"max_margin"` or `"local"`, the baseline without a structure.
        seed: Seed of everything.
        limit: Most sentences to train on; None for all.
        about: What the treebanks are, stored with the model.
        backbone: Another backbone than MiniLM; then the model is stored by `save_to_preset`.
        preprocessor: Its preprocessor.
        start: Another parser of this kind, or its preset, to begin with: the weights that have the
            same shapes, and those of the labels and tags that both have.
        rank: Of the changes of MiniLM's matrices that are stored, see `save_compact_preset`. Scores
            after an epoch are those of the whole changes.
        restart: Whether to begin anew where `output` holds a training, this one or another.
        skipped: Called with the error of a malformed gold tree, which is left out; None raises.
        encoding: Of the files; None for that of their byte-order marks, or else UTF-8.
        progress: Called with a line of text after each epoch.
        **options: Of `ConstituencyParser` or `DependencyParser`.

    Returns:
        The trained parser.

    Raises:
        ValueError: For arguments that do not fit, before anything is read; if `output` holds
            another training: the message names what differs.
        FileNotFoundError: If a file does not exist, the same.
    """
    losses: dict[str, Any] = {
        "nll": functools.partial(parsers.TreeNLL, ignore_index=None),  # gold trees are whole
        "max_margin": parsers.TreeMaxMargin,
        "local": parsers.LocalCrossEntropy,
    }
    for name, value, known in (("kind", kind, PARSERS), ("loss", loss, losses)):
        if value not in known:
            raise ValueError(f"Expected one of {list(known)}. Received: {name}={value!r}")
    missing = [str(f) for f in [*train_files, *dev_files] if not Path(f).is_file()]
    if missing:
        raise FileNotFoundError(f"Expected existing files. Received: {missing}")
    if not train_files:
        raise ValueError(f"Expected files to train on. Received: train_files={train_files}")
    for name, count in (("epochs", epochs), ("batch_tokens", batch_tokens), ("limit", limit)):
        check_count(name, count, none=name == "limit")
    check_positive("learning_rate", learning_rate)
    check_seed(seed)
    compact = backbone is None
    if compact and frozen_layers is None:
        raise ValueError(
            "Expected a number of frozen layers for MiniLM, whose embeddings are not stored. "
            "Received: frozen_layers=None"
        )
    check_rank(rank)
    if not compact and rank is not None:
        raise ValueError(
            "Expected a rank for MiniLM only, since other backbones are stored whole. "
            f"Received: rank={rank}"
        )
    keras.utils.set_random_seed(seed)
    treebank, task = KINDS[kind], PARSERS[kind]
    if isinstance(start, (str, Path)):
        start = task.from_preset(start)
    read = [tree for file in train_files for tree in treebank.read(file, skipped, encoding)][:limit]
    reasons = [_unfit(tree, treebank, options) for tree in read]
    gold = [tree for tree, reason in zip(read, reasons, strict=True) if reason is None]
    unfit = Counter(reason for reason in reasons if reason is not None)
    if not gold:
        raise ValueError(f"Expected trees to train on. Received: none; left out: {dict(unfit)}")
    dev = [tree for file in dev_files for tree in treebank.read(file, skipped, encoding)]
    labels = treebank.labels(gold)
    tags = parsers.LabelVocabulary.of(
        [tag for tree in gold for tag in treebank.tags(tree)], [UNKNOWN_TAG], unknown=UNKNOWN_TAG
    )
    if compact:
        backbone, preprocessor = minilm_backbone(), ParserPreprocessor(minilm_tokenizer())
    parser = task(backbone, preprocessor, labels=labels.labels, tags=tags.labels, **options)
    freeze(backbone, frozen_layers)
    if start is not None:
        kept = {w.path for w in parser.backbone.non_trainable_weights} if compact else ()
        start_from(parser, start, kept)
    output = Path(output)
    decisions = {
        "kind": kind,
        "train files": [digest([Path(file).read_bytes()]) for file in train_files],
        "dev files": [digest([Path(file).read_bytes()]) for file in dev_files],
        "epochs": epochs,
        "learning_rate": learning_rate,
        "batch_tokens": batch_tokens,
        "frozen_layers": frozen_layers,
        "loss": loss,
        "seed": seed,
        "limit": limit,
        "about": about,
        "rank": rank,
        "options": {**options, "dropout": parser.dropout},
        "labels": parser.labels,
        "tags": parser.tags,
        "weights at the start": digest_of_weights(parser.weights),
        "backend": keras.backend.backend(),
        "dtype policy": keras.config.dtype_policy().name,
    }
    claim(output, decisions, restart)
    progress(
        f"{len(gold)} sentences to train on, {len(dev)} to score; {len(labels)} labels, "
        f"{len(tags)} tags; frozen layers run once over all sentences"
    )
    if unfit:
        progress("not trained on: " + ", ".join(f"{n} {reason}" for reason, n in unfit.items()))
    batches = _Batches(
        _encode(parser, [treebank.words(tree) for tree in gold], frozen_layers),
        [treebank.target(tree, labels) for tree in gold],
        [[tags.number(tag) for tag in treebank.tags(tree)] for tree in gold],
        batch_tokens,
        seed,
    )
    model = upper_model(parser, frozen_layers)
    steps = len(batches) * epochs
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, steps, warmup_target=learning_rate, warmup_steps=max(1, min(300, steps // 10))
    )
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=0.01, global_clipnorm=1.0)
    compile_parser(model, optimizer, losses[loss]())

    def publish(rows):
        if compact:
            save_compact_preset(parser, output / "model", about, rank)
        else:
            with whole_folder(output / "model") as new:
                parser.save_to_preset(str(new))

    fit(
        *(model, batches, epochs, seed, output),
        score=lambda: evaluate(parser, dev) if dev else {},
        publish=publish,
        progress=progress,
    )
    return parser


def _unfit(tree, treebank, options):
    """Why a tree is not trained on; None if it is."""
    if not 0 < len(treebank.words(tree)) <= LONGEST:
        return f"sentences of more than {LONGEST} words"
    return None if treebank.fits(tree, options) else "trees that are not projective"


def start_from(parser, other, kept=()):
    """Give a parser the weights of another one, those of labels and tags by their names.

    Args:
        parser: `ConstituencyParser` or `DependencyParser`.
        other: Another one with the same sizes, labels and tags aside.
        kept: Paths of the weights that must be the same already.

    Raises:
        ValueError: If the other parser has not all weights of the parser, or other sizes.
    """
    theirs = {w.path: keras.ops.convert_to_numpy(w) for w in other.weights}
    for weight in parser.weights:
        path, ours = weight.path, keras.ops.convert_to_numpy(weight)
        if "seed_generator" in path:
            continue
        value = theirs.get(path)
        if path in BY_NAME and value is not None:
            names, axis = BY_NAME[path]
            value = _by_names(ours, value, axis, getattr(parser, names), getattr(other, names))
        if value is None or value.shape != ours.shape:
            shape = None if value is None else value.shape
            raise ValueError(
                f"Expected a start with weights {path} of shape {ours.shape}, labels aside. "
                f"Received: shape={shape}"
            )
        if path in kept and not np.array_equal(value, ours):
            raise ValueError(
                "Expected a start with the same frozen layers; train with fewer of them. "
                f"Received: other weights {path}"
            )
        weight.assign(value)


def _by_names(ours, theirs, axis, our_names, their_names):
    """Their weights in the order of our names; ours where they do not have the name."""
    ours, theirs = np.moveaxis(ours, axis, 0), np.moveaxis(theirs, axis, 0)
    rows = [
        theirs[their_names.index(name)] if name in their_names else ours[number]
        for number, name in enumerate(our_names)
    ]
    if len({row.shape for row in rows}) > 1:
        return theirs
    return np.moveaxis(np.stack(rows), 0, axis)


def freeze(backbone, layers):
    """Make the embeddings and the lowest layers of a backbone not trainable; None: nothing."""
    if layers is None:
        for layer in backbone.layers:
            # A summary of all subwords is no part of a parser; weight decay would change it.
            layer.trainable = layer is not getattr(backbone, "pooled_dense", None)
        return
    plain = getattr(backbone, "transformer_layers", ())
    if not plain or not all(isinstance(x, keras_hub.layers.TransformerEncoder) for x in plain):
        raise ValueError(
            "Expected frozen_layers=None for a backbone whose layers read more than states and a "
            f"mask. Received: frozen_layers={layers}, {type(backbone).__name__}"
        )
    if not 0 <= layers <= len(backbone.transformer_layers):
        raise ValueError(
            f"Expected 0 to {len(backbone.transformer_layers)} frozen layers. "
            f"Received: frozen_layers={layers}"
        )
    upper = {id(layer) for layer in backbone.transformer_layers[layers:]}
    for layer in backbone.layers:
        layer.trainable = id(layer) in upper


def upper_model(parser, frozen_layers):
    """The model from the states of the frozen layers to the outputs of a parser; weights shared.

    Where nothing is frozen, from subwords (B, L, 1).
    """
    backbone = parser.backbone
    width, dtype = (1, "int32") if frozen_layers is None else (backbone.hidden_dim, "float32")
    states = keras.Input((None, width), dtype=dtype, name="states")
    mask = keras.Input((None,), dtype="int32", name="padding_mask")
    places = keras.Input((None, 2), dtype="int32", name="places")
    if frozen_layers is None:
        token_ids = states[:, :, 0]
        segment_ids = keras.ops.zeros_like(token_ids)
        x = {"token_ids": token_ids, "segment_ids": segment_ids, "padding_mask": mask}
        x = backbone({name: x[name] for name in backbone.input})
        x = x["sequence_output"] if isinstance(x, dict) else x
    else:
        x = states
        for layer in backbone.transformer_layers[frozen_layers:]:
            x = layer(x, padding_mask=mask)
    inputs = {"states": states, "padding_mask": mask, "places": places}
    return keras.Model(inputs, parser.scores_of_states(x, places))


def _encode(parser, sentences, frozen_layers):
    """For each sentence the states of the frozen layers, in half precision, and its places.

    Where nothing is frozen, its subwords instead of states.
    """
    backbone, preprocessor = parser.backbone, parser.preprocessor
    if frozen_layers is not None:
        layers = backbone.transformer_layers
        upper = layers[frozen_layers:]
        lower = keras.Model(backbone.input, upper[0].input[0] if upper else layers[-1].output)
    sizes = [sum(map(len, preprocessor.subwords(words))) + 2 for words in sentences]
    encoded = [None] * len(sentences)
    # Sentences of several windows are left out.
    short = [i for i, size in enumerate(sizes) if size <= preprocessor.sequence_length]
    for batch in batches_by_length([sizes[i] for i in short], 4096):
        batch = [short[k] for k in batch]
        arrays = preprocessor.arrays([sentences[i] for i in batch], few_shapes=True)
        places, length = arrays.pop("places"), arrays["token_ids"].shape[1]
        if frozen_layers is None:
            states = arrays["token_ids"][:, :, None]
        else:
            arrays = {name: arrays[name] for name in backbone.input}
            states = keras.ops.convert_to_numpy(lower.predict_on_batch(arrays)).astype("float16")
        for row, i in enumerate(batch):
            words = len(sentences[i])
            encoded[i] = states[row, : sizes[i]], places[row, :words] - row * length
    return encoded


class _Batches(keras.utils.PyDataset):
    """Batches of like length, other ones in another order each epoch."""

    def __init__(self, encoded, targets, tags, budget, seed):
        super().__init__()
        self.encoded, self.targets, self.tags = encoded, targets, tags
        self.seed = seed
        self.known = np.array([i for i, e in enumerate(encoded) if e is not None])
        self.sizes = np.array([len(encoded[i][0]) for i in self.known])
        padded = [padded_size(size, LEAST_LENGTH) for size in self.sizes.tolist()]
        self.ends = np.cumsum([len(batch) for batch in batches_by_length(padded, budget)])[:-1]
        self.start_epoch(0)

    def __len__(self):
        return len(self.batches)

    def start_epoch(self, number):
        """Sentences change places with those of nearly their length."""
        generator = np.random.default_rng([self.seed, number])
        order = np.argsort(self.sizes + JITTER * generator.random(len(self.sizes)))
        self.batches = [self.known[batch] for batch in np.split(order, self.ends)]
        generator.shuffle(self.batches)

    def __getitem__(self, index):
        batch = self.batches[index]
        length, words = (
            padded_size(max(len(self.encoded[i][k]) for i in batch), least)
            for k, least in enumerate((LEAST_LENGTH, LEAST_WORDS))
        )
        first = self.encoded[batch[0]][0]
        dtype = "float32" if first.dtype == "float16" else first.dtype
        pairs = self.targets[batch[0]].shape[1]
        x = {
            "states": np.zeros((len(batch), length, first.shape[1]), dtype),
            "padding_mask": np.zeros((len(batch), length), "int32"),
            "places": np.full((len(batch), words, 2), -1, "int32"),
        }
        rows = 2 * words - 1 if pairs == 3 else words
        tree = np.full((len(batch), rows, pairs), -1, "int32")
        tags = np.full((len(batch), words), -1, "int32")
        for row, i in enumerate(batch):
            states, places = self.encoded[i]
            x["states"][row, : len(states)] = states
            x["padding_mask"][row, : len(states)] = 1
            x["places"][row, : len(places)] = places + row * length
            tree[row, : len(self.targets[i])] = self.targets[i]
            tags[row, : len(self.tags[i])] = self.tags[i]
        return x, {"tree": tree, "tags": tags}
