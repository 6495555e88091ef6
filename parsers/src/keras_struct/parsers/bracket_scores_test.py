"""Bracket scores against EVALB's rules written as a loop, and against PYEVALB."""

import keras
import numpy as np
import pytest
from PYEVALB import parser, scorer, summary

from keras_struct.parsers import (
    BracketF1,
    LabelVocabulary,
    bracket_scores,
    chart_spans,
    read_evalb_parameters,
    read_trees,
    tree_spans,
)
from keras_struct.parsers.bracket_scores import IGNORED_TAGS
from keras_struct.parsers.random_tree import permuted_tree, random_tree

DELETED = ("TOP", "ROOT", "S1", "", "-NONE-", ",", ":", "``", "''", ".")


def pairs(seed, size=40, **options):
    """Random gold trees, and for each a prediction; some are equal."""
    rng = np.random.default_rng(seed)
    gold = [random_tree(rng, n, **options) for n in rng.integers(1, 12, size)]
    labels = {k: v for k, v in options.items() if k == "labels"}
    return gold, [t if rng.random() < 0.2 else permuted_tree(rng, t, **labels) for t in gold]


def evalb_counts(gold, predicted):
    """`read_line`, `massage_data` and `calc_result` of evalb.c for one sentence."""

    def read(tree):
        words, brackets = [], []

        def visit(node):
            if node.word is not None:
                if node.label not in DELETED:
                    words.append(node.word)
                return
            bracket = [len(words), None, node.label]
            brackets.append(bracket)
            for child in node.children:
                visit(child)
            bracket[1] = len(words)

        visit(tree)
        for bracket in brackets:
            end = min((bracket[2].find(sign) for sign in "-=" if sign in bracket[2]), default=None)
            bracket[2] = bracket[2][:end]
        return words, [b for b in brackets if b[0] < b[1] and b[2] not in DELETED]

    (words, brackets), (found_words, found) = read(gold), read(predicted)
    if not found_words or words != found_words:
        return None
    used = [False] * len(found)
    for start, end, label in brackets:
        for j, (s, e, other) in enumerate(found):
            same = label == other or {label, other} == {"ADVP", "PRT"}
            if not used[j] and (start, end) == (s, e) and same:
                used[j] = True
                break
    return sum(used), len(found), len(brackets)


def test_agrees_with_evalb():
    gold, predicted = pairs(0, size=200)
    counts = [evalb_counts(g, p) for g, p in zip(gold, predicted, strict=True)]
    valid = [count for count in counts if count is not None]
    scores = bracket_scores(gold, predicted)
    assert [number for number, _ in scores.excluded] == [
        number for number, count in enumerate(counts) if count is None
    ]
    assert 100 < scores.sentences == len(valid) < 200
    expected = tuple(map(sum, zip(*valid, strict=True)))
    assert (scores.matched, scores.predicted, scores.gold) == expected
    assert scores.exact_match == sum(len(set(count)) == 1 for count in valid) / len(valid)
    assert 0 < scores.f1 < 1


def test_agrees_with_pyevalb():
    """Where PYEVALB scores as EVALB does: nothing is deleted there, and brackets are sets."""
    gold, predicted = pairs(1, size=300, labels=["S", "NP", "VP", "PP", "X"], tags=["NN", "VB"])
    both = [
        (g, p)
        for g, p in zip(gold, predicted, strict=True)
        if all(len(set(tree_spans(tree))) == len(tree_spans(tree)) for tree in (g, p))
    ]
    results = []
    for g, p in both:
        result = scorer.Scorer().score_trees(
            *(parser.create_from_bracket_string(str(tree)) for tree in (g, p))
        )
        results.append(result)
        one = bracket_scores([g], [p], ignored_labels=(), ignored_tags=())
        assert (one.matched, one.predicted, one.gold) == (
            result.matched_brackets,
            result.test_brackets,
            result.gold_brackets,
        )
        np.testing.assert_allclose([one.precision, one.recall], [result.prec, result.recall])
    total = summary.summary(results)
    gold, predicted = map(list, zip(*both, strict=True))
    scores = bracket_scores(gold, predicted, ignored_labels=(), ignored_tags=())
    assert scores.sentences == total.valid_sent_num > 50
    np.testing.assert_allclose(
        100 * np.array([scores.precision, scores.recall, scores.f1, scores.exact_match]),
        [total.bracket_prec, total.bracket_recall, total.bracker_fmeasure, total.complete_match],
    )


