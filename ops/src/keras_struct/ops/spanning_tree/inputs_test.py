"""What spanning trees may be given: any mask, no examples, no words, integers, half precision."""

import keras
import numpy as np
import pytest

from keras_struct import ops
from keras_struct.ops.dispatch import candidates
from keras_struct.ops.testing import array, fast, float64, tensor

HOLES = np.array(
    [[0, 1, 1, 0, 1, 0, 1], [1, 1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 1, 1], [0] * 7], bool
)
N = HOLES.shape[1]


def implementations():
    call = ops.spanning_tree(tensor(np.zeros((1, 2, 2)), "float32")).choice.call
    found = candidates("spanning_tree")
    return [name for name, x in found.items() if name != "reference" and x.rejects(call) is None]


def readouts(d):
    top = d.topk(3)
    return {
        "value": d.value(),
        "entropy": d.entropy(),
        "argmax": d.argmax(),
        "scores": top.scores,
        "topk": top.events,
        "samples": d.sample(2, 5),
        **d.marginals("all"),
    }


@pytest.mark.parametrize("labels", [0, 2])
@pytest.mark.parametrize("implementation", implementations())
def test_a_masked_word_is_not_part_of_the_sentence(implementation, labels):
    """Everything equals the problem without these words; heads are positions as given."""
    rng = np.random.default_rng(0)
    given = [rng.normal(size=(len(HOLES), N, N))]
    if labels:
        given.append(rng.normal(size=(len(HOLES), N, N, labels)))
    lengths, moved = HOLES.sum(1), [np.zeros_like(x) for x in given]
    for b, there in enumerate(HOLES):
        n = lengths[b]
        for x, y in zip(given, moved, strict=True):
            y[b, :n, :n] = x[b][np.ix_(there, there)]

    def read(potentials, **options):
        def of(*args):
            d = ops.spanning_tree(
                *args, single_root=not labels, implementation=implementation, **options
            )
            return readouts(d)

        return {key: array(x) for key, x in fast(of)(*map(tensor, potentials)).items()}

    with float64():
        got, wanted = read(given, mask=HOLES), read(moved, lengths=lengths)
    for key in ("value", "entropy", "scores"):
        np.testing.assert_allclose(got[key], wanted[key], rtol=1e-12, atol=1e-12, err_msg=key)
    for b, there in enumerate(HOLES):
        n = lengths[b]
        for key in ("arcs", "labels")[: len(given)]:
            p = got[key][b]
            inner = np.ix_(there, there)
            np.testing.assert_allclose(p[inner], wanted[key][b, :n, :n], atol=1e-12)
            assert (p[~there] == 0).all()
            assert (p[:, ~there] == 0).all()
        pairs = [(got["argmax"][b], wanted["argmax"][b])]
        for key in ("topk", "samples"):
            pairs += zip(got[key][:, b], wanted[key][:, b], strict=True)
        for event, other in pairs:
            check_event(event, other[:n], there)


def check_event(event, wanted, there):
    assert (event[~there] == -1).all()
    heads, other = (x[..., 0] if x.ndim == 2 else x for x in (event[there], wanted))
    places = np.append(np.flatnonzero(there), -1)  # no head where fewer than k trees exist
    np.testing.assert_array_equal(heads, places[other])
    if event.ndim == 2:
        np.testing.assert_array_equal(event[there, 1], wanted[:, 1])


@pytest.mark.parametrize("implementation", implementations())
def test_no_examples_and_no_words(implementation):
    def of(x, **options):
        return ops.spanning_tree(tensor(x, "float32"), implementation=implementation, **options)

    none = of(np.zeros((0, 3, 3)))
    assert array(none.value()).shape == (0,)
    assert array(none.marginals()).shape == (0, 3, 3)
    assert array(none.argmax()).shape == (0, 3)
    assert array(none.sample(0, 2)).shape == (2, 0, 3)
    assert array(none.topk(2).scores).shape == (2, 0)
    empty = of(np.zeros((2, 3, 3)), lengths=np.zeros(2, "int32"))
    assert (array(empty.value()) == 0).all()
    assert (array(empty.entropy()) == 0).all()
    assert (array(empty.marginals()) == 0).all()
    for event in (empty.argmax(), empty.sample(0, 2), empty.topk(2).events):
        assert (array(event) == -1).all()
    np.testing.assert_array_equal(array(empty.topk(2).scores), [[0, 0], [-np.inf, -np.inf]])


@pytest.mark.parametrize("implementation", implementations())
def test_numbers_of_every_kind(implementation):
    """Integers are taken as floatx; the hard algorithm for any zero; half precision as float32."""
    x = np.random.default_rng(0).integers(-3, 4, size=(2, 4, 4))

    def of(x, **options):
        return ops.spanning_tree(x, implementation=implementation, **options)

    wanted = array(of(tensor(x, "float32")).value())
    np.testing.assert_allclose(array(of(x).value()), wanted, rtol=1e-6)
    for dtype in ("bfloat16", "float16"):
        d = of(tensor(x, dtype), temperature=tensor(1.0, dtype))
        np.testing.assert_allclose(array(d.value()), wanted, rtol=1e-6)
        assert keras.backend.standardize_dtype(d.marginals().dtype) == dtype
    hard = [array(of(x, temperature=t).value()) for t in (0, 0.0, np.float32(0))]
    for found in hard:
        np.testing.assert_array_equal(found, np.round(found))
        np.testing.assert_array_equal(found, hard[0])
    assert (hard[0] <= wanted).all()


def test_bad_masks():
    x = np.zeros((2, 3, 3), "float32")
    with pytest.raises(ValueError, match="Expected a boolean mask"):
        ops.spanning_tree(x, mask=np.ones((2, 3)))
    with pytest.raises(ValueError, match="Expected lengths or a mask, not both"):
        ops.spanning_tree(x, mask=np.ones((2, 3), bool), lengths=np.array([3, 3]))
    with pytest.raises(ValueError, match="Received: shape of mask="):
        ops.spanning_tree(x, mask=np.ones((2, 4), bool))
