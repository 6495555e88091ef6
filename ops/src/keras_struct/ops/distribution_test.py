"""Conventions and errors that all structures share, and the faults found in older libraries."""

import keras
import numpy as np
import pytest

from keras_struct import ops
from keras_struct.ops.structure_cases import smallest
from keras_struct.ops.testing import BACKEND, array, fast, float64, tensor

RNG = np.random.default_rng(0)


def unary(*shape):
    return RNG.normal(size=shape).astype("float32")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.linear_chain(unary(2, 3, 4), unary(3, 3)), "Expected transitions of shape"),
        (lambda: ops.linear_chain(unary(3), unary(3, 3)), "Expected unary of shape"),
        (lambda: ops.linear_chain(unary(2, 0, 3), unary(3, 3)), "at least one position"),
        (
            lambda: ops.linear_chain(unary(2, 3, 3), unary(2, 4, 3, 3)),
            "Expected transitions over time",
        ),
        (lambda: ops.linear_chain(unary(2, 3, 3), unary(5, 3, 3)), "to have the batch axes"),
        (
            lambda: ops.linear_chain(unary(2, 3, 3), unary(3, 3), lengths=np.array([4, 1])),
            "Expected lengths between 0 and 3",
        ),
        (
            lambda: ops.linear_chain(unary(2, 3, 3), unary(3, 3), lengths=np.array([1.0, 1.0])),
            "Expected integer lengths",
        ),
        (
            lambda: ops.linear_chain(unary(2, 3, 3), unary(3, 3), temperature=-1.0),
            "Received: temperature=-1.0",
        ),
        (
            lambda: ops.linear_chain(unary(2, 3, 3), unary(3, 3), implementation="quick"),
            "Received: implementation='quick'",
        ),
        (
            lambda: ops.linear_chain(unary(2, 3, 3), unary(3, 3), mask=np.ones((2, 3))),
            "Expected a boolean mask",
        ),
        (
            lambda: ops.linear_chain(unary(2, 3, 3), unary(3, 3), mask=np.ones((2, 4), bool)),
            "Expected mask of shape (2, 3)",
        ),
        (
            lambda: ops.linear_chain(
                unary(2, 3, 3), unary(3, 3), lengths=np.array([1, 1]), mask=np.ones((2, 3), bool)
            ),
            "Expected lengths or a mask",
        ),
        (
            lambda: ops.linear_chain(unary(2, 3, 3), unary(3, 3)).marginals("x"),
            "Received: name='x'",
        ),
        (lambda: ops.linear_chain(unary(2, 3, 3), unary(3, 3)).topk(0), "Received: k=0"),
        (lambda: ops.linear_chain(unary(2, 3, 3), unary(3, 3)).sample(None), "Received: seed=None"),
        (lambda: ops.linear_chain(unary(2, 3, 3), unary(3, 3)).log_prob([1]), "Expected an event"),
        (
            lambda: ops.linear_chain(unary(2, 3, 3), unary(3, 3), temperature=0).log_prob(
                np.zeros((2, 3))
            ),
            "Expected temperature > 0",
        ),
        (lambda: ops.subset(unary(2, 3), -1), "Expected k >= 0"),
        (lambda: ops.ctc(unary(2, 3, 3), np.array([[3], [1]])), "Expected labels in"),
        (lambda: ops.ctc(unary(2, 3, 3), np.array([[1], [1]]), blank=3), "Received: blank=3"),
        (lambda: ops.semi_markov(unary(2, 3, 2), unary(3, 3)), "Expected transitions of shape"),
        (
            lambda: ops.categorical(unary(2, 3)).cross_entropy(ops.subset(unary(2, 3), 1)),
            "Expected a distribution over categorical",
        ),
    ],
)
def test_bad_input_gets_a_clear_error(call, message):
    with pytest.raises(ValueError, match="Expected") as error:
        call()
    assert message in str(error.value)


def test_value_of_an_example_does_not_depend_on_its_batch_mates():
    """pytorch-struct issue 110: padding changed the value of shorter sequences."""
    segments, transitions = unary(3, 6, 3, 2), unary(2, 2)
    lengths = np.array([6, 3, 1], "int32")
    together = ops.semi_markov(segments, transitions, lengths=lengths)
    for b, n in enumerate(lengths):
        alone = ops.semi_markov(segments[b : b + 1, :n], transitions)
        np.testing.assert_allclose(array(together.value())[b], array(alone.value())[0], rtol=1e-5)
        np.testing.assert_allclose(
            array(together.marginals())[b, :n], array(alone.marginals())[0], atol=1e-5
        )


