"""Gold trees as batches of the inputs and targets of a parser."""

import keras
import numpy as np

from keras_struct import parsers
from keras_struct.treebank.batches import batches_by_length, padded_size
from keras_struct.treebank.gold_trees import KINDS
from keras_struct.treebank.preprocessor import LEAST_LENGTH

UNKNOWN_TAG = "X"
TAG_WEIGHT = 5.0  # of a mean over words, beside the loss of the tree of a sentence


class TagLoss(keras.losses.Loss):
    """Cross-entropy of the tags, for each word."""

    def call(self, y_true, y_pred):
        if len(y_pred.shape) == len(y_true.shape):
            return 0.0 * y_pred  # Keras has taken away the axis of an only tag, which is right
        # Where shapes are worked out PyTorch calls this with ones, too many for an only tag.
        valid = keras.ops.cast(y_true >= 0, y_pred.dtype)
        target = keras.ops.clip(y_true, 0, y_pred.shape[-1] - 1)
        losses = keras.losses.sparse_categorical_crossentropy(target, y_pred, from_logits=True)
        return losses * valid


def compile_parser(model, optimizer=None, loss=None):
    """Compile a model with the outputs of a parser.

    Args:
        model: Keras model with outputs `"tree"` and `"tags"`.
        optimizer: None for AdamW.
        loss: Of the tree; None for `TreeNLL`.
    """
    model.compile(
        keras.optimizers.AdamW(1e-3) if optimizer is None else optimizer,
        loss={
            "tree": parsers.TreeNLL(ignore_index=None) if loss is None else loss,
            "tags": TagLoss(),
        },
        loss_weights={"tree": 1.0, "tags": TAG_WEIGHT},
    )


def kind_of(parser):
    """`"constituency"` or `"dependency"`."""
    return "constituency" if parsers.NULL in parser.labels else "dependency"


class TreeBatches(keras.utils.PyDataset):
    """Batches of gold trees of like length, in another order each epoch.

    Args:
        parser: `ConstituencyParser` or `DependencyParser`; tags that it does not know are its first
            one or `X`, labels of constituents that it does not know are none.
        trees: List of `parsers.Tree` or `conllu.TokenList`.
        batch_tokens: Most subwords of a batch.
        seed: Of the order of the batches.
    """

    def __init__(self, parser, trees, batch_tokens=1200, seed=0):
        super().__init__()
        self.treebank = KINDS[kind_of(parser)]
        self.sentences = [self.treebank.words(tree) for tree in trees]
        if not self.sentences or not all(self.sentences):
            raise ValueError(f"Expected trees with words. Received: {len(trees)} trees")
        known = set(parser.tags)
        unknown = UNKNOWN_TAG if UNKNOWN_TAG in known else parser.tags[0]
        null = parsers.NULL if parsers.NULL in parser.labels else None
        self.labels = parsers.LabelVocabulary(parser.labels, unknown=null)
        self.tags = parsers.LabelVocabulary(parser.tags, unknown=unknown)
        self.parser, self.trees, self.seed = parser, list(trees), seed
        subwords = parser.preprocessor.subwords
        sizes = [sum(map(len, subwords(words))) + 2 for words in self.sentences]
        self.members = batches_by_length(
            [padded_size(n, LEAST_LENGTH) for n in sizes], batch_tokens
        )
        self.start_epoch(0)

    def start_epoch(self, number):
        self.number = number
        self.order = np.random.default_rng([self.seed, number]).permutation(len(self.members))

    def on_epoch_end(self):
        self.start_epoch(self.number + 1)

    def __len__(self):
        return len(self.members)

    def __getitem__(self, index):
        batch = self.members[self.order[index]]
        sentences = [self.sentences[k] for k in batch]
        arrays = self.parser.preprocessor.arrays(sentences, few_shapes=True)
        words = arrays["places"].shape[1]
        targets = [self.treebank.target(self.trees[k], self.labels) for k in batch]
        width = targets[0].shape[1]
        # Rows of a batch may be padded, too; they have no tree.
        rows = arrays["places"].shape[0]
        tree = np.full((rows, 2 * words - 1 if width == 3 else words, width), -1, "int32")
        tags = np.full((rows, words), -1, "int32")
        for row, (k, target) in enumerate(zip(batch, targets, strict=True)):
            tree[row, : len(target)] = target
            numbers = [self.tags.number(tag) for tag in self.treebank.tags(self.trees[k])]
            tags[row, : len(numbers)] = numbers
        return self.parser.needed(arrays), {"tree": tree, "tags": tags}
