"""Training on generated treebanks, interrupted and resumed."""

import json

import keras
import numpy as np
import pytest

from keras_struct import parsers, treebank
from keras_struct.ops.testing import BACKEND, HAS_GRADIENTS
from keras_struct.treebank.tiny import tiny_backbone, tiny_preprocessor, tiny_sentences
from keras_struct.treebank.training import start_from

COMPILED = BACKEND in ("jax", "tensorflow")
PRONOUNS = {"we", "they", "it"}


def constituency_file(path):
    """Right-branching trees whose labels follow from the words."""
    lines = []
    for words in tiny_sentences(40, 5):
        leaves = [parsers.Tree(w.upper().strip("()") or "PU", w.strip("()") or "x") for w in words]
        parts = [
            parsers.Tree("NP", [leaf]) if w in PRONOUNS else leaf
            for w, leaf in zip(words, leaves, strict=True)
        ]
        lines.append(str(parsers.Tree("S", parts)))
    path.write_text("\n".join(lines))
    return path


def dependency_file(path):
    """Every word depends on the one before."""
    sentences = []
    for words in tiny_sentences(40, 5):
        tags = ["NOUN" if word in PRONOUNS else "VERB" for word in words]
        relations = ["root", *["obj" if tag == "NOUN" else "dep" for tag in tags[1:]]]
        sentence = parsers.new_sentence(words, tags)
        sentences.append(parsers.with_arcs(sentence, range(len(words)), relations))
    path.write_text("".join(sentence.serialize() for sentence in sentences))
    return path


def options(tmp_path, backbone_seed=1, **more):
    keras.utils.set_random_seed(backbone_seed)  # the same backbone each time, as a preset would be
    return {
        "output": tmp_path / "run",
        "backbone": tiny_backbone(),
        "preprocessor": tiny_preprocessor(),
        "frozen_layers": 1,
        "learning_rate": 1e-2,
        "batch_tokens": 70,
        "progress": lambda line: None,
        "dropout": 0.0,
        **more,
    }


@pytest.mark.compiles_long
@pytest.mark.skipif(not HAS_GRADIENTS, reason="the NumPy backend has no gradients")
# One kind where each is compiled for seconds.
@pytest.mark.parametrize("kind", ["dependency", "constituency"][: 1 if COMPILED else 2])
def test_training_learns_and_goes_on_where_it_stopped(kind, tmp_path):
    make = constituency_file if kind == "constituency" else dependency_file
    file = make(tmp_path / "gold")

    def interrupt(line):
        if line.startswith("epoch 2 "):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        treebank.train(kind, [file], [file], epochs=24, **options(tmp_path, progress=interrupt))
    progress: list[str] = []
    parser = treebank.train(
        kind, [file], [file], epochs=24, **options(tmp_path, progress=progress.append)
    )
    rows = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").open()]
    assert [row["epoch"] for row in rows] == list(range(1, 25))
    assert rows[-1]["loss"] < rows[0]["loss"] / 2
    score = rows[-1]["bracket F1" if kind == "constituency" else "LAS"]
    assert score > 0.85
    assert rows[-1]["tags"] > 0.85
    assert len(progress) == 23
    again = type(parser).from_preset(str(tmp_path / "run" / "model"))
    words = tiny_sentences(5, 5)
    assert again(words) == parser(words)
    # What decides it is named; the checkpoint does not hold the frozen layers, for example.
    for more, message in (
        ({"dev_files": [], "backbone_seed": 2}, "other dev files, other weights at the start"),
        ({"epochs": 25, "seed": 3, "loss": "local"}, 'epochs=25, .*, loss="local", .*, seed=3, '),
    ):
        chosen = {"dev_files": [file], "epochs": 24, **options(tmp_path, **more)}
        with pytest.raises(ValueError, match=message):
            treebank.train(kind, [file], **chosen)


def test_arguments(tmp_path):
    good = tmp_path / "gold"
    good.write_text("(S (X x))")
    for error, message, call in (
        (ValueError, "kind='ccg'", ("ccg", [good], [])),
        (FileNotFoundError, "Expected existing files", ("constituency", [tmp_path / "no"], [])),
        (ValueError, "train_files", ("constituency", [], [])),
    ):
        with pytest.raises(error, match=message):
            treebank.train(*call, **options(tmp_path))
    with pytest.raises(ValueError, match="loss='l2'"):
        treebank.train("constituency", [good], [], loss="l2", **options(tmp_path))
    with pytest.raises(ValueError, match="frozen_layers=3"):
        treebank.train("constituency", [good], [], **options(tmp_path, frozen_layers=3))
    for rank, backbone in ((0, None), (8, tiny_backbone())):
        with pytest.raises(ValueError, match=f"rank={rank}"):
            chosen = options(tmp_path, rank=rank, backbone=backbone)
            treebank.train("constituency", [good], [], **chosen)
    with pytest.raises(ValueError, match="frozen_layers=None"):
        treebank.train(
            "constituency", [good], [], **options(tmp_path, frozen_layers=None, backbone=None)
        )


