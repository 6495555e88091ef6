"""`torch.export` of heads and decoders: any batch, one length; loops over it are unrolled."""

import functools

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
