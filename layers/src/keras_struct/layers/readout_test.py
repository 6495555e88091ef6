"""One structure as the map, with the gradients of the marginals."""

import keras
import numpy as np
import pytest

from keras_struct.layers.alignment_map import SmithWatermanMap
from keras_struct.layers.attention_map import SemiMarkovMap, SoftmaxMap, SubsetMap
from keras_struct.layers.structured_attention import StructuredAttention
from keras_struct.layers.structured_attention_test import needs_gradients, numpy, random
from keras_struct.layers.transport_map import SinkhornMap
from keras_struct.layers.tree_map import EisnerMap
from keras_struct.ops.law_cases import COMPILED
from keras_struct.ops.testing import array, fast, grad, tensor

MAPS = {
    "softmax": SoftmaxMap,
    "subset": lambda **options: SubsetMap(2, **options),
    "semi_markov": SemiMarkovMap,
    "smith_waterman": SmithWatermanMap,
    "eisner": EisnerMap,
}
every_map = pytest.mark.parametrize("name", MAPS)
SCORES = random(2, 2, 4, 4)
MASK = np.arange(4) < 3


@every_map
def test_the_best_structure_with_the_gradients_of_the_marginals(name):
    hard, best = (
        MAPS[name](**options) for options in ({"readout": "argmax_st"}, {"temperature": 0})
    )
    masks = {"key_mask": MASK}
    found = numpy(hard(SCORES, **masks))
    np.testing.assert_allclose(found, numpy(best(SCORES, **masks)), atol=1e-6)
    assert set(np.unique(found.round(6))) == {0.0, 1.0}


@needs_gradients
@every_map
def test_gradients_are_those_of_the_marginals(name):
    weights = tensor(random(*SCORES.shape, seed=1), "float32")

    def gradient(layer):
        layer(SCORES)  # builds it
        return fast(grad(lambda x: keras.ops.sum(layer(x) * weights)))(tensor(SCORES, "float32"))

    found, expected = gradient(MAPS[name](readout="argmax_st")), gradient(MAPS[name]())
    np.testing.assert_allclose(array(found[0]), array(expected[0]), rtol=1e-5, atol=1e-6)


def test_perturbed_softmax_is_an_exact_sample():
    """Its frequencies are the probabilities, to 5 sigma; without training it is the best key."""
    scores = np.broadcast_to(np.array([1.0, 0.0, -1.0, -np.inf], "float32"), (1, 4000, 4))
    layer = SoftmaxMap(temperature=0.7, readout="perturbed", seed=0)
    drawn = numpy(layer(scores, training=True))[0]
    np.testing.assert_allclose(drawn.sum(1), 1, atol=1e-6)
    p = np.exp(scores[0, 0] / 0.7)
    p = p / p.sum()
    assert (abs(drawn.mean(0) - p) <= 5 * np.sqrt(p * (1 - p) / 4000) + 1e-6).all()
    again = numpy(layer(scores, training=True))[0]
    assert (again != drawn).any()
    np.testing.assert_allclose(numpy(layer(scores))[0], [[1, 0, 0, 0]] * 4000, atol=1e-6)


@every_map
def test_perturbed_is_one_structure(name):
    layer = MAPS[name](readout="perturbed", learn_temperature=True, seed=3)
    drawn = numpy(layer(SCORES, training=True))
    assert set(np.unique(drawn.round(5))) == {0.0, 1.0}


@needs_gradients
@pytest.mark.parametrize("readout", ["perturbed", "sparse", "imle"])
def test_an_attention_learns_through_it(readout):
    x = random(4, 5, 6)
    own = {"imle_step": 100.0, "seed": 0} if readout == "imle" else {"learn_temperature": True}
    layer = StructuredAttention(2, 3, "subset", k=2, readout=readout, **own)
    states = keras.Input((None, 6))
    model = keras.Model(states, layer(states, states))
    before = [numpy(w) for w in layer.trainable_weights]
    model.compile("sgd", "mse")
    model.fit(x, x, epochs=1, verbose=0)
    for weight, old in zip(layer.trainable_weights, before, strict=True):
        assert np.isfinite(numpy(weight)).all()
        if "bias" not in weight.path:
            assert (numpy(weight) != old).any(), weight.path
    again = StructuredAttention.from_config(layer.get_config())
    assert again.structure.get_config() == layer.structure.get_config()


@pytest.mark.parametrize("name", ["subset"] if COMPILED else MAPS)
def test_sparse_is_that_of_the_structure(name):
    """Rows of few keys, nearest to the scores: at a low temperature the best structure."""
    sparse = numpy(MAPS[name](readout="sparse")(SCORES, key_mask=MASK))
    soft = numpy(MAPS[name]()(SCORES, key_mask=MASK))
    assert ((sparse >= 0) & (sparse <= 1 + 1e-5)).all() and (sparse[..., ~MASK] == 0).all()
    assert (sparse == 0).sum() > (soft == 0).sum()
    cold, best = (
        MAPS[name](**options)(SCORES, key_mask=MASK)
        for options in ({"readout": "sparse", "temperature": 1e-3}, {"temperature": 0})
    )
    np.testing.assert_allclose(numpy(cold), numpy(best), atol=1e-5)


def test_sparse_softmax_is_sparsemax_or_entmax():
    scores = np.array([[[1.0, 0.5, -1.0]]], "float32")
    for alpha, expected in ((2, [0.75, 0.25, 0.0]), (1.5, [0.674, 0.326, 0.0])):
        layer = SoftmaxMap(readout="sparse", alpha=alpha)
        again = SoftmaxMap.from_config(layer.get_config())
        np.testing.assert_allclose(numpy(again(scores))[0, 0], expected, atol=1e-4)


@needs_gradients
def test_gradients_of_implicit_mle():
    """With noise: its gradient is the difference of the structures that the same noise gives."""
    step, weights = 2.0, random(*SCORES.shape, seed=1)

    def drawn(scores):
        layer = SubsetMap(2, readout="imle", imle_step=step, temperature=0.5, seed=7)
        return layer(scores, training=True)

    def loss(scores):
        return keras.ops.sum(drawn(scores) * tensor(weights, "float32"))

    found = array(fast(grad(loss))(tensor(SCORES, "float32"))[0])
    before, after = (numpy(drawn(x)) for x in (SCORES, SCORES - 0.5 * step * weights))
    assert (before != after).any()
    np.testing.assert_allclose(found, (before - after) / step / 0.5, atol=1e-5)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: SoftmaxMap(readout="sample"), "readout='sample'"),
        (lambda: SoftmaxMap(alpha=3), "alpha=3"),
        (lambda: SoftmaxMap(imle_step=0), "imle_step=0"),
        (lambda: SubsetMap(2, sparse_steps=1), "sparse_steps=1"),
        (lambda: SoftmaxMap(temperature=0, readout="argmax_st"), "temperature=0"),
        (lambda: SinkhornMap(readout="argmax_st"), "linear program"),
        (lambda: StructuredAttention(2, 3, SoftmaxMap(), readout="argmax_st"), "in the map"),
    ],
)
def test_user_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
