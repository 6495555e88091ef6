"""What a chart may be given: any mask, no examples, no words, integers, half precision."""

import keras
import numpy as np
import pytest

from keras_struct import ops
from keras_struct.ops.chart.chart_test import STRUCTURES
from keras_struct.ops.dispatch import candidates
from keras_struct.ops.testing import array, fast, float64, tensor

HOLES = np.array(
    [[0, 1, 1, 0, 1, 0, 1], [1, 1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 1, 1], [0] * 7], bool
)
N = HOLES.shape[1]


def implementations(structure):
    call = STRUCTURES[structure](tensor(np.zeros((1, 2, 2)), "float32")).choice.call
    found = candidates("chart")
    return [name for name, x in found.items() if name != "reference" and x.rejects(call) is None]


def readouts(d):
    top = d.topk(3)
    return {
        "value": d.value(),
        "entropy": d.entropy(),
        "marginals": d.marginals(),
        "argmax": d.argmax(),
        "scores": top.scores,
        "topk": top.events,
        "samples": d.sample(2, 5),
    }


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_masked_position_is_not_part_of_the_sequence(name):
    """Everything equals the problem without these positions."""
    structure = STRUCTURES[name]
    x = np.random.default_rng(0).normal(size=(len(HOLES), N, N))
    lengths, moved = HOLES.sum(1), np.zeros_like(x)
    for b, there in enumerate(HOLES):
        moved[b, : lengths[b], : lengths[b]] = x[b][there][:, there]

    def read(x, **options):
        results = fast(lambda x: readouts(structure(x, **options)))(tensor(x))
        return {key: array(y) for key, y in results.items()}

    for implementation in implementations(name):
        with float64():
            got = read(x, mask=HOLES, implementation=implementation)
            wanted = read(moved, lengths=lengths, implementation=implementation)
        for key in ("value", "entropy", "scores"):
            np.testing.assert_allclose(got[key], wanted[key], rtol=1e-12, atol=1e-12)
        for b, there in enumerate(HOLES):
            check_marginals(got["marginals"][b], wanted["marginals"][b], there)
            check_event(got["argmax"][b], wanted["argmax"][b], there)
            for key in ("topk", "samples"):
                for event, other in zip(got[key][:, b], wanted[key][:, b], strict=True):
                    check_event(event, other, there)


def check_marginals(got, wanted, there):
    n = there.sum()
    np.testing.assert_allclose(got[there][:, there], wanted[:n, :n], atol=1e-12)
    assert (got[~there] == 0).all()
    assert (got[:, ~there] == 0).all()


def check_event(got, wanted, there):
    """Heads and partners are positions as given; spans are where their ends are."""
    n, places = there.sum(), np.flatnonzero(there)
    assert (got[~there] == -1).all()
    if got.ndim == 2:
        np.testing.assert_array_equal(got[there][:, there], wanted[:n, :n])
        assert (got[:, ~there] == -1).all()
        return
    wanted = wanted[:n]
    if (wanted == -1).all():  # fewer than k exist
        assert (got == -1).all()
    else:
        np.testing.assert_array_equal(got[there], places[wanted])


def test_masks_of_labels_and_splits():
    x = np.random.default_rng(0).normal(size=(1, N, N))
    there = HOLES[0]
    labels = np.random.default_rng(1).normal(size=(N, N, 2))
    splits = np.random.default_rng(2).normal(size=(1, N, N, N))
    kept = np.flatnonzero(there)
    with float64():
        d = ops.cky(tensor(x), tensor(labels), tensor(splits), mask=there)
        few = ops.cky(
            tensor(x[:, kept][:, :, kept]),
            tensor(labels[kept][:, kept]),
            tensor(splits[:, kept][:, :, kept][:, :, :, kept]),
        )
        np.testing.assert_allclose(array(d.value()), array(few.value()), rtol=1e-12)
        best, wanted = array(d.argmax()), array(few.argmax())
        np.testing.assert_array_equal(best[0][there][:, there], wanted[0])
        got, wanted = d.marginals("all"), few.marginals("all")
        for key in ("labels", "splits"):
            p = array(got[key])
            inner = p[:, kept][:, :, kept]
            inner = inner[..., kept] if key == "splits" else inner
            np.testing.assert_allclose(inner, array(wanted[key]), atol=1e-12)
            np.testing.assert_allclose(p.sum(), inner.sum(), rtol=1e-12)
        log_prob = array(d.log_prob(d.sample(0, 20)))
        assert np.isfinite(log_prob).all()


@pytest.mark.parametrize("name", STRUCTURES)
def test_no_examples_and_no_words(name):
    for implementation in implementations(name):
        none = STRUCTURES[name](
            tensor(np.zeros((0, 3, 3)), "float32"), implementation=implementation
        )
        assert array(none.value()).shape == (0,)
        assert array(none.marginals()).shape == (0, 3, 3)
        assert array(none.argmax()).shape[0] == 0
        assert array(none.sample(0, 2)).shape[:2] == (2, 0)
        assert array(none.topk(2).scores).shape == (2, 0)
        empty = STRUCTURES[name](
            tensor(np.zeros((2, 3, 3)), "float32"),
            lengths=np.zeros(2, "int32"),
            implementation=implementation,
        )
        assert (array(empty.value()) == 0).all()
        assert (array(empty.entropy()) == 0).all()
        assert (array(empty.marginals()) == 0).all()
        for event in (empty.argmax(), empty.sample(0, 2), empty.topk(2).events):
            assert (array(event) == -1).all()
        np.testing.assert_array_equal(array(empty.topk(2).scores), [[0, 0], [-np.inf, -np.inf]])


@pytest.mark.parametrize("name", STRUCTURES)
def test_numbers_of_every_kind(name):
    """Integers are taken as floatx; the hard algorithm for any zero; half precision as float32."""
    x = np.random.default_rng(0).integers(-3, 4, size=(2, 4, 4))
    structure = STRUCTURES[name]
    wanted = array(structure(tensor(x, "float32")).value())
    np.testing.assert_allclose(array(structure(x).value()), wanted, rtol=1e-6)
    for dtype in ("bfloat16", "float16"):
        d = structure(tensor(x, dtype), temperature=tensor(1.0, dtype))
        np.testing.assert_allclose(array(d.value()), wanted, rtol=1e-6)
        assert keras.backend.standardize_dtype(d.marginals().dtype) == dtype
    hard = [array(structure(x, temperature=t).value()) for t in (0, 0.0, np.float32(0))]
    for found in hard:
        np.testing.assert_array_equal(found, np.round(found))
        np.testing.assert_array_equal(found, hard[0])
    assert (hard[0] <= wanted).all()


@pytest.mark.parametrize("name", STRUCTURES)
def test_bad_masks(name):
    x = np.zeros((2, 3, 3), "float32")
    with pytest.raises(ValueError, match="Expected a boolean mask"):
        STRUCTURES[name](x, mask=np.ones((2, 3)))
    with pytest.raises(ValueError, match="Expected lengths or a mask, not both"):
        STRUCTURES[name](x, mask=np.ones((2, 3), bool), lengths=np.array([3, 3]))
    with pytest.raises(ValueError, match="Received: shape of mask="):
        STRUCTURES[name](x, mask=np.ones((2, 4), bool))
