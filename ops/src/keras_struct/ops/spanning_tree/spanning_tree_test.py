import numpy as np
import pytest
from keras import ops as K

from keras_struct import ops
from keras_struct.ops.law_cases import for_backend, others
from keras_struct.ops.laws import ReadoutLaws, StructureLaws
from keras_struct.ops.spanning_tree.cases import CASES
from keras_struct.ops.testing import BACKEND, array, fast, float64, tensor


@pytest.mark.parametrize("case", for_backend(CASES), ids=str)
class TestSpanningTree(StructureLaws):
    pass


@pytest.mark.parametrize("case", others(CASES), ids=str)
class TestOtherSpanningTree(ReadoutLaws):
    pass


def _read(readouts, arcs, dtype="float32", **options):
    """NumPy results of `readouts(distribution)`, compiled where that is faster."""
    results = fast(lambda x: readouts(ops.spanning_tree(x, **options)))(tensor(arcs, dtype))
    return [array(x) for x in results]


def _summary(d):
    return d.value(), d.marginals(), d.argmax()


@pytest.mark.parametrize("single_root", [True, False])
def test_counts_are_those_of_cayley(single_root):
    """n^(n-1) trees with one root, (n+1)^(n-1) with any number."""
    lengths = np.arange(1, 9)
    arcs = np.zeros((8, 8, 8))
    value, *_ = _read(_summary, arcs, lengths=lengths.astype("int32"), single_root=single_root)
    counts = np.where(single_root, lengths, lengths + 1.0) ** (lengths - 1)
    np.testing.assert_allclose(np.exp(value), counts, rtol=1e-5)


@pytest.mark.parametrize("single_root", [True, False])
def test_large_scores_against_all_trees(single_root):
    """Scores of 1e3 in float32 against a plain sum over all trees in float64."""
    rng = np.random.default_rng(0)
    noise, words = rng.normal(size=(8, 4, 4)), np.arange(4)
    # Arcs that win by so much that words run in circles until a circle gives up one arc.
    circle, pairs = 1e3 * np.eye(4)[words - 1], 1e3 * np.eye(4)[words ^ 1]
    signs = 1e3 * np.sign(rng.normal(size=(2, 4, 4)))
    kinds = [1e3 * noise[:2], noise[2:4] + signs, noise[4:6] + circle, noise[6:] + pairs]
    arcs = np.concatenate(kinds).astype("float32")
    value, marginals, _ = _read(_summary, arcs, single_root=single_root)
    with float64():
        d = ops.spanning_tree(tensor(arcs), single_root=single_root, implementation="reference")
        np.testing.assert_allclose(value, array(d.value()), rtol=1e-6)
        np.testing.assert_allclose(marginals, array(d.marginals()), atol=2e-6)
    np.testing.assert_allclose(marginals.sum(-1), 1.0, atol=2e-6)


@pytest.mark.parametrize("single_root", [True, False])
def test_long_sentences_in_float32(single_root):
    """No error of float32 grows with the length; one root is one root."""
    rng = np.random.default_rng(1)
    scale = np.array([1.0, 10.0, 100.0, 1e3, 1e4])[:, None, None]
    arcs = (scale * rng.normal(size=(5, 24, 24))).astype("float32")
    value, marginals, best = _read(_summary, arcs, single_root=single_root)
    with float64():
        exact = _read(_summary, arcs, dtype="float64", single_root=single_root)
    np.testing.assert_allclose(value, exact[0], rtol=1e-6)
    np.testing.assert_allclose(marginals, exact[1], atol=5e-6)
    np.testing.assert_array_equal(best, exact[2])
    np.testing.assert_allclose(marginals.sum(-1), 1.0, atol=5e-6)
    assert (marginals >= 0).all()
    if single_root:
        roots = np.diagonal(marginals, axis1=1, axis2=2).sum(-1)
        np.testing.assert_allclose(roots, 1.0, atol=5e-6)


def _best_with_networkx(networkx, arcs):
    """Score of the best tree: node 0 is the root, arcs go from head to dependent."""
    graph = networkx.DiGraph()
    for (m, h), score in np.ndenumerate(arcs):
        graph.add_edge(0 if m == h else h + 1, m + 1, weight=score)
    best = networkx.maximum_spanning_arborescence(graph, preserve_attrs=True)
    return sum(weight for *_, weight in best.edges(data="weight"))


def _with_root(arcs, root):
    """Only this word may be the root."""
    words = np.arange(len(arcs))
    return np.where((words[:, None] == words) & (words != root), -1e6, arcs)