def test_log_prob_with_lengths_is_at_most_zero():
    """pytorch-struct issue 46: log-probabilities above zero for ragged batches."""
    d = ops.linear_chain(unary(3, 5, 3), unary(3, 3), lengths=np.array([5, 2, 1], "int32"))
    tags = RNG.integers(0, 3, (3, 5))
    assert (array(d.log_prob(tags)) <= 0).all()
    noisy = np.where(np.arange(5) < np.array([[5], [2], [1]]), tags, 77)
    np.testing.assert_array_equal(array(d.log_prob(tags)), array(d.log_prob(noisy)))
    assert array(d.log_prob(np.full((3, 5), 3)))[0] == -np.inf


def test_one_position_and_one_item():
    """pytorch-struct crashes at N = 1."""
    d = ops.linear_chain(unary(2, 1, 3), unary(3, 3))
    np.testing.assert_allclose(array(d.marginals()).sum(-1), 1, rtol=1e-6)
    assert array(d.argmax()).shape == (2, 1)


def test_parallel_equals_sequential_on_a_long_chain():
    x, t, lengths = unary(2, 300, 3), unary(3, 3), np.array([300, 171], "int32")
    a, b = (ops.linear_chain(x, t, lengths=lengths, implementation=n) for n in ops_algorithms())
    np.testing.assert_allclose(array(a.value()), array(b.value()), rtol=1e-5)
    np.testing.assert_allclose(array(a.marginals()), array(b.marginals()), atol=2e-5)
    np.testing.assert_array_equal(array(a.argmax()), array(b.argmax()))


def ops_algorithms():
    return ("portable", "parallel")


def test_scaled_products_leave_for_log_space_out_of_range():
    """Transitions of 200 underflow as weights: the other branch gives the exact numbers."""
    x, t = unary(2, 6, 5), 200 * unary(5, 5)
    scaled = ops.linear_chain(x, t, implementation="portable")
    tree = ops.linear_chain(x, t, implementation="parallel")
    np.testing.assert_allclose(array(scaled.value()), array(tree.value()), rtol=1e-6)
    np.testing.assert_allclose(array(scaled.marginals()), array(tree.marginals()), atol=2e-4)


def test_subset_counts_and_softmax():
    d = ops.subset(np.zeros((1, 10), "float32"), 3)
    np.testing.assert_allclose(np.exp(array(d.value())), 120, rtol=1e-5)
    one = ops.subset(np.arange(4.0, dtype="float32")[None], 1)
    soft = ops.categorical(np.arange(4.0, dtype="float32")[None])
    np.testing.assert_allclose(array(one.marginals()), array(soft.marginals()), rtol=1e-5)


def test_zero_transitions_make_positions_independent():
    x = unary(2, 5, 3)
    d = ops.linear_chain(x, np.zeros((3, 3), "float32"))
    softmax = np.exp(x) / np.exp(x).sum(-1, keepdims=True)
    np.testing.assert_allclose(array(d.marginals()), softmax, rtol=1e-5)


@pytest.mark.parametrize("blank", [0, 2])
def test_ctc_equals_keras(blank):
    logits = unary(3, 9, 4)
    log_probs = keras.ops.log_softmax(logits, axis=-1)
    labels = np.array([[1, 1, 3], [3, 1, 0], [1, 0, 0]], "int32")
    labels = np.where(labels == 0, blank, labels)
    lengths = np.array([9, 7, 4], "int32"), np.array([3, 2, 1], "int32")
    value = ops.ctc(log_probs, labels, lengths, blank=blank).value()
    loss = keras.ops.ctc_loss(labels, log_probs, lengths[1], lengths[0], mask_index=blank)
    np.testing.assert_allclose(-array(value), array(loss), rtol=1e-4)


def test_temperature_per_example_and_as_variable():
    x, t = unary(2, 4, 3), unary(3, 3)
    both = ops.linear_chain(x, t, temperature=np.array([0.5, 2.0], "float32"))
    for b, temperature in enumerate((0.5, 2.0)):
        one = ops.linear_chain(x, t, temperature=temperature)
        np.testing.assert_allclose(array(both.value())[b], array(one.value())[b], rtol=1e-5)
    variable = keras.Variable(2.0)
    learned = ops.linear_chain(x, t, temperature=variable)
    np.testing.assert_allclose(array(learned.value())[1], array(both.value())[1], rtol=1e-5)