def test_brackets_that_occur_twice_count_twice():
    gold, tree = read_trees(["(NP (NP (NN a) (NN b)))", "(NP (NP (NP (NN a) (NN b))))"])
    scores = bracket_scores([gold], [tree])
    assert (scores.matched, scores.predicted, scores.gold) == (2, 3, 2)


def test_excluded_sentences_say_why():
    gold = read_trees(["(S (NN a) (NN b))", "(S (. .))", "(S (NN a))"])
    trees = read_trees(["(S (NN a) (. b))", "(S (. .))", "(S (NN a))"])
    scores = bracket_scores(gold, trees)
    assert (scores.sentences, scores.f1, scores.exact_match) == (1, 1.0, 1.0)
    assert scores.excluded == [
        (0, "Expected the words ['a', 'b']. Received: words=['a']"),
        (1, "Expected the words []. Received: words=[]"),
    ]
    assert bracket_scores([], []).f1 == 0.0


def batches(gold, predicted):
    """Labels, and batches of padded spans as a model gives them."""
    forest = [*gold, *predicted]
    tags = {tag for tree in forest for tag in tree.tags()} & set(IGNORED_TAGS)
    labels = {label for tree in forest for _, _, label in chart_spans(tree)}
    vocabulary = LabelVocabulary.of(labels | tags)
    rows = []
    for g, p in zip(gold, predicted, strict=True):
        marks = [(i, i + 1, tag) for i, tag in enumerate(g.tags()) if tag in tags]
        y_true = vocabulary.encode_spans([*chart_spans(g), *marks], 40)
        rows.append((y_true, vocabulary.encode_spans(chart_spans(p, "left"), 30)))
    return vocabulary.labels, [
        tuple(map(np.stack, zip(*rows[i : i + 16], strict=True))) for i in range(0, len(rows), 16)
    ]


def test_metrics_equal_the_function():
    gold, predicted = pairs(2, size=60)
    scores = bracket_scores(gold, predicted)
    kept = [i for i in range(60) if i not in dict(scores.excluded)]
    labels, data = batches([gold[i] for i in kept], [predicted[i] for i in kept])
    for measure in ("f1", "precision", "recall", "exact_match"):
        metric = BracketF1(labels, measure)
        metric = BracketF1.from_config(metric.get_config())
        assert metric.name == f"bracket_{measure}"
        for y_true, y_pred in data:
            metric.update_state(y_true, y_pred)
        np.testing.assert_allclose(float(metric.result()), getattr(scores, measure), rtol=1e-6)
        metric.reset_state()
        assert float(metric.result()) == 0.0


def test_metric_with_weights_and_empty_sentences():
    labels, ((y_true, _),) = batches(*pairs(3, size=2))
    nothing = np.full_like(y_true[:1], -1)
    for measure in ("f1", "exact_match"):
        metric, alone = BracketF1(labels, measure), BracketF1(labels, measure)
        alone.update_state(y_true[:1], y_true[:1])
        metric.update_state(
            np.concatenate([y_true, nothing]),
            np.concatenate([y_true[:1], y_true[:1], nothing]),
            [1.0, 0.0, 1.0],
        )
        np.testing.assert_allclose(float(metric.result()), float(alone.result()))
    with pytest.raises(ValueError, match=r"Expected a measure among .* Received: measure='f2'"):
        BracketF1(labels, "f2")


def test_metric_in_compile():
    labels, ((y_true, y_pred),) = batches(*pairs(4, size=16))
    expected = BracketF1(labels)
    expected.update_state(y_true, y_pred)
    inputs = keras.Input((None, 3), dtype="int32")
    model = keras.Model(inputs, keras.layers.Identity()(inputs))
    model.compile(loss=lambda y_true, y_pred: keras.ops.zeros(()), metrics=[BracketF1(labels)])
    results = model.evaluate(y_pred, y_true, batch_size=4, verbose=0, return_dict=True)
    np.testing.assert_allclose(results["bracket_f1"], float(expected.result()), rtol=1e-6)


