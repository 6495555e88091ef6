import math

import numpy as np
import pytest

from keras_struct.ops.law_cases import for_backend, others
from keras_struct.ops.laws import ReadoutLaws, StructureLaws
from keras_struct.ops.pcfg import pcfg
from keras_struct.ops.pcfg.cases import CASES
from keras_struct.ops.testing import BACKEND, array, float64, tensor


def grammar(seed, batch, n, k, p, dtype="float64", scale=1.0):
    rng = np.random.default_rng(seed)
    shapes = ((batch, k, k + p, k + p), (batch, n, p), (batch, k))
    return [tensor(scale * rng.normal(size=shape), dtype) for shape in shapes]


@pytest.mark.parametrize("case", for_backend(CASES), ids=str)
class TestPCFG(StructureLaws):
    xla_gradients = False  # XLA compiles them for over a minute; on JAX it compiles all gradients


@pytest.mark.parametrize("case", others(CASES), ids=str)
class TestOtherPCFG(ReadoutLaws):
    pass


@pytest.mark.parametrize("n", [2, 5, 18])
def test_trees_are_counted_by_catalan_numbers(n):
    """Of one nonterminal; with K nonterminals and P preterminals, times K^(n-1) P^n."""
    with float64():
        potentials = [tensor(np.zeros(shape)) for shape in ((2, 5, 5), (n, 3), (2,))]
        value = array(pcfg(*potentials).value())
    count = math.comb(2 * n - 2, n - 1) / n * 2.0 ** (n - 1) * 3.0**n
    np.testing.assert_allclose(np.exp(value), count, rtol=1e-9)


def test_widths_in_parts_equal_widths_in_one():
    """Sentences of 18 words run in parts; padded to 18, short ones must not see it."""
    lengths = np.array([18, 6, 13])
    with float64():
        rules, terms, roots = grammar(0, 3, 18, 2, 2)
        together = pcfg(rules, terms, roots, lengths=lengths)
        value, marginals, best = (
            array(x) for x in (together.value(), together.marginals(), together.argmax())
        )
        for b, n in enumerate(lengths):
            alone = pcfg(rules[b], terms[b, :n], roots[b])
            np.testing.assert_allclose(value[b], array(alone.value()), rtol=1e-12)
            np.testing.assert_allclose(marginals[b], array(alone.marginals()), atol=1e-11)
            np.testing.assert_array_equal(best[b, :n, :n], array(alone.argmax()))
            np.testing.assert_allclose(marginals[b].sum(), n - 1)


def test_symbols_far_apart_in_one_span_keep_their_precision():
    """A symbol whose trees weigh exp(-900) of another's, and which alone may be the root."""
    with float64():
        rules, terms, roots = (array(x) for x in grammar(1, 1, 9, 2, 2))
        rules[:, 0] += 300.0
        roots[:, 0] = -np.inf
        exact = pcfg(*map(tensor, (rules, terms, roots)))
        value, marginals = array(exact.value()), array(exact.marginals("terms"))
    d = pcfg(*(tensor(x, "float32") for x in (rules, terms, roots)))
    np.testing.assert_allclose(array(d.value()), value, rtol=1e-6)
    np.testing.assert_allclose(array(d.marginals("terms")), marginals, atol=2e-4)


def viterbi(rules, terms, roots):
    """The score of the best tree, by plain loops."""
    (words, preterminals), nonterminals = terms.shape, len(roots)
    best = {}
    for i in range(words):
        best[i, i] = np.concatenate([np.full(nonterminals, -np.inf), terms[i]])
    for width in range(2, words + 1):
        for i in range(words - width + 1):
            j = i + width - 1
            cuts = [(rules + best[i, m][:, None] + best[m + 1, j]).max((1, 2)) for m in range(i, j)]
            best[i, j] = np.concatenate([np.max(cuts, axis=0), np.full(preterminals, -np.inf)])
    return (best[0, words - 1][:nonterminals] + roots).max()


