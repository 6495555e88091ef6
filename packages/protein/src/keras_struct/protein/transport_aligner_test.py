"""Transport of residues: masses, padding, the alignment that a plan expects most of, losses."""

import itertools

import keras
import numpy as np
import pytest

from keras_struct import protein
from keras_struct.layers.check_layer import CHECKS, check_layer
from keras_struct.ops.testing import tried
from keras_struct.protein.paths import matched_pairs, path_of_pairs

numpy = keras.ops.convert_to_numpy


def states(length, seed=0):
    return np.random.default_rng(seed).normal(size=(2, length, 5)).astype("float32")


def test_every_residue_has_mass_one_and_padding_none():
    first, second = states(7), states(4, 1)
    masks = {
        "first_mask": np.arange(7) < np.array([[7], [5]]),
        "second_mask": np.arange(4) < np.array([[3], [4]]),
    }
    layer = protein.TransportAligner(base_steps=200)
    padded = numpy(layer(first, second, **masks))
    for row, (n, m) in enumerate([(7, 3), (5, 4)]):
        alone = numpy(layer(first[row : row + 1, :n], second[row : row + 1, :m]))
        np.testing.assert_allclose(padded[row, :n, :m], alone[0], atol=1e-5)
        assert padded[row, n:].max(initial=0) == padded[row, :, m:].max(initial=0) == 0
        assert alone.sum(axis=1).max() < 1 + 1e-4 and alone.sum(axis=2).max() < 1 + 1e-4


def test_the_plan_is_that_of_the_dustbins_written_out():
    x, y = states(6)[:1], states(4, 1)[:1]
    layer = protein.TransportAligner(epsilon=0.7, base_steps=400)
    layer.build(x.shape, y.shape)
    rng = np.random.default_rng(2)
    state, bias = rng.normal(size=5).astype("float32"), 0.3
    layer.state.assign(state)
    layer.bias.assign(bias)
    scores = np.zeros((7, 5))
    scores[1:, 1:] = x[0] @ y[0].T
    scores[1:, 0], scores[0, 1:], scores[0, 0] = (
        x[0] @ state + bias,
        y[0] @ state + bias,
        state @ state,
    )
    plan = np.exp(scores / 0.7 / np.sqrt(7))
    for _ in range(2000):
        plan *= (np.array([4, *[1] * 6]) / plan.sum(axis=1))[:, None]
        plan *= np.array([6, *[1] * 4]) / plan.sum(axis=0)
    np.testing.assert_allclose(numpy(layer(x, y))[0], plan[1:, 1:], atol=1e-4)


def test_the_path_expects_most():
    plan = np.random.default_rng(0).uniform(0, 0.6, (1, 4, 5)).astype("float32")
    found = matched_pairs(numpy(protein.PlanDecoder(threshold=0.25)(plan)["path"])[0])
    best = max(
        sum(plan[0, i, j] - 0.25 for i, j in zip(rows, columns, strict=True))
        for n in range(1, 5)
        for rows in itertools.combinations(range(4), n)
        for columns in itertools.combinations(range(5), n)
    )
    np.testing.assert_allclose((plan[0][tuple(found.T)] - 0.25).sum(), best, rtol=1e-5)


def test_the_losses_count_pairs_and_dustbins():
    plan = np.array([[[0.7, 0.1], [0.2, 0.6], [0.0, 0.0]]], "float32")
    path = path_of_pairs(np.array([[0, 0]]))[None]
    missing_rows, missing_columns = [0.2, 0.2, 1.0], [0.1, 0.3]
    wanted = -2 * np.log(0.7) - np.log(missing_rows[1]) - np.log(missing_columns[1])
    np.testing.assert_allclose(numpy(protein.plan_cross_entropy(path, plan)), [wanted], rtol=1e-4)
    f1 = 2 * 0.7 / (1 + plan.sum())
    np.testing.assert_allclose(numpy(protein.plan_f1_loss(path, plan)), [1 - f1], rtol=1e-4)


def test_the_contract_of_layers():
    inputs = {"first": states(6), "second": states(4, 1)}
    masks = {"first_mask": np.arange(6) < np.array([[6], [4]])}
    # TensorFlow writes the SavedModel for every backend, from the same `.keras` file.
    check_layer(protein.TransportAligner(base_steps=3), {**inputs, **masks}, checks=tried(CHECKS))


def test_a_missing_residue_is_no_part_of_its_chain():
    layer = protein.TransportAligner(base_steps=3)
    first, second = states(6), states(4, 1)
    mask = np.array([[False, True, True, False, True, True]] * len(first))
    alone = numpy(layer(first[:, mask[0]], second))
    first[:, ~mask[0]] = np.nan
    plan = numpy(layer(first, second, first_mask=mask))
    np.testing.assert_allclose(plan[:, mask[0]], alone, atol=1e-6)
    assert (plan[:, ~mask[0]] == 0).all()


def test_user_errors():
    for call, text in (
        (lambda: protein.TransportAligner(epsilon=0.0), "epsilon=0.0"),
        (lambda: protein.PlanDecoder(threshold=1.0), "threshold=1.0"),
        (lambda: protein.TransportAligner()(states(3), states(3)[..., :4]), "of one size"),
    ):
        with pytest.raises(ValueError, match=text):
            call()