# Sentences and figures of the kinds that EVALB's own sample has: gold, predicted, and matched,
# predicted and gold brackets, or None for a sentence that is not scored.
GOLD = "(S (A (P this)) (B (Q is) (A (R a) (T test))))"
SAMPLE = [
    (GOLD, (4, 4, 4)),
    ("(S (A (P this)) (B (Q is) (C (R a) (T test))))", (3, 4, 4)),
    ("(S (C (P this)) (B (Q is) (A (R a) (U test))))", (3, 4, 4)),
    ("(S (A (P this)) (B (Q is) (R a) (A (T test))))", (3, 4, 4)),
    ("(S (A (P this) (Q is)) (A (R a) (T test)))", (2, 3, 4)),
    ("(S (P this) (Q is) (R a) (T test))", (1, 1, 4)),
    ("(P this) (Q is) (R a) (T test)", (0, 0, 4)),
    ("(S (A (P this)) (B (Q is) (A (A (A (R a) (T test))))))", (4, 6, 4)),
    ("", None),
    ("(S (A (P this)) (B (Q was) (A (R a) (T test))))", None),
    ("(S (A (P this)) (B (Q is) (U not) (A (R a) (T test))))", None),
    ("(TOP (S (A (P this)) (B (Q is) (A (R a) (T test)))))", (4, 4, 4)),
    ("(S (A (P this)) (NONE *) (B (Q is) (A (R a) (T test))))", None),
    ("(S (A-SBJ-1 (P This)) (B (Q is) (A (R a) (TT test))) (-NONE- *))", (4, 4, 4)),
    ("(S (AA (P this)) (B (Q is) (A (R a) (T test))) (: *))", (4, 4, 4)),
]
PARAMETERS = """
##  a comment
LABELED 1
DELETE_LABEL TOP
DELETE_LABEL -NONE-
DELETE_LABEL :
DELETE_LABEL_FOR_LENGTH -NONE-
EQ_LABEL A AA
EQ_WORD  This this
"""


def test_evalb_with_a_parameter_file():
    options = read_evalb_parameters(PARAMETERS.splitlines())
    gold = list(read_trees([GOLD])) * len(SAMPLE)
    trees = [tuple(read_trees([text])) for text, _ in SAMPLE]
    scores = bracket_scores(gold, trees, **options)
    unscored = [number for number, (_, counts) in enumerate(SAMPLE) if counts is None]
    assert [number for number, _ in scores.excluded] == unscored
    for (_, counts), g, t in zip(SAMPLE, gold, trees, strict=True):
        one = bracket_scores([g], [t], **options)
        assert (one.matched, one.predicted, one.gold) == (counts or (0, 0, 0))
    unlabeled = bracket_scores(gold[:3], trees[:3], **{**options, "labeled": False})
    assert unlabeled.f1 == 1.0
    for line in ("DELETE_LABELS X", "EQ_LABEL A", "LABELED"):
        with pytest.raises(ValueError, match=r"^p\.prm:2: Expected one of"):
            read_evalb_parameters(["", line], "p.prm")


def test_quotation_marks_that_are_possessives_elsewhere():
    """EVALB's later rule: a mark that one side alone removes stays on both."""
    options = {"quote_tags": ("''", "POS", "``"), "ignored_tags": ("``", "''", ".")}
    (gold,) = read_trees(["(S (NP (DT the) (NNS dogs) ('' ')) (VP (VBP bark)) (. .))"])
    (tree,) = read_trees(["(S (NP (NP (DT the) (NNS dogs) (POS ')) (NN bark)) (. .))"])
    assert bracket_scores([gold], [tree]).sentences == 0
    scores = bracket_scores([gold], [tree], **options)
    # Over the dogs ': S, NP, VP against S, NP, NP.
    assert (scores.matched, scores.predicted, scores.gold, scores.sentences) == (2, 3, 3, 1)
    (other,) = read_trees(["(S (NP (NP (DT the) (NNS dogs) (NN ')) (NN bark)) (. .))"])
    assert bracket_scores([gold], [other], **options).sentences == 0
