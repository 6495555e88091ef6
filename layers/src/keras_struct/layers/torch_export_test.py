"""`torch.export` and `torch.jit.trace` of heads and decoders.

Any batch, one length: loops over it are unrolled.
"""

import functools
import io

import keras
import numpy as np
import pytest

from keras_struct import layers
from keras_struct.ops.testing import BACKEND, EVERY_CASE, array

if BACKEND != "torch":
    pytest.skip("torch.export is for PyTorch", allow_module_level=True)

import torch

RNG = np.random.default_rng(0)


def states(batch, n=3):
    return torch.tensor(2 * RNG.normal(size=(batch, n, 4)).astype("float32"))


def decoder(head, mode, *shapes):
    """A decoding model of a head, and batches of examples for it, by their size."""
    inputs = [keras.Input((None, 4)) for _ in shapes]
    model = layers.decoding_model(keras.Model(inputs, head(*inputs)), mode)
    return model, lambda batch: [states(batch, n) for n in shapes]


def attention(structure):
    x = keras.Input((None, 4))
    mapped = layers.StructuredAttention(2, 4, structure=structure)(x, x)
    return keras.Model([x], mapped), lambda batch: [states(batch)]


MODELS: dict = {
    "tags": lambda: decoder(layers.CRF(3, transition_initializer="random_normal"), "tags", 3),
    "phrases": functools.partial(attention, "cky"),
    "path": lambda: decoder(layers.Aligner(), "path", 3, 2),
    "segments": lambda: decoder(layers.SemiMarkovCRF(2, 2), "segments", 3),
    "labels": lambda: decoder(layers.CTC(3), "labels", 3),
    "trees": functools.partial(attention, "spanning_tree"),
    "projective_trees": functools.partial(attention, "eisner"),
}


class Positional(torch.nn.Module):
    """A Keras model that takes its inputs one by one, as `torch.export` gives them."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, *inputs):
        return self.model(list(inputs))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODELS if EVERY_CASE else list(MODELS)[:2])
def test_a_program_for_every_batch(name):
    model, examples = MODELS[name]()
    module, batch = Positional(model).eval(), torch.export.Dim("batch")
    inputs = examples(2)
    with torch.no_grad():
        shapes = (tuple({0: batch} for _ in inputs),)
        program = torch.export.export(module, tuple(inputs), dynamic_shapes=shapes).module()
        for given in (examples(2), examples(5)):
            np.testing.assert_allclose(array(program(*given)), array(module(*given)), atol=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODELS if EVERY_CASE else list(MODELS)[:2])
def test_a_trace_for_every_batch(name):
    model, examples = MODELS[name]()
    module, file = Positional(model).eval(), io.BytesIO()
    with torch.no_grad():
        torch.jit.save(torch.jit.trace(module, tuple(examples(2))), file)
        file.seek(0)
        program = torch.jit.load(file)
        for given in (examples(2), examples(5)):
            np.testing.assert_allclose(array(program(*given)), array(module(*given)), atol=1e-5)
        longer = [torch.cat([x, x], dim=1) for x in examples(2)]
        if name != "labels":  # without a loop
            with pytest.raises(RuntimeError, match=r"Expected .* elements in a list but found"):
                program(*longer)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_trace_does_not_know_the_mask_of_its_example():
    model = keras.Sequential([keras.layers.Embedding(9, 4, mask_zero=True), layers.CRF(3, "tags")])
    words = [torch.tensor(x) for x in ([[5, 3, 0]], [[0, 3, 5]], [[5, 0, 3]])]
    model(words[0])
    with torch.no_grad():
        program = torch.jit.trace(model, words[0])
        for given in words:
            np.testing.assert_array_equal(array(program(given)), array(model(given)))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_trace_with_gradients():
    """It calls Python: it cannot be saved, which is said, and has the gradients of the model."""
    head, x = layers.CRF(3, "marginals"), states(2)
    head(x)
    with pytest.warns(UserWarning, match="within torch.no_grad"):
        program = torch.jit.trace(head, x, check_trace=False)
    slopes = []
    for function in (program, head):
        given = x.clone().requires_grad_()
        function(given)[..., 0].sum().backward()
        slopes.append(array(given.grad))
    assert slopes[0].any()
    np.testing.assert_allclose(slopes[0], slopes[1], atol=1e-6)
