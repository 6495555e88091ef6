"""The parsers of text, with random weights."""

import io
import itertools
import json
import subprocess
import sys
from typing import Any

import keras
import numpy as np
import pytest

from keras_struct import parsers, treebank
from keras_struct.ops.testing import EVERY_CASE, EXPORTS, PLAIN_TENSORFLOW, array
from keras_struct.treebank.preprocessor import ParserPreprocessor
from keras_struct.treebank.tiny import WORDS, tiny_backbone, tiny_parser, tiny_sentences

KINDS = ["constituency", "dependency"]


@pytest.fixture(scope="module", params=KINDS)
def parser(request):
    keras.utils.set_random_seed(1)
    return tiny_parser(request.param, dropout=0.0)


def test_results_come_in_order_and_do_not_depend_on_their_batch(parser):
    sentences = tiny_sentences(13, 9)
    together = list(parser.parse(sentences, batch_tokens=40, probabilities=True))
    assert [list(parse.words) for parse in together] == sentences
    alone = [next(parser.parse([words], probabilities=True)) for words in sentences[:4]]
    for one, other in zip(alone, together, strict=False):
        assert one[:-1] == other[:-1]
        np.testing.assert_allclose(one.probabilities, other.probabilities, rtol=1e-4)
        assert all(0 < p <= 1 + 1e-6 for p in one.probabilities)


def test_results_are_trees(parser):
    for parse in parser(tiny_sentences(5, 7, seed=2)):
        assert len(parse.tags) == len(parse.words)
        if isinstance(parse, treebank.ConstituencyParse):
            (again,) = parsers.read_trees([str(parse.tree)])
            assert again == parse.tree
            spans = [span for span in parsers.tree_spans(again) if span[2]]
            assert len(spans) == len(parse.spans)
        else:
            parsers.check_arcs(parse.sentence)


def test_raw_text_and_lists_of_words(parser):
    texts = ["We left early. They saw it.", "We left (early)."]
    words = [["We", "left", "early", "."], ["They", "saw", "it", "."]]
    words.append(["We", "left", "(", "early", ")", "."])
    assert parser(texts) == parser(words)
    wrong: Any
    for wrong in ("We left.", [["We", ""]], [["We", 3]], [[]], [None], ["We", 3], b"We", [b"We"]):
        with pytest.raises(ValueError, match="Expected a list of"):
            list(parser.parse(wrong))
        if wrong != b"We":
            with pytest.raises(ValueError, match="Expected a list of"):
                parser(wrong)
    skipped: list[Exception] = []
    found = list(parser.parse([["We", ""], "We left.", None, "a\ud800"], skipped=skipped.append))
    assert [parse.words for parse in found] == [["We", "left", "."]]
    assert [str(error)[:10] for error in skipped] == [f"sentence {k}" for k in (0, 2, 3)]
    # An open file is read by paragraphs, wherever its lines end.
    stream = io.StringIO("We\nleft early. They\nsaw it.\n\nWe left (early).\n")
    found = list(parser.parse(stream))
    assert [parse.words for parse in found] == words
    assert found[1].words.offsets[0] == (15, 19)
    with pytest.raises(ValueError, match="batch_tokens=0"):
        parser.parse(words, batch_tokens=0)


def test_an_endless_stream_is_read_as_far_as_needed(parser):
    taken = []

    def endless():
        for number in itertools.count():
            taken.append(number)
            yield [WORDS[number % len(WORDS)]]

    assert [parse.words for parse in itertools.islice(parser.parse(endless(), lookahead=3), 4)] == [
        [word] for word in WORDS[:4]
    ]
    assert len(taken) == 6


@pytest.mark.parametrize("decoding", ["tree", "minimum_risk"])
def test_decoding_is_that_of_the_tree_decoder(decoding):
    parser = tiny_parser("constituency", decoding=decoding, temperature=0.5, threshold=0.3)
    wanted = parsers.TreeDecoder(decoding, 0.5, parser.labels.index(parsers.NULL), 0.3)
    arrays = parser.preprocessor(tiny_sentences(6, 7))
    packed = keras.Model(parser.input, parser.output["tree"])(arrays)
    trees = parser.inference_model()(arrays)["tree"]
    np.testing.assert_array_equal(array(trees), array(wanted(packed)))
    config = parser.get_config()
    assert (config["decoding"], config["temperature"], config["threshold"]) == (decoding, 0.5, 0.3)
    with pytest.raises(ValueError, match="Received: decoding='best'"):
        tiny_parser("dependency", decoding="best")