def test_the_best_tree_of_a_long_sentence():
    """With many cuts, where the best of them is not in the pair with the greatest sum."""
    rng = np.random.default_rng(0)
    k, p, words = 4, 3, 18
    rules, terms = rng.normal(size=(3, k, k + p, k + p)), rng.normal(size=(3, words, p))
    roots = rng.normal(size=(3, k))
    potentials = [tensor(x, "float32") for x in (rules, terms, roots)]
    best = pcfg(*potentials, temperature=0)
    wanted = [viterbi(*x) for x in zip(rules, terms, roots, strict=True)]
    np.testing.assert_allclose(array(best.value()), wanted, rtol=1e-5)
    d = pcfg(*potentials)
    np.testing.assert_allclose(array(d.score(best.argmax())), wanted, rtol=1e-5)
    np.testing.assert_allclose(array(d.score(d.topk(2).events[0])), wanted, rtol=1e-5)


@pytest.mark.skipif(BACKEND != "torch", reason="torch-struct runs on PyTorch")
def test_agrees_with_torch_struct():
    torch_struct = pytest.importorskip("torch_struct")
    rules, terms, roots = grammar(2, 3, 7, 3, 2)
    d = pcfg(rules, terms, roots)
    peer = torch_struct.SentCFG((terms, rules, roots))
    np.testing.assert_allclose(array(d.value()), array(peer.partition), rtol=1e-9)
    for name, found in zip(("terms", "rules", "roots"), peer.marginals, strict=False):
        np.testing.assert_allclose(array(d.marginals(name)), array(found), atol=1e-9)


@pytest.mark.skipif(BACKEND != "numpy", reason="one backend is enough for NLTK's slow parser")
def test_agrees_with_nltk():
    """The Viterbi parse of an ambiguous sentence under a probabilistic grammar."""
    nltk = pytest.importorskip("nltk")
    text = """
        S -> NP VP [1.0]
        PP -> P NP [1.0]
        VP -> V NP [0.7] | VP PP [0.3]
        NP -> NP PP [0.4] | D N [0.6]
        P -> 'with' [1.0]
        V -> 'saw' [1.0]
        D -> 'the' [0.8] | 'a' [0.2]
        N -> 'man' [0.5] | 'dog' [0.3] | 'telescope' [0.2]
    """
    words = ["the", "man", "saw", "the", "dog", "with", "a", "telescope"]
    peer = nltk.PCFG.fromstring(text)
    (tree,) = nltk.ViterbiParser(peer).parse(words)
    nonterminals, preterminals = ["S", "PP", "VP", "NP"], ["P", "V", "D", "N"]
    symbols = [*nonterminals, *preterminals]
    probability = np.zeros((4, 8, 8)), np.zeros((len(words), 4))
    for production in peer.productions():
        left, right = str(production.lhs()), production.rhs()
        if len(right) == 2:
            index = (symbols.index(left), *(symbols.index(str(x)) for x in right))
            probability[0][index] = production.prob()
        for place, word in enumerate(words):
            if right == (word,):
                probability[1][place, preterminals.index(left)] = production.prob()
    with np.errstate(divide="ignore"):
        rules, terms = (np.log(x) for x in probability)
    d = pcfg(rules, terms, np.array([0.0, *[-np.inf] * 3]), temperature=0)
    np.testing.assert_allclose(np.exp(array(d.value())), tree.prob())
    spans, places = {}, iter(range(len(words)))

    def visit(node):
        if isinstance(node[0], str):
            i = j = next(places)
        else:
            ends = [visit(child) for child in node]
            i, j = ends[0][0], ends[-1][1]
        spans[i, j] = symbols.index(node.label())
        return i, j

    visit(tree)
    event = array(d.argmax())
    found = {(int(i), int(j)): int(event[i, j]) for i, j in np.argwhere(event >= 0)}
    assert found == spans


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((2, 5, 5), (3, 3), (3,)), "Expected rules"),
        (((2, 4, 5), (3, 3), (2,)), "shape of rules="),
        (((5, 5), (3, 3), (2,)), r"Expected rules of shape \(\.\.\., K, S, S\)"),
        (((2, 5, 5), (3,), (2,)), r"Expected terms of shape \(\.\.\., N, P\)"),
    ],
)
def test_bad_input(shapes, message):
    with pytest.raises(ValueError, match=message):
        pcfg(*map(np.zeros, shapes))
