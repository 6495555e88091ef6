"""Labelled bracket precision, recall and F1 of constituency trees, by the conventions of EVALB."""

import itertools
import re
from collections import Counter
from typing import NamedTuple

from keras_struct.parsers.tree_spans import tree_spans

IGNORED_LABELS = ("", "TOP", "ROOT", "S1")
IGNORED_TAGS = ("-NONE-", ",", ":", "``", "''", ".")


class BracketScores(NamedTuple):
    """Scores of a list of trees, between 0 and 1, and the counts they come from.

    Attributes:
        precision: Share of the predicted brackets that are right.
        recall: Share of the gold brackets that are found.
        f1: Harmonic mean of both.
        exact_match: Share of the sentences whose brackets are all right.
        matched: Number of right brackets.
        predicted: Number of predicted brackets.
        gold: Number of gold brackets.
        sentences: Number of the sentences that were scored.
        excluded: List of (number from 0, reason) of the sentences that were not.
    """

    precision: float
    recall: float
    f1: float
    exact_match: float
    matched: int
    predicted: int
    gold: int
    sentences: int
    excluded: list[tuple[int, str]]


def bracket_scores(gold, predicted, ignored_labels=IGNORED_LABELS, ignored_tags=IGNORED_TAGS):
    """Scores predicted constituency trees against gold ones as EVALB does with `COLLINS.prm`.

    Words with an ignored tag (punctuation and traces, by each tree's own tags) are removed first,
    with the brackets they leave empty. Labels lose what follows `-` or `=` (`NP-SBJ` is `NP`), and
    `PRT` counts as `ADVP`. Brackets with an ignored label do not count, and equal ones count as
    often as they occur. A sentence whose words differ, or that has none left, is not scored.

    Args:
        gold: Iterable of `Tree`.
        predicted: Iterable of as many `Tree`.
        ignored_labels: Labels of the brackets that do not count.
        ignored_tags: Tags of the words that are removed.

    Returns:
        `BracketScores`.

    Raises:
        ValueError: If there are more trees on one side.

    Example:

    >>> from keras_struct.parsers import bracket_scores, read_trees
    >>> (gold,) = read_trees(["(S (NP (PRP We)) (VP (VBD left) (NP (NN home))) (. .))"])
    >>> (tree,) = read_trees(["(TOP (S (NP (PRP We)) (VP (VBD left)) (NP (NN home)) (. .)))"])
    >>> scores = bracket_scores([gold], [tree])
    >>> scores.precision, scores.recall, scores.exact_match
    (0.75, 0.75, 0.0)

    Source: Sekine and Collins (1997), EVALB; Black et al. (1991), A Procedure for Quantitatively
    Comparing the Syntactic Coverage of English Grammars.
    """
    sums: Counter = Counter()
    excluded = []
    for number, (g, p) in enumerate(zip(gold, predicted, strict=True)):
        gold_words, gold_spans = scored_spans(g, ignored_labels, ignored_tags)
        words, spans = scored_spans(p, ignored_labels, ignored_tags)
        if words != gold_words or not words:
            excluded.append((number, f"Expected the words {gold_words}. Received: words={words}"))
            continue
        counts = [(gold_spans & spans).total(), spans.total(), gold_spans.total()]
        sums.update(dict(zip(("matched", "predicted", "gold"), counts, strict=True)))
        sums.update(sentences=1, exact=len(set(counts)) == 1)
    return BracketScores(
        precision=_ratio(sums["matched"], sums["predicted"]),
        recall=_ratio(sums["matched"], sums["gold"]),
        f1=_ratio(2 * sums["matched"], sums["predicted"] + sums["gold"]),
        exact_match=_ratio(sums["exact"], sums["sentences"]),
        matched=sums["matched"],
        predicted=sums["predicted"],
        gold=sums["gold"],
        sentences=sums["sentences"],
        excluded=excluded,
    )


def scored_spans(tree, ignored_labels, ignored_tags):
    """The words that remain, and the `Counter` of the brackets that count."""
    kept = [tag not in ignored_tags for tag in tree.tags()]
    place = list(itertools.accumulate(kept, initial=0))
    spans = [(place[s], place[e], scored_label(label)) for s, e, label in tree_spans(tree)]
    words = [word for word, keep in zip(tree.words(), kept, strict=True) if keep]
    return words, Counter(
        span for span in spans if span[0] < span[1] and span[2] not in ignored_labels
    )


def cut_function(label):
    """The label without its function: `NP` of `NP-SBJ=2`."""
    return label[:1] + re.split("[-=]", label[1:], maxsplit=1)[0]


def scored_label(label):
    """What EVALB compares of a label."""
    label = cut_function(label)
    return "ADVP" if label == "PRT" else label


def _ratio(part, whole):
    return part / whole if whole else 0.0