def test_a_long_sentence_is_parsed_in_pieces(parser):
    words = [*WORDS[:5], ",", *WORDS[:5], "."] * 4
    (parse,) = parser.parse([words], max_words=15, probabilities=True)
    pieces = parser([words[:12], words[12:24], words[24:36], words[36:]])
    assert list(parse.words) == words
    if isinstance(parse, treebank.ConstituencyParse):
        assert len(parse.spans) == sum(len(p.spans) for p in pieces)
        assert parse.probabilities is not None
        assert len(parse.spans) == len(parse.probabilities)
        assert parse.tree.words() == words
    else:
        parsers.check_arcs(parse.sentence)
        assert parse.relations.count("parataxis") == 3
        assert parse.heads[:12] == pieces[0].heads


def test_windows_hold_every_word():
    """Where a word is read lie its own first and last subwords."""
    preprocessor = tiny_parser("dependency", sequence_length=9).preprocessor
    sentences = [words + ["early"] * (n % 3) for n, words in enumerate(tiny_sentences(9, 40))]
    sentences = [[word.replace("early", "earlyly") for word in words] for words in sentences]
    arrays = preprocessor(sentences)
    flat = arrays["token_ids"].ravel()
    assert arrays["token_ids"].shape[1] <= 9
    for words, places in zip(sentences, arrays["places"], strict=True):
        assert (places[len(words) :] == -1).all()
        for subwords, (first, last) in zip(preprocessor.subwords(words), places, strict=False):
            assert flat[first] == subwords[0]
            assert flat[last] == subwords[-1]
            assert first // arrays["token_ids"].shape[1] == last // arrays["token_ids"].shape[1]


def test_a_sentence_of_many_windows(parser):
    short = type(parser).from_config(
        {
            **parser.get_config(),
            "backbone": parser.backbone,
            "preprocessor": ParserPreprocessor(parser.preprocessor.tokenizer, 12),
        }
    )
    words = tiny_sentences(1, 2)[0] + WORDS * 4
    (parse,) = short([words])
    assert list(parse.words) == words


def test_presets_of_kerashub(parser, tmp_path):
    parser.save_to_preset(str(tmp_path / "preset"))
    again = type(parser).from_preset(str(tmp_path / "preset"))
    sentences = tiny_sentences(4, 6)
    assert again(sentences) == parser(sentences)


def read_spans(parser, trees):
    """What is read from padded trees: of binary ones the spans with a label, since the same tree
    has several binary forms, which score the same."""
    trees = np.asarray(trees)
    if not isinstance(parser, treebank.ConstituencyParser):
        return trees.tolist()
    return [sorted(span for span in tree.tolist() if span[2] > 0) for tree in trees]


@pytest.mark.skipif(
    not EXPORTS, reason="TensorFlow exports from a .keras file, as it does its own, see export_test"
)
def test_saved_model_parses_in_plain_tensorflow(parser, tmp_path):
    if isinstance(parser, treebank.ConstituencyParser) and not EVERY_CASE:
        pytest.skip("exported by the same child process as the other")
    folder = parser.export_saved_model(tmp_path / "saved_model")
    sentences = tiny_sentences(4, 6, seed=5)
    arrays = parser.preprocessor(sentences)
    np.savez(tmp_path / "arrays.npz", **arrays)
    program = (
        "import sys, numpy as np, tensorflow as tf\n"
        "model = tf.saved_model.load(sys.argv[1])\n"
        "arrays = {k: tf.constant(x) for k, x in np.load(sys.argv[2]).items()}\n"
        "found = model.serve(arrays)\n"
        "np.savez(sys.argv[3], **{k: x.numpy() for k, x in found.items()})\n"
        "assert not any(name.startswith('keras_struct') for name in sys.modules)\n"
    )
    files = [str(tmp_path / name) for name in ("saved_model", "arrays.npz", "found.npz")]
    subprocess.run([sys.executable, "-c", program, *files], check=True, env=PLAIN_TENSORFLOW)
    expected = parser.inference_model().predict_on_batch(arrays)
    with np.load(tmp_path / "found.npz") as found:
        np.testing.assert_array_equal(found["tags"], expected["tags"])
        assert read_spans(parser, found["tree"]) == read_spans(parser, expected["tree"])
    names = json.loads((folder / "assets.extra" / "names.json").read_text())
    assert names == {"labels": parser.labels, "tags": parser.tags}


