"""What a grammar may be given: any mask, no examples, no trees, integers, half precision."""

import keras
import numpy as np
import pytest

from keras_struct import ops
from keras_struct.ops.dispatch import candidates
from keras_struct.ops.testing import array, fast, float64, tensor

HOLES = np.array(
    [[0, 1, 1, 0, 1, 0, 1], [1, 1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 1, 1], [0] * 7], bool
)
BATCH, N = HOLES.shape
K, P = 2, 3
SHAPES = ((K, K + P, K + P), (N, P), (K,))


def implementations():
    call = ops.pcfg(*(tensor(np.zeros(shape), "float32") for shape in SHAPES)).choice.call
    found = candidates("pcfg")
    return [name for name, x in found.items() if name != "reference" and x.rejects(call) is None]


def potentials(batch=BATCH):
    rng = np.random.default_rng(0)
    return [rng.normal(size=(batch, *shape)) for shape in SHAPES]


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


@pytest.mark.parametrize("implementation", implementations())
def test_a_masked_word_is_not_part_of_the_sentence(implementation):
    """Everything equals the problem without these words."""
    rules, terms, roots = potentials()
    lengths, moved = HOLES.sum(1), np.zeros_like(terms)
    for b, there in enumerate(HOLES):
        moved[b, : lengths[b]] = terms[b, there]

    def read(terms, **options):
        def of(*args):
            return readouts(ops.pcfg(*args, implementation=implementation, **options))

        found = fast(of)(tensor(rules), tensor(terms), tensor(roots))
        return {key: array(x) for key, x in found.items()}

    with float64():
        got, wanted = read(terms, mask=HOLES), read(moved, lengths=lengths)
    for key in ("value", "entropy", "scores", "rules", "roots"):
        np.testing.assert_allclose(got[key], wanted[key], rtol=1e-12, atol=1e-12, err_msg=key)
    for b, there in enumerate(HOLES):
        n = lengths[b]
        np.testing.assert_allclose(got["terms"][b, there], wanted["terms"][b, :n], atol=1e-12)
        assert (got["terms"][b, ~there] == 0).all()
        pairs = [(got["argmax"][b], wanted["argmax"][b])]
        for key in ("topk", "samples"):
            pairs += zip(got[key][:, b], wanted[key][:, b], strict=True)
        for event, other in pairs:
            np.testing.assert_array_equal(event[np.ix_(there, there)], other[:n, :n])
            assert (event[~there] == -1).all()
            assert (event[:, ~there] == -1).all()


@pytest.mark.parametrize("implementation", implementations())
def test_no_examples_and_no_trees(implementation):
    def zeros(batch):
        return [tensor(np.zeros((batch, *shape)), "float32") for shape in SHAPES]

    shared = [tensor(np.zeros(shape), "float32") for shape in SHAPES]
    shared[1] = zeros(0)[1]
    for given in (zeros(0), shared):
        none = ops.pcfg(*given, implementation=implementation)
        assert array(none.value()).shape == (0,)
        for name, shape in zip(("rules", "terms", "roots"), SHAPES, strict=True):
            assert array(none.marginals(name)).shape == (0, *shape)
        assert array(none.argmax()).shape == (0, N, N)
        assert array(none.sample(0, 2)).shape == (2, 0, N, N)
        assert array(none.topk(2).scores).shape == (2, 0)
    lengths = np.array([0, 1], "int32")
    empty = ops.pcfg(*zeros(2), lengths=lengths, implementation=implementation)
    assert (array(empty.value()) == -np.inf).all()
    assert (array(empty.entropy()) == 0).all()
    for p in empty.marginals("all").values():
        assert (array(p) == 0).all()
    for event in (empty.argmax(), empty.sample(0, 2), empty.topk(2).events):
        assert (array(event) == -1).all()
    assert (array(empty.topk(2).scores) == -np.inf).all()


@pytest.mark.parametrize("implementation", implementations())
def test_numbers_of_every_kind(implementation):
    """Integers are taken as floatx; the hard algorithm for any zero; half precision as float32."""
    rng = np.random.default_rng(0)
    x = [rng.integers(-3, 4, size=(2, *shape)) for shape in SHAPES]

    def of(potentials, **options):
        return ops.pcfg(*potentials, implementation=implementation, **options)

    wanted = array(of([tensor(y, "float32") for y in x]).value())
    np.testing.assert_allclose(array(of(x).value()), wanted, rtol=1e-6)
    for dtype in ("bfloat16", "float16"):
        d = of([tensor(y, dtype) for y in x], temperature=tensor(1.0, dtype))
        np.testing.assert_allclose(array(d.value()), wanted, rtol=1e-6)
        assert keras.backend.standardize_dtype(d.marginals().dtype) == dtype
    hard = [array(of(x, temperature=t).value()) for t in (0, 0.0, np.float32(0))]
    for found in hard:
        np.testing.assert_array_equal(found, np.round(found))
        np.testing.assert_array_equal(found, hard[0])
    assert (hard[0] <= wanted).all()


def test_bad_masks():
    x = [np.zeros((2, *shape), "float32") for shape in SHAPES]
    with pytest.raises(ValueError, match="Expected a boolean mask"):
        ops.pcfg(*x, mask=np.ones((2, N)))
    with pytest.raises(ValueError, match="Expected lengths or a mask, not both"):
        ops.pcfg(*x, mask=np.ones((2, N), bool), lengths=np.array([3, 3]))
    with pytest.raises(ValueError, match="Received: shape of mask="):
        ops.pcfg(*x, mask=np.ones((2, N + 1), bool))
    with pytest.raises(ValueError, match="Expected at least one word"):
        ops.pcfg(x[0], x[1][:, :0], x[2])