def test_seeds_repeat_and_generators_do_not():
    d = ops.linear_chain(unary(2, 8, 3), unary(3, 3))
    np.testing.assert_array_equal(array(d.sample(5, 4)), array(d.sample(5, 4)))
    generator = keras.random.SeedGenerator(5)
    assert (array(d.sample(generator, 4)) != array(d.sample(generator, 4))).any()


def test_parts_of_the_best_structure_score_its_value():
    x, t = unary(2, 4, 3), unary(3, 3)
    d = ops.linear_chain(x, t, temperature=0)
    parts = d.parts()
    score = (array(parts["unary"]) * x).sum((1, 2)) + (array(parts["transitions"]) * t).sum((1, 2))
    np.testing.assert_allclose(score, array(d.value()), rtol=1e-5)


def test_structures_stand_in_functional_models(tmp_path):
    """Readouts on `keras.Input`: unknown batch and length, saved and loaded."""
    x = keras.Input((None, 5))
    n = keras.Input((), dtype="int32")
    scores = keras.layers.Dense(3)(x)
    d = ops.linear_chain(scores, np.zeros((3, 3), "float32"), lengths=n)
    model = keras.Model([x, n], [d.marginals(), d.argmax(), d.value()])
    assert [tuple(y.shape) for y in model.outputs] == [(None, None, 3), (None, None), (None,)]
    inputs = [unary(2, 4, 5), np.array([4, 2], "int32")]
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for a, b in zip(model(inputs), loaded(inputs), strict=True):
        np.testing.assert_allclose(array(a), array(b), rtol=1e-6)
    with pytest.raises(AttributeError, match="Expected a readout among"):
        _ = d.kl_divergence


def test_jacobian_of_the_marginals_by_a_parameter():
    """The map dP / d eta against central differences: temperature, and a whole potential."""
    x, t, start = unary(2, 4, 3), unary(3, 3), unary(3)
    step = 1e-2

    def marginals(temperature):
        d = ops.linear_chain(x, t, start, temperature=temperature)
        return array(d.marginals())

    d = ops.linear_chain(x, t, start, temperature=0.8)
    numeric = (marginals(0.8 + step) - marginals(0.8 - step)) / (2 * step)
    np.testing.assert_allclose(array(d.jacobian("temperature")), numeric, atol=1e-3)
    # Every tag sequence uses N unary parts: moving all of them together changes nothing.
    np.testing.assert_allclose(array(d.jacobian("unary")), 0, atol=1e-5)
    pairs = array(d.jacobian("temperature", of="transitions"))
    assert pairs.shape == (2, 3, 3) and abs(pairs.sum()) < 1e-4
    with pytest.raises(ValueError, match="Received: name='gap'"):
        d.jacobian("gap")


def test_lengths_of_tensors_are_read_once_and_on_demand(monkeypatch):
    """At most one read from the device for each call, however much is checked."""
    x, t = keras.ops.convert_to_tensor(unary(2, 4, 3)), keras.ops.convert_to_tensor(unary(3, 3))
    lengths = keras.ops.convert_to_tensor(np.array([4, 5], "int32"))
    temperature = keras.ops.convert_to_tensor(np.array([0.5, 2.0], "float32"))
    with pytest.raises(ValueError, match="Expected lengths between 0 and 4"):
        ops.linear_chain(x, t, lengths=lengths, temperature=temperature)
    reads = []
    convert = keras.ops.convert_to_numpy

    def counted(x):
        reads.append(x)
        return convert(x)

    monkeypatch.setattr(keras.ops, "convert_to_numpy", counted)
    d = ops.linear_chain(x, t, lengths=lengths - 1, temperature=temperature)
    d.value(), d.marginals(), d.argmax(), d.sample(0)
    assert len(reads) == 1
    with ops.validation(False):
        ops.linear_chain(x, t, lengths=lengths, temperature=temperature)
    assert len(reads) == 1


