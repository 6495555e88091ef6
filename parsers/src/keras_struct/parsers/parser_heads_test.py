import keras
import numpy as np
import pytest

from keras_struct import layers, parsers
from keras_struct.layers import check_layer
from keras_struct.layers.check_layer import CHECKS
from keras_struct.ops.enumerated import enumeration
from keras_struct.ops.testing import BACKEND, HAS_GRADIENTS, array, float64, tensor, tried
from keras_struct.parsers.random_tree import random_tree
from keras_struct.parsers.tree_target import event_of, tree_of

COMPILED = ("jax", "tensorflow")
# Name of the structure, and whether a tree has a single root.
STRUCTURES = ("cky", "eisner", "spanning_tree", "eisner_multi_root", "spanning_tree_multi_root")
RNG = np.random.default_rng(0)
LENGTHS = np.array([4, 1, 3], "int32")
STATES = RNG.normal(size=(3, 4, 3)).astype("float32")
MASK = np.arange(4) < LENGTHS[:, None]
HEADS = np.array([[2, 0, 2, 3], [0, -1, -1, -1], [3, 1, 0, -1]])
ARCS = np.stack([HEADS, np.where(HEADS < 0, -1, HEADS % 2)], axis=-1)
LABELS = parsers.LabelVocabulary(["@", "S", "NP"])
WORDS = [(place, place + 1, "@") for place in range(4)]
SPANS = np.stack(
    [
        LABELS.encode_spans(spans, 7)
        for spans in (
            [(0, 4, "S"), (0, 2, "NP"), *WORDS[:2], (2, 4, "@"), WORDS[2], (3, 4, "NP")],
            [(0, 1, "S")],
            [(0, 3, "S"), (0, 1, "NP"), (1, 3, "@"), *WORDS[1:3]],
        )
    ]
)


def target(structure):
    return SPANS if structure == "cky" else ARCS


def pack(scores, lengths=None, structure="cky"):
    name = structure.removesuffix("_multi_root")
    return layers.pack(layers.TreePotentials(scores, lengths, name, name == structure))


def potentials(structure, scale=1.0):
    """Random scores in float64 with NaN in the padding, and their packed tensor."""
    rng = np.random.default_rng(1)
    scores = scale * rng.normal(size=(3, 4, 4, 3 if structure == "cky" else 2))
    scores[~(MASK[:, :, None] & MASK[:, None])] = np.nan
    return scores, pack(tensor(scores), LENGTHS, structure)


def trees(packed):
    """All trees of each sentence: their events as bytes, scores and padded arrays."""
    unpacked = layers.unpack(packed)
    found = []
    for b, objects in enumerate(enumeration(unpacked.distribution())):
        events = tensor(np.stack([event for event, *_ in objects]), "int32")
        arrays = array(tree_of(events, unpacked._replace(lengths=LENGTHS[[b] * len(objects)])))
        found.append([(s, x) for (_, s, _), x in zip(objects, arrays, strict=True)])
    return found


def numbered(tree):
    """One number for each labelled part of a padded array of a tree."""
    places = np.arange(len(tree))[:, None] * (tree.shape[-1] == 2)
    return (np.concatenate([places, tree], axis=1) @ [1000, 100, 10, 1][-1 - tree.shape[-1] :])[
        tree[:, 0] >= 0
    ].tolist()


def errors(gold, tree):
    """How many labelled parts of a tree are not gold."""
    if gold.shape[-1] == 3:
        return len({*map(tuple, tree)} - {*map(tuple, gold)})
    return int((gold != tree).any(axis=-1).sum())