@pytest.mark.compiles_long
@pytest.mark.skipif(not HAS_GRADIENTS, reason="the NumPy backend has no gradients")
@pytest.mark.parametrize("frozen_layers", [None, 0, 2])
def test_what_is_frozen_stays_and_all_else_is_trained(frozen_layers, tmp_path):
    chosen = options(tmp_path, frozen_layers=frozen_layers)
    before = {w.path: keras.ops.convert_to_numpy(w) for w in chosen["backbone"].weights}
    file = dependency_file(tmp_path / "gold")
    parser = treebank.train("dependency", [file], [], epochs=1, **chosen)
    changed = {
        w.path.split("/")[0]
        for w in parser.backbone.weights
        if not np.array_equal(before[w.path], keras.ops.convert_to_numpy(w))
    }
    layers = {"transformer_layer_0", "transformer_layer_1"}
    embeddings = {"token_embedding", "position_embedding", "segment_embedding"}
    wanted = {None: layers | embeddings | {"embeddings_layer_norm"}, 0: layers, 2: set()}
    assert changed == wanted[frozen_layers]


def test_batches_hold_every_sentence_once_in_another_order_each_epoch():
    from keras_struct.treebank.training import _Batches

    encoded: list = [
        (np.zeros((n + 2, 3), "float16"), np.ones((n, 2), "int32")) for n in (1, 4, 2, 3)
    ]
    encoded.append(None)
    targets = [np.zeros((n, 2), "int32") for n in (1, 4, 2, 3, 9)]
    batches = _Batches(encoded, targets, [[0] * len(t) for t in targets], 6, seed=0)
    assert sorted(i for batch in batches.batches for i in batch) == [0, 1, 2, 3]
    orders = set()
    for _ in range(8):
        orders.add(str(batches.batches))
        batches.start_epoch(len(orders))
    assert len(orders) > 1
    batches.start_epoch(0)
    assert str(batches.batches) in orders
    for index in range(len(batches)):
        x, y = batches[index]
        words = (y["tags"] >= 0).sum(axis=1)
        assert (x["padding_mask"].sum(axis=1) == words + 2).all()


def test_a_start_gives_the_weights_of_the_labels_and_tags_that_both_have():
    def parser(kind, labels, tags, **options):
        task = treebank.ConstituencyParser if kind == "constituency" else treebank.DependencyParser
        return task(tiny_backbone(), tiny_preprocessor(), labels, tags, **options)

    def values(parser):
        return {w.path: keras.ops.convert_to_numpy(w) for w in parser.weights}

    for kind, kernel in (
        ("constituency", "tree/biaffine/kernel"),
        ("dependency", "tree/relation_scores/kernel"),
    ):
        old = parser(kind, ["@", "NP", "S"], ["DT", "NN", "VB"])
        # As many labels, in another order; fewer tags.
        new = parser(kind, ["@", "S", "X"], ["VB", "XX"])
        before, theirs = values(new), values(old)
        start_from(new, old)
        ours = values(new)
        np.testing.assert_array_equal(ours[kernel][:, :2], theirs[kernel][:, [0, 2]])
        np.testing.assert_array_equal(ours[kernel][:, 2], before[kernel][:, 2])
        np.testing.assert_array_equal(ours["tags/kernel"][:, 0], theirs["tags/kernel"][:, 2])
        np.testing.assert_array_equal(ours["tags/kernel"][:, 1], before["tags/kernel"][:, 1])
        for path in ours:
            if path != kernel and not path.startswith("tags/"):
                np.testing.assert_array_equal(ours[path], theirs[path])
    with pytest.raises(ValueError, match="labels aside"):
        start_from(new, parser("dependency", ["@", "S", "X"], ["VB"], relation_dim=7))
    with pytest.raises(ValueError, match="labels aside"):
        start_from(new, parser("constituency", ["@", "S", "X"], ["VB"]))
    frozen = "token_embedding/embeddings"
    assert frozen in values(new)
    with pytest.raises(ValueError, match="the same frozen layers"):
        start_from(new, parser("dependency", ["@", "S", "X"], ["VB"]), kept=[frozen])