def test_a_masked_position_is_no_part_of_the_sequence():
    """Front padding and holes: everything equals the same chain without them."""
    x, t = unary(2, 6, 3), unary(2, 5, 3, 3)
    mask = np.array([[0, 0, 1, 1, 0, 1], [1, 0, 1, 1, 1, 1]], bool)
    d = ops.linear_chain(x, t, start=unary(3), mask=mask)
    start = d.structure.potentials["start"]
    tags = array(d.argmax())
    for b in range(2):
        kept = np.flatnonzero(mask[b])
        steps = t[b][kept[1:] - 1]  # of the step into the later position
        alone = ops.linear_chain(x[b, kept], steps, start=start[0])
        np.testing.assert_allclose(array(d.value())[b], array(alone.value()), rtol=1e-6)
        np.testing.assert_allclose(
            array(d.marginals())[b, kept], array(alone.marginals()), atol=1e-6
        )
        pairs = array(d.marginals("transitions"))[b]
        np.testing.assert_allclose(
            pairs[kept[1:] - 1], array(alone.marginals("transitions")), atol=1e-6
        )
        assert pairs.sum() == pytest.approx(len(kept) - 1, abs=1e-5)
        np.testing.assert_array_equal(tags[b, kept], array(alone.argmax()))
        assert (tags[b, ~mask[b]] == -1).all() and (array(d.marginals())[b, ~mask[b]] == 0).all()
        np.testing.assert_allclose(
            array(d.log_prob(tags))[b], array(alone.log_prob(tags[b, kept])), atol=1e-5
        )


def test_log_prob_of_a_confident_chain_is_at_most_zero_and_exact():
    """Score and log-partition are sums of 40,000 here: their difference is not."""
    rng = np.random.default_rng(1)
    tags = rng.integers(0, 3, (8, 2000))
    x, t = rng.normal(size=(8, 2000, 3)), rng.normal(size=(3, 3))
    x[np.arange(8)[:, None], np.arange(2000), tags] += 20
    for implementation in ops_algorithms():
        d = ops.linear_chain(
            x.astype("float32"), t.astype("float32"), implementation=implementation
        )
        log_prob = array(d.log_prob(tags))
        wide = ops.linear_chain(
            x.astype("float32").astype("float64"),
            t.astype("float32").astype("float64"),
            implementation=implementation,
        )
        assert (log_prob <= 0).all()
        if BACKEND != "jax":  # float64 is off there
            np.testing.assert_allclose(log_prob, array(wide.log_prob(tags)), atol=1e-4)


COMPILED = ("linear_chain", "eisner")  # where each takes seconds


@pytest.mark.parametrize("op", COMPILED if BACKEND in ("jax", "tensorflow") else smallest())
def test_entropies_of_large_scores_at_every_temperature(op):
    """Log-partition and expected score are up to 1e10 here, and cancel to nothing."""
    case = smallest()[op]
    names = list(case.arrays())
    scores = [(1e4 * x).astype("float32") for x in case.arrays().values()]

    def readouts(temperature, *scores):
        d, other = (
            case.make(
                {k: x * y for k, x in zip(names, scores, strict=True)}, temperature=temperature
            )
            for y in (1.0, 1.001)
        )
        sizes = d.log_partition(), other.log_partition()
        return (*sizes, d.entropy(), d.cross_entropy(other), d.kl_divergence(other))

    single = fast(readouts)
    for temperature in (1e-6, 1e-2, 1.0, 10.0):
        found = single(*(tensor(x, "float32") for x in (np.array(temperature), *scores)))
        with float64():
            wide = single(*(tensor(x) for x in (np.array(temperature), *scores)))
        *sizes, entropy, cross, divergence = (np.float64(array(x)) for x in found)
        digit = np.where(np.isfinite(sizes[0]), np.abs(sizes).max(0) * 2.0**-23, 0.0)
        for x, y in zip((entropy, cross, divergence), map(array, wide[2:]), strict=True):
            assert (x >= 0).all()
            np.testing.assert_array_less(
                np.abs(np.where(x == y, 0, x - y)), digit + 1e-5 * y + 1e-6
            )


@pytest.mark.parametrize("tree", [ops.eisner, ops.spanning_tree])
def test_the_probability_of_what_is_allowed(tree):
    """Of the trees in which word 1 has a head it is the marginal of the arc."""
    with float64():
        scores = 3 * RNG.normal(size=(2, 4, 4))

        def given(heads):
            allowed = np.where(
                np.isin(np.arange(4), heads) | (np.arange(4) != 1)[:, None], 0, -np.inf
            )
            return tensor(scores + allowed)

        d = tree(tensor(scores))
        marginals = array(d.marginals())
        for heads in ([0], [2, 3], [0, 1, 2, 3]):
            found = np.exp(array(d.log_prob_of(tree(given(heads)))))
            np.testing.assert_allclose(found, marginals[:, 1, heads].sum(-1), rtol=1e-9)
        nothing = array(d.log_prob_of(tree(given([]))))
    assert np.isneginf(nothing).all()
    with pytest.raises(ValueError, match="Received: other=cky"):
        d.log_prob_of(ops.cky(tensor(scores)))