def test_word_pooling():
    states = np.arange(24, dtype="float32").reshape(2, 4, 3)
    places = np.array([[[1, 1], [2, 4]], [[5, 6], [-1, -1]]])
    pooled = keras.ops.convert_to_numpy(treebank.WordPooling()([states, places]))
    flat = states.reshape(8, 3)
    np.testing.assert_array_equal(pooled[0, 1], [*flat[2], *flat[4]])
    np.testing.assert_array_equal(pooled[1, 0], [*flat[5], *flat[6]])
    np.testing.assert_array_equal(pooled[1, 1], np.zeros(6))
    mask = treebank.WordPooling().compute_mask([states, places])
    np.testing.assert_array_equal(np.asarray(mask), [[True, True], [True, False]])


def test_bert_weights_equal_an_independent_computation(tmp_path):
    """The checkpoint's names and layouts, against BERT written out in NumPy."""
    from safetensors.numpy import save_file

    rng, h, heads = np.random.default_rng(0), 16, 2
    backbone = tiny_backbone()
    vocabulary = backbone.vocabulary_size
    tensors = {
        "embeddings.word_embeddings.weight": (vocabulary, h),
        "embeddings.position_embeddings.weight": (512, h),
        "embeddings.token_type_embeddings.weight": (2, h),
        "pooler.dense.weight": (h, h),
        "pooler.dense.bias": (h,),
    }
    norms = ["embeddings.LayerNorm"]
    for k in range(2):
        name = f"encoder.layer.{k}"
        norms += [f"{name}.attention.output.LayerNorm", f"{name}.output.LayerNorm"]
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            tensors[f"{name}.attention.{part}.weight"] = (h, h)
            tensors[f"{name}.attention.{part}.bias"] = (h,)
        for part in ("intermediate.dense", "output.dense"):
            tensors[f"{name}.{part}.weight"] = (h, h)
            tensors[f"{name}.{part}.bias"] = (h,)
    for name in norms:
        tensors |= {f"{name}.weight": (h,), f"{name}.bias": (h,)}
    w = {name: rng.normal(size=shape).astype("float32") for name, shape in tensors.items()}
    save_file(w, tmp_path / "model.safetensors")
    treebank.load_bert_weights(backbone, tmp_path / "model.safetensors")

    def dense(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-12)
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    tokens = np.array([[2, 5, 9, 3]])
    x = w["embeddings.word_embeddings.weight"][tokens[0]]
    x = x + w["embeddings.position_embeddings.weight"][:4]
    x = norm(x + w["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    for k in range(2):
        name = f"encoder.layer.{k}"
        q, key, v = (
            dense(x, f"{name}.attention.self.{part}").reshape(4, heads, -1).swapaxes(0, 1)
            for part in ("query", "key", "value")
        )
        scores = q @ key.swapaxes(1, 2) / np.sqrt(h / heads)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (scores / scores.sum(-1, keepdims=True)) @ v
        mixed = dense(mixed.swapaxes(0, 1).reshape(4, h), f"{name}.attention.output.dense")
        x = norm(x + mixed, f"{name}.attention.output.LayerNorm")
        y = dense(x, f"{name}.intermediate.dense")
        y = y * 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
        x = norm(x + dense(y, f"{name}.output.dense"), f"{name}.output.LayerNorm")
    arrays = {
        "token_ids": tokens,
        "segment_ids": np.zeros_like(tokens),
        "padding_mask": np.ones_like(tokens),
    }
    found = backbone(arrays)["sequence_output"]
    np.testing.assert_allclose(keras.ops.convert_to_numpy(found)[0], x, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_arguments(kind):
    with pytest.raises(ValueError, match="Expected"):
        if kind == "constituency":
            treebank.ConstituencyParser(tiny_backbone(), None, labels=["S"], tags=["X"])
        else:
            treebank.DependencyParser(tiny_backbone(), None, ["root"], ["X"], structure="cky")
    with pytest.raises(ValueError, match="preprocessor=None"):
        parser = tiny_parser(kind)
        parser.preprocessor = None
        parser([["we"]])