@pytest.mark.parametrize("structure", STRUCTURES)
def test_losses_equal_enumeration(structure):
    with float64():
        _, packed = potentials(structure)
        gold = target(structure)
        nll = parsers.TreeNLL(reduction=None, dtype="float64")(gold, packed)
        hinge = parsers.TreeMaxMargin(0.7, reduction=None, dtype="float64")(gold, packed)
        for b, objects in enumerate(trees(packed)):
            scores = np.array([score for score, _ in objects])
            wrong = np.array([errors(gold[b], tree) for _, tree in objects])
            assert (wrong == 0).sum() == 1
            score = scores[wrong == 0][0]
            np.testing.assert_allclose(
                array(nll)[b], np.logaddexp.reduce(scores) - score, rtol=1e-5
            )
            expected = max(scores + 0.7 * wrong) - score
            np.testing.assert_allclose(array(hinge)[b], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("structure", ["eisner", "spanning_tree"])
def test_what_is_not_known_of_a_tree_is_summed_out(structure):
    """Unknown heads and relations: all trees that agree with the others."""
    with float64():
        _, packed = potentials(structure)
        gold = np.array(target(structure))
        gold[0, 1], gold[0, 0, 1], gold[1, :, 0] = -100, -100, -100
        nll = parsers.TreeNLL(reduction=None, dtype="float64")(gold, packed)
        several = 0
        for b, objects in enumerate(trees(packed)):
            scores = np.array([score for score, _ in objects])
            fits = [((gold[b] == -100) | (gold[b] == tree)).all() for _, tree in objects]
            several += sum(fits) > 1
            expected = np.logaddexp.reduce(scores) - np.logaddexp.reduce(scores[fits])
            np.testing.assert_allclose(array(nll)[b], expected, rtol=1e-6)
        assert several


def test_brackets_that_are_known_in_part():
    """All trees with the listed spans; a label may be unknown, also where all spans are listed."""
    gold = np.full((3, 7, 3), -1)
    gold[0, :3] = (2, 4, 0), (0, 4, -100), (-100, -100, -100)
    gold[1, :2] = (-100, -100, -100), (0, 1, 1)
    gold[2] = np.where((SPANS[2] == (1, 3, 0)).all(-1, keepdims=True), (1, 3, -100), SPANS[2])
    with float64():
        _, packed = potentials("cky")
        nll = array(parsers.TreeNLL(reduction=None, dtype="float64")(gold, packed))
        crossed = gold.copy()
        crossed[0, 1] = 1, 3, 0
        assert array(parsers.TreeNLL(reduction=None)(crossed, packed))[0] == np.inf
        for b, objects in enumerate(trees(packed)):
            scores, fits = np.array([score for score, _ in objects]), []
            listed = [tuple(row) for row in gold[b] if row[0] >= 0]
            whole = -100 not in gold[b, :, 0]
            for _, tree in objects:
                label = {(i, j): k for i, j, k in tree if i >= 0}
                found = [(label.get((i, j)), k) for i, j, k in listed]
                agree = all(got == k or (k == -100 and got is not None) for got, k in found)
                fits.append(agree and (not whole or len(label) == len(listed)))
            assert 1 < sum(fits) < len(objects) or b == 1
            expected = np.logaddexp.reduce(scores) - np.logaddexp.reduce(scores[fits])
            np.testing.assert_allclose(nll[b], expected, rtol=1e-6)


@pytest.mark.parametrize("structure", STRUCTURES[:3])
def test_max_margin_is_zero_where_the_gold_tree_wins_by_the_margin(structure):
    scores, _ = potentials(structure, scale=0.0)
    event = array(event_of(target(structure), layers.unpack(potentials(structure, 0.0)[1])))
    gold = np.zeros_like(scores)
    for b in range(3):
        if structure == "cky":
            for i, j in np.argwhere(event[b] >= 0):
                gold[b, i, j, event[b, i, j]] = 1
        else:
            for m, (h, label) in enumerate(event[b]):
                if h >= 0:
                    gold[b, m, h, label] = 1
    loss = parsers.TreeMaxMargin(1.0, reduction=None)
    for factor, expected in ((1.0, 0.0), (0.9, None)):
        packed = pack((factor * gold).astype("float32"), LENGTHS, structure)
        value = array(loss(target(structure), packed))
        if expected is None:
            assert (value > 0.05).all()
        else:
            np.testing.assert_allclose(value, 0, atol=1e-6)


@pytest.mark.parametrize("structure", ["cky", "eisner"])
def test_local_cross_entropy(structure):
    """Softmax by softmax, in loops."""
    scores, packed = potentials(structure)
    loss = parsers.LocalCrossEntropy(reduction=None)
    got = array(loss(target(structure), packed))
    for b, n in enumerate(LENGTHS):
        expected = 0.0
        if structure == "cky":
            gold = {(s, e): k for s, e, k in SPANS[b].tolist()}
            for i in range(n):
                for j in range(i, n):
                    row = scores[b, i, j]
                    expected += np.logaddexp.reduce(row) - row[gold.get((i, j + 1), 0)]
        else:
            for m, (head, label) in enumerate(ARCS[b, :n]):
                row = scores[b, m, :n]
                expected += np.logaddexp.reduce(row.ravel())
                expected -= row[m if head == 0 else head - 1, label]
        np.testing.assert_allclose(got[b], expected, rtol=1e-5)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_decoded_trees(structure):
    with float64():
        scores, packed = potentials(structure)
        unpacked = layers.unpack(packed)
        name = structure.removesuffix("_multi_root")
        assert (unpacked.structure, unpacked.single_root) == (name, name == structure)
        np.testing.assert_array_equal(array(unpacked.lengths), LENGTHS)
        np.testing.assert_allclose(array(unpacked.scores), scores, rtol=1e-6)
        best = array(parsers.TreeDecoder(dtype="float64")(packed))
        marginals = array(parsers.TreeDecoder("marginals", dtype="float64")(packed))
        risk = array(parsers.TreeDecoder("minimum_risk", dtype="float64")(packed))
    assert (marginals[~(MASK[:, :, None] & MASK[:, None])] == 0).all()
    for b, objects in enumerate(trees(packed)):
        p = np.exp([score for score, _ in objects])
        p /= p.sum()
        winner = max(objects, key=lambda o: o[0])[1]
        np.testing.assert_array_equal(best[b], winner)
        parts = sorted({part for _, tree in objects for part in numbered(tree)})
        uses = np.array([np.isin(parts, numbered(tree)) for _, tree in objects], float)
        correct = uses @ (p @ uses)
        np.testing.assert_array_equal(risk[b], objects[int(np.argmax(correct))][1])
        counts = 2 * LENGTHS[b] - 1 if structure == "cky" else LENGTHS[b]
        np.testing.assert_allclose(marginals[b].sum(), counts, rtol=1e-5)


@pytest.mark.parametrize("threshold", [0.0, 0.4])
def test_minimum_risk_where_a_label_does_not_count(threshold):
    with float64():
        _, packed = potentials("cky")
        decoder = parsers.TreeDecoder("minimum_risk", 0.5, 0, threshold, dtype="float64")
        found = array(decoder(packed))
    decoder = parsers.TreeDecoder.from_config(decoder.get_config())
    assert (decoder.null_label, decoder.threshold) == (0, threshold)
    for b, objects in enumerate(trees(packed)):
        p = np.exp([score / 0.5 for score, _ in objects])
        probability: dict = {}
        for (_, tree), weight in zip(objects, p / p.sum(), strict=True):
            for part in map(tuple, tree[tree[:, 0] >= 0]):
                probability[part] = probability.get(part, 0.0) + weight

        def worth(tree, probability=probability):
            parts = map(tuple, tree[tree[:, 0] >= 0].tolist())
            return sum(probability[part] - threshold for part in parts if part[2] != 0)

        np.testing.assert_allclose(worth(found[b]), max(worth(tree) for _, tree in objects))


def test_a_target_that_is_no_tree_has_an_infinite_loss():
    _, packed = potentials("eisner")
    crossing = np.array(ARCS)
    crossing[0, :, 0] = [3, 4, 0, 3]
    for loss in (parsers.TreeNLL(reduction=None), parsers.TreeMaxMargin(reduction=None)):
        assert np.isinf(array(loss(crossing, packed))).tolist() == [True, False, False]
        with pytest.raises(ValueError, match=r"Expected heads and relations \(B, N, 2\)"):
            loss(SPANS, packed)
        with pytest.raises(ValueError, match=r"Expected spans \(B, M, 3\)"):
            loss(ARCS, potentials("cky")[1])
        with pytest.raises(ValueError, match="Expected packed potentials"):
            loss(ARCS, np.zeros((1, 3, 3)))


def test_spans_of_any_tree_come_back():
    rng = np.random.default_rng(3)
    charts = [parsers.chart_spans(random_tree(rng, n, labels=("S", "NP"))) for n in (1, 2, 7, 12)]
    labels = parsers.LabelVocabulary.of([label for c in charts for *_, label in c])
    spans = np.stack([labels.encode_spans(chart, 23) for chart in charts])
    scores = np.zeros((4, 12, 12, len(labels)), "float32")
    unpacked = layers.unpack(pack(scores, [1, 2, 7, 12]))
    np.testing.assert_array_equal(array(tree_of(event_of(spans, unpacked), unpacked)), spans)


def test_metrics_take_packed_scores():
    for structure, metric in (
        ("cky", parsers.BracketF1(LABELS.labels)),
        ("eisner", parsers.AttachmentScore()),
    ):
        _, packed = potentials(structure)
        results = []
        for y_pred in (packed, parsers.TreeDecoder()(packed)):
            metric.reset_state()
            metric.update_state(target(structure), y_pred)
            results.append(float(metric.result()))
        assert results[0] == results[1] < 1


HEAD_LAYERS = {
    "cky": lambda **options: parsers.CKYParser(3, boundary_dim=4, **options),
    "eisner": lambda **options: parsers.EisnerParser(2, arc_dim=4, relation_dim=3, **options),
    "spanning_tree": lambda **options: parsers.SpanningTreeParser(
        2, arc_dim=4, relation_dim=3, single_root=False, **options
    ),
}


@pytest.mark.parametrize("structure", HEAD_LAYERS)
def test_keras_contract(structure):
    check_layer(
        lambda: HEAD_LAYERS[structure](),
        STATES,
        mask=MASK,
        loss=parsers.TreeNLL(),
        targets=target(structure),
        checks=tried(CHECKS),
    )


@pytest.mark.parametrize("mode", ["tree", "marginals"])
@pytest.mark.parametrize("structure", HEAD_LAYERS)
def test_keras_contract_of_inner_layers(structure, mode):
    checks = ("config", "spec", "masks")
    check_layer(lambda: HEAD_LAYERS[structure](output_mode=mode), STATES, mask=MASK, checks=checks)


def test_biaffine_contract():
    inputs = {"rows": STATES, "columns": STATES[:, :3, :2]}
    layer = parsers.Biaffine(2)
    check_layer(layer, inputs, checks=("config", "spec", "mixed_precision", "fit"))
    rows, columns = (
        np.pad(x, [(0, 0), (0, 0), (0, 1)], constant_values=1) for x in inputs.values()
    )
    kernel = array(layer.kernel)
    expected = np.einsum("bnf,fkg,bmg->bnmk", rows, kernel, columns)
    np.testing.assert_allclose(array(layer(**inputs)), expected, rtol=1e-4, atol=1e-5)


# One loss where each is compiled for seconds.
LOSSES = [parsers.TreeNLL(), parsers.TreeMaxMargin()][: 1 if BACKEND in COMPILED else 2]


@pytest.mark.skipif(not HAS_GRADIENTS, reason="the NumPy backend has no gradients")
@pytest.mark.parametrize("structure", ["cky", "spanning_tree"])
@pytest.mark.parametrize(
    "loss", [parsers.TreeNLL(), parsers.TreeMaxMargin()], ids=["nll", "margin"]
)
def test_training_reaches_the_gold_trees(structure, loss):
    if BACKEND in ("jax", "tensorflow") and not isinstance(loss, parsers.TreeNLL):
        pytest.skip("one loss is enough where each is compiled for seconds")
    keras.utils.set_random_seed(0)
    words = np.where(MASK, np.arange(1, 13).reshape(3, 4), 0)
    model = keras.Sequential(
        [keras.layers.Embedding(13, 16, mask_zero=True), HEAD_LAYERS[structure]()]
    )
    labels = LABELS.labels
    metric = parsers.BracketF1(labels) if structure == "cky" else parsers.AttachmentScore()
    model.compile(keras.optimizers.Adam(0.05), loss=loss, metrics=[metric])
    history = model.fit(words, target(structure), epochs=60, batch_size=3, verbose=0).history
    decoded = layers.decoding_model(model)(words)
    np.testing.assert_array_equal(array(decoded), target(structure))
    assert history[metric.name][-1] == 1


def test_greedy_spans_are_nested_and_agree_with_the_best_tree_where_it_is_sure():
    rng = np.random.default_rng(5)
    for n in (1, 2, 5, 9):
        spans = parsers.greedy_spans(rng.normal(size=(n, n, 4)))
        assert spans[0][:2] == (0, n)
        tree = parsers.tree_from_spans(["w"] * n, ["T"] * n, [(s, e, str(k)) for s, e, k in spans])
        assert len(parsers.tree_spans(tree)) == len(spans)
        assert all(k != 0 for *_, k in spans)


def test_arguments():
    _, packed = potentials("cky")
    for message, make in {
        "num_labels=0": lambda: parsers.CKYParser(0),
        "num_relations=1.5": lambda: parsers.EisnerParser(1.5),
        "output_mode='heads'": lambda: parsers.SpanningTreeParser(2, output_mode="heads"),
        "dropout=1": lambda: parsers.CKYParser(2, dropout=1),
        "single_root=1": lambda: parsers.EisnerParser(2, single_root=1),
        "arc_dim=0": lambda: parsers.EisnerParser(2, arc_dim=0),
        "units=0": lambda: parsers.Biaffine(0),
        "margin=0": lambda: parsers.TreeMaxMargin(0),
        "temperature=-1": lambda: parsers.TreeDecoder(temperature=-1),
        "threshold=1": lambda: parsers.TreeDecoder("minimum_risk", threshold=1),
        "null_label=9": lambda: parsers.TreeDecoder("minimum_risk", null_label=9)(packed),
        "structure='dag'": lambda: pack(np.zeros((1, 2, 2, 1)), structure="dag"),
        r"Expected scores of shape \(B, N, N, K\)": lambda: pack(np.zeros((1, 2, 2))),
        "states_shape": lambda: parsers.CKYParser(2)(np.zeros((1, 2))),
    }.items():
        with pytest.raises(ValueError, match=message.replace(".", r"\.")):
            make()
