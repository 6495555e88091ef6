"""Everything of a call is where its tensors are, wherever Keras' default device is.

There, in these tests, a tensor has no values: one such operand is an error, or leaves no result.
"""

import functools

import keras
import numpy as np
import pytest

from keras_struct import ops
from keras_struct.ops.testing import BACKEND, array

if BACKEND != "torch":
    pytest.skip("other frameworks have no default device for tensors", allow_module_level=True)

import torch


def scores(*shape):
    values = np.random.default_rng(0).normal(size=shape)
    return torch.tensor(values, dtype=torch.float32, requires_grad=True)


LENGTHS = torch.tensor([3, 2])
MASK = np.array([[1, 0, 1], [0, 1, 1]], bool)
CHAIN = scores(2, 3, 3), scores(3, 3)
ALIGNMENT = scores(2, 2, 3), scores(2)
MAKE = {
    "lengths": (CHAIN, functools.partial(ops.linear_chain, lengths=LENGTHS)),
    "mask": (CHAIN, functools.partial(ops.linear_chain, mask=MASK)),
    "needleman_wunsch": (
        ALIGNMENT,
        functools.partial(ops.needleman_wunsch, implementation="portable"),
    ),
}


def readouts(name):
    inputs, make = MAKE[name]
    d = make(*inputs)
    best = d.argmax()
    found = [d.value(), d.marginals(), best, d.sample(1, 2), d.entropy(), d.topk(2).scores]
    return [*found, d.log_prob(best), *torch.autograd.grad(d.marginals().square().sum(), inputs)]


def transport():
    query, value = scores(2, 5, 4), scores(2, 5, 3)
    found = [ops.sinkhorn(query, query).residual]
    for options in ({}, {"band_width": 1}, {"dustbin": ops.Dustbin(np.ones(4), np.ones(4))}):
        found.append(ops.sinkhorn_tail(query, query, value, **options))
        found += torch.autograd.grad(found[-1].sum(), (query, value))
    return found


@pytest.mark.parametrize("name", [*MAKE, "transport"])
def test_results_do_not_depend_on_the_default_device(name):
    def run():
        return transport() if name == "transport" else readouts(name)

    wanted = run()
    with keras.device("meta"):
        found = run()
    assert {x.device.type for x in found} == {"cpu"}
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(array(a), array(b))
