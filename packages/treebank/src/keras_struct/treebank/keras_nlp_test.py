"""The pipeline under its older name, `keras_nlp`, and over other backbones than BERT."""

import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import keras_nlp
import numpy as np
import pytest

from keras_struct import parsers, treebank
from keras_struct.ops.testing import BACKEND, HAS_GRADIENTS, PLAIN_TENSORFLOW
from keras_struct.treebank.tiny import VOCABULARY, tiny_sentences

pytestmark = pytest.mark.skipif(
    BACKEND not in ("torch", "numpy"), reason="backbones are KerasHub's on every backend"
)
SIZES = {
    "vocabulary_size": len(VOCABULARY),
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 16,
    "intermediate_dim": 16,
    "max_sequence_length": 32,
    "dropout": 0.0,
}
BACKBONES = ["Bert", "Roberta", "DistilBert", "DebertaV3", "Electra", "Albert"]


def parser_over(name, kind="dependency"):
    keras.utils.set_random_seed(1)
    sizes = dict(SIZES)
    if name in ("Albert", "Electra"):
        sizes["embedding_dim"] = 8
    if name == "Electra":
        sizes["vocab_size"] = sizes.pop("vocabulary_size")
    if name == "Roberta":
        merges = ["\u0120 w", "\u0120w e", "l e", "t h"]
        letters = [chr(k) for k in range(97, 123)]
        tokens = [
            "<s>",
            "<pad>",
            "</s>",
            "<mask>",
            *"\u0120.,()",
            "\u0120w",
            "\u0120we",
            "le",
            "th",
        ]
        vocabulary = {token: k for k, token in enumerate([*tokens, *letters])}
        tokenizer = keras_nlp.models.RobertaTokenizer(vocabulary, merges)
        sizes["vocabulary_size"] = len(vocabulary)
    else:
        tokenizer = keras_nlp.models.BertTokenizer(VOCABULARY, lowercase=True)
    backbone = getattr(keras_nlp.models, f"{name}Backbone")(**sizes)
    preprocessor = treebank.ParserPreprocessor(tokenizer, sequence_length=32)
    if kind == "constituency":
        labels = [parsers.NULL, "S", "NP"]
        return treebank.ConstituencyParser(backbone, preprocessor, labels, ["X"], dropout=0.0)
    return treebank.DependencyParser(backbone, preprocessor, ["root", "dep"], ["X"], dropout=0.0)


def chains(count):
    """Gold trees in which every word depends on the one before."""
    return [
        parsers.with_arcs(
            parsers.new_sentence(words, ["X"] * len(words)),
            range(len(words)),
            ["root", *["dep"] * (len(words) - 1)],
        )
        for words in tiny_sentences(count, 5)
    ]


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_parses_trains_and_comes_back(name, tmp_path):
    parser = parser_over(name)
    assert isinstance(parser, keras_nlp.models.Task)
    texts = ["We left early.", "They saw it, we left."]
    assert [len(parse.words) for parse in parser(texts)] == [4, 7]
    if HAS_GRADIENTS:
        history = parser.fit(chains(20), epochs=6, verbose=0).history["loss"]
        assert history[-1] < history[0]
        before = parser(texts)
        parser.save_to_preset(str(tmp_path / "preset"))
        again = type(parser).from_preset(str(tmp_path / "preset"))
        assert again(texts) == before
        assert isinstance(again.backbone, getattr(keras_nlp.models, f"{name}Backbone"))


@pytest.mark.skipif(BACKEND != "torch", reason="a SavedModel takes a process of TensorFlow")
@pytest.mark.parametrize("name", BACKBONES if "EVERY_CASE" in os.environ else ["DebertaV3"])
def test_an_export_parses_in_plain_tensorflow(name, tmp_path):
    parser = parser_over(name)
    sentences = [["we", "left", "."], ["they", "saw", "it", ","]]
    arrays = parser.needed(parser.preprocessor(sentences))
    np.savez(tmp_path / "arrays.npz", **arrays)
    (tmp_path / "saved").mkdir()
    parser.export(tmp_path / "saved", verbose=False)
    program = (
        "import sys, numpy as np, tensorflow as tf\n"
        "model = tf.saved_model.load(sys.argv[1])\n"
        "np.save(sys.argv[3], model.serve(dict(np.load(sys.argv[2])))['tree'].numpy())\n"
    )
    files = [str(tmp_path / file) for file in ("saved", "arrays.npz", "tree.npy")]
    command = [sys.executable, "-c", program, *files]
    subprocess.run(command, check=True, env=PLAIN_TENSORFLOW)
    expected = parser.inference_model().predict_on_batch(arrays)["tree"]
    np.testing.assert_array_equal(np.load(tmp_path / "tree.npy"), expected)
    with pytest.raises(ValueError, match="Expected no options"):
        parser.export(tmp_path / "saved", input_signature=[])


@pytest.mark.skipif(not HAS_GRADIENTS, reason="the NumPy backend has no gradients")
def test_fit_takes_trees_of_both_kinds_and_arrays():
    parser = parser_over("Roberta", "constituency")
    trees = list(parsers.read_trees(["(S (NP (X we)) (ZZ (Q saw) (NP (X it))))", "(S (X left))"]))
    history = parser.fit(trees, epochs=8, verbose=0).history["loss"]
    assert history[-1] < history[0]
    arrays = parser.preprocessor([["we", "left"]])
    targets = {"tree": np.array([[[0, 2, 1], [0, 1, 0], [1, 2, 0]]]), "tags": np.zeros((1, 2), int)}
    assert np.isfinite(parser.fit(arrays, targets, verbose=0).history["loss"]).all()
    with pytest.raises(ValueError, match="Expected trees with words"):
        parser.fit([])


@pytest.mark.skipif(not HAS_GRADIENTS, reason="the NumPy backend has no gradients")
@pytest.mark.parametrize("name", ["Roberta", "DebertaV3"])
def test_a_training_over_another_backbone(name, tmp_path):
    file = tmp_path / "a.conllu"
    file.write_text("".join(sentence.serialize() for sentence in chains(12)))
    parts = parser_over(name)
    options = {"backbone": parts.backbone, "preprocessor": parts.preprocessor, "epochs": 2}
    options |= {"progress": lambda line: None, "dropout": 0.0}
    if name == "DebertaV3":
        with pytest.raises(ValueError, match=r"frozen_layers=None.*DebertaV3Backbone"):
            treebank.train("dependency", [file], [], tmp_path / "a", frozen_layers=1, **options)
    frozen = None if name == "DebertaV3" else 1
    treebank.train("dependency", [file], [file], tmp_path / "b", frozen_layers=frozen, **options)
    again = treebank.DependencyParser.from_preset(str(tmp_path / "b" / "model"))
    assert len(again([["we", "left"]])[0].words) == 2


@pytest.mark.skipif(not HAS_GRADIENTS, reason="the NumPy backend has no gradients")
def test_the_example_of_the_readme(tmp_path, monkeypatch, capsys):
    readme = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
    (code,) = [x for x in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "keras_nlp" in x]
    monkeypatch.chdir(tmp_path)
    keras.utils.set_random_seed(0)
    exec(code, {})  # the text under test
    assert capsys.readouterr().out.strip() in code