@pytest.mark.parametrize("single_root", [True, False])
def test_best_trees_equal_networkx(single_root):
    networkx = pytest.importorskip("networkx", reason="networkx is not installed")
    rng = np.random.default_rng(2)
    lengths = np.array([8, 9, 10, 11, 12, 12], "int32")
    arcs = np.round(rng.normal(size=(6, 12, 12)) * 100)
    with float64():
        score, events = _read(
            lambda d: (d.score(d.argmax()), d.argmax()),
            arcs,
            dtype="float64",
            lengths=lengths,
            single_root=single_root,
        )
    for b, n in enumerate(lengths):
        mine = arcs[b, :n, :n]
        candidates = [_with_root(mine, root) for root in range(n)] if single_root else [mine]
        assert score[b] == max(_best_with_networkx(networkx, x) for x in candidates)
        assert score[b] == mine[np.arange(n), events[b, :n]].sum()
        assert (events[b, n:] == -1).all()


@pytest.mark.parametrize("single_root", [True, False])
def test_samples_have_the_marginals(single_root):
    n, count = 7, 2000
    arcs = np.random.default_rng(3).normal(size=(1, n, n)) * 2
    marginals, samples = _read(
        lambda d: (d.marginals(), d.sample(0, count)), arcs, single_root=single_root
    )
    frequencies = (samples[:, 0, :, None] == np.arange(n)).mean(0)
    deviation = np.sqrt(marginals[0] * (1 - marginals[0]) / count)
    assert (np.abs(frequencies - marginals[0]) < 5 * deviation + 1e-3).all()


@pytest.mark.skipif(BACKEND != "torch", reason="torch-struct runs on PyTorch")
@pytest.mark.parametrize("single_root", [True, False])
def test_equals_torch_struct(single_root):
    """Its determinants with `eps=0`: its public class adds 1e-5 to every weight."""
    deptree = pytest.importorskip("torch_struct.deptree", reason="torch-struct is not installed")
    arcs = tensor(np.random.default_rng(4).normal(size=(4, 10, 10)))
    d = ops.spanning_tree(arcs, single_root=single_root)
    theirs = arcs.transpose(1, 2)  # [head, dependent]
    partition = deptree.deptree_part(theirs, not single_root, eps=0.0)
    np.testing.assert_allclose(array(d.value()), array(partition), rtol=1e-9)
    marginals = deptree.deptree_nonproj(theirs, not single_root, eps=0.0).transpose(1, 2)
    np.testing.assert_allclose(array(d.marginals()), array(marginals), atol=1e-9)


def test_labels_are_a_log_sum():
    """Labels with scores that do not depend on the label are so many equal trees."""
    arcs = np.random.default_rng(5).normal(size=(2, 3, 3))
    value, marginals, _ = _read(_summary, arcs)
    labelled = _read(
        lambda d: (*_summary(d), d.marginals("labels")), arcs, labels=np.zeros((3, 3, 5), "float32")
    )
    np.testing.assert_allclose(labelled[0], value + 3 * np.log(5), rtol=1e-6)
    np.testing.assert_allclose(labelled[1], marginals, atol=1e-6)
    assert labelled[2].shape == (2, 3, 2)
    shares = np.repeat(marginals[..., None] / 5, 5, axis=-1)
    np.testing.assert_allclose(labelled[3], shares, atol=1e-6)


def test_what_is_a_tree():
    trees = [
        [0, 0, 1, -1],
        [0, 0, 1, 2],  # whatever stands in the padding
    ]
    others = [
        [0, 1, 1, -1],  # two roots
        [0, 2, 1, -1],  # a cycle
        [1, 2, 0, -1],  # no root
        [0, 0, 3, -1],  # a head in the padding
        [0, 0, -1, -1],  # no head
        [0, 0, 4, -1],  # beyond the sentence
    ]
    d = ops.spanning_tree(K.zeros((4, 4)), lengths=np.int32(3))
    log_prob = array(d.log_prob(np.array(trees + others, "int32")))
    np.testing.assert_allclose(log_prob, [-np.log(9.0)] * 2 + [-np.inf] * 6, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"arcs": np.zeros(3, "float32")}, r"Expected arcs of shape .*shape of arcs=\(3,\)"),
        ({"arcs": np.zeros((3, 4), "float32")}, r"equal axes.*shape of arcs=\(3, 4\)"),
        ({"arcs": np.zeros((2, 0, 0), "float32")}, r"N >= 1.*shape of arcs=\(2, 0, 0\)"),
        ({"labels": np.zeros((3, 2, 2), "float32")}, r"equal axes.*shape of labels=\(3, 2, 2\)"),
        ({"labels": np.zeros((2, 2, 0), "float32")}, r"L >= 1.*shape of labels"),
        ({"labels": np.zeros((5, 2, 2, 3), "float32")}, r"batch axes.*shape of labels"),
        ({"single_root": 1}, r"Received: single_root=1"),
        ({"single_root": None}, r"Received: single_root=None"),
        ({"lengths": np.array([1, 3], "int32")}, r"between 0 and 2. Received: lengths"),
        ({"temperature": -1.0}, r"Received: temperature=-1.0"),
    ],
)
def test_errors_say_what_was_received(arguments, message):
    with pytest.raises(ValueError, match=message):
        ops.spanning_tree(**{"arcs": np.zeros((2, 2, 2), "float32"), **arguments})
