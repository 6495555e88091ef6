"""Labelled bracket precision, recall and F1 of constituency trees, by the conventions of EVALB."""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from keras_struct.parsers.tree import Tree
from keras_struct.parsers.tree_spans import tree_spans

IGNORED_LABELS = ("", "TOP", "ROOT", "S1")
IGNORED_TAGS = ("-NONE-", ",", ":", "``", "''", ".")
EQUAL_LABELS = (("ADVP", "PRT"),)
QUOTES = ("'", '"', "/")  # marks that a tag decides on
# What the lines of EVALB's parameter files may begin with, and how many values follow.
EVALB_PARAMETERS = {
    "DEBUG": 1,
    "MAX_ERROR": 1,
    "CUTOFF_LEN": 1,
    "LABELED": 1,
    "DELETE_LABEL": 1,
    "DELETE_LABEL_FOR_LENGTH": 1,
    "QUOTE_LABEL": 1,
    "EQ_LABEL": 2,
    "EQ_WORD": 2,
}


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


def bracket_scores(
    gold: Iterable[Tree | tuple[Tree, ...] | None],
    predicted: Iterable[Tree | tuple[Tree, ...] | None],
    ignored_labels: Iterable[str] = IGNORED_LABELS,
    ignored_tags: Iterable[str] = IGNORED_TAGS,
    equal_labels: Iterable[Sequence[str]] = EQUAL_LABELS,
    equal_words: Iterable[Sequence[str]] = (),
    quote_tags: Iterable[str] = (),
    labeled: bool = True,
) -> BracketScores:
    """Scores predicted constituency trees against gold ones as EVALB does with `COLLINS.prm`.

    Words with an ignored tag (punctuation and traces, by each tree's own tags) are removed first,
    with the brackets they leave empty. Labels lose what follows `-` or `=` (`NP-SBJ` is `NP`), and
    `PRT` counts as `ADVP`. Brackets with an ignored label do not count, and equal ones count as
    often as they occur. A sentence whose words differ, or that has none left, is not scored.

    Args:
        gold: Iterable of `Tree`; a sentence may also be a tuple of them, side by side, or None.
        predicted: Iterable of as many.
        ignored_labels: Labels of the brackets that do not count.
        ignored_tags: Tags of the words that are removed.
        equal_labels: Pairs of labels that count as one.
        equal_words: Pairs of words that count as one.
        quote_tags: Tags of quotation marks that may be possessives. Where one side alone removes
            the mark at a place, and the words differ in number, it stays on both.
        labeled: Whether labels are compared.

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

    Source: Sekine and Collins (1997), EVALB, with its later changes (quotation marks); Black et al.
    (1991), A Procedure for Quantitatively Comparing the Syntactic Coverage of English Grammars.
    """
    same_labels, same_words = _pairs(equal_labels), _pairs(equal_words)
    sums: Counter = Counter()
    excluded = []
    for number, (g, p) in enumerate(zip(gold, predicted, strict=True)):
        kept = [[tag not in ignored_tags for tag in _tags(side)] for side in (g, p)]
        if sum(kept[0]) != sum(kept[1]):
            _keep_quotes(g, p, kept, quote_tags)
        (gold_words, gold_spans), (words, spans) = (
            _scored(side, keep, ignored_labels, same_labels)
            for side, keep in zip((g, p), kept, strict=True)
        )
        equal = len(words) == len(gold_words) and all(
            one == other or (one, other) in same_words
            for one, other in zip(gold_words, words, strict=True)
        )
        if not equal or not words:
            excluded.append((number, f"Expected the words {gold_words}. Received: words={words}"))
            continue
        matched = _matched(gold_spans, spans, same_labels, labeled)
        counts = [matched, len(spans), len(gold_spans)]
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


def read_evalb_parameters(lines: Iterable[str], name: str = "<lines>") -> dict[str, Any]:
    """The options of `bracket_scores` that a parameter file of EVALB stands for.

    `DELETE_LABEL`, `EQ_LABEL`, `EQ_WORD`, `QUOTE_LABEL` and `LABELED` decide scores; `DEBUG`,
    `MAX_ERROR`, `CUTOFF_LEN` and `DELETE_LABEL_FOR_LENGTH` do not.

    Args:
        lines: Lines of text, such as an open file.
        name: What errors call the text.

    Returns:
        Dict of options.

    Raises:
        ValueError: For a line that EVALB does not know; the message starts with name and line.

    Example:

    >>> from keras_struct.parsers import read_evalb_parameters
    >>> options = read_evalb_parameters(["# comment", "DELETE_LABEL TOP", "EQ_LABEL ADVP PRT"])
    >>> options["ignored_labels"], options["equal_labels"]
    (('TOP',), [('ADVP', 'PRT')])
    """
    found: dict[str, list] = {key: [] for key in EVALB_PARAMETERS}
    for number, line in enumerate(lines, 1):
        key, *values = line.split() or [""]
        if line.startswith("#") or not key:
            continue
        if len(values) != EVALB_PARAMETERS.get(key):
            raise ValueError(
                f"{name}:{number}: Expected one of {list(EVALB_PARAMETERS)} with its values. "
                f"Received: {line.strip()[:80]!r}"
            )
        found[key].append(values[0] if len(values) == 1 else tuple(values))
    deleted = tuple(found["DELETE_LABEL"])
    return {
        "ignored_labels": deleted,
        "ignored_tags": deleted,
        "equal_labels": found["EQ_LABEL"],
        "equal_words": found["EQ_WORD"],
        "quote_tags": tuple(found["QUOTE_LABEL"]),
        "labeled": found["LABELED"][-1:] != ["0"],
    }


def _trees(sentence):
    """The trees of a sentence: one, several side by side, or none."""
    if sentence is None:
        return ()
    return sentence if isinstance(sentence, (tuple, list)) else (sentence,)


def _tags(sentence):
    return [tag for tree in _trees(sentence) for tag in tree.tags()]


def _words(sentence):
    return [word for tree in _trees(sentence) for word in tree.words()]


def _pairs(pairs):
    return {both for one, other in pairs for both in ((one, other), (other, one))}


def _scored(sentence, kept, ignored_labels, same_labels):
    """The words that remain, and the brackets that count, parents first."""
    place = list(itertools.accumulate(kept, initial=0))
    spans, shift = [], 0
    for tree in _trees(sentence):
        for start, end, label in tree_spans(tree):
            label = cut_function(label)
            empty = place[start + shift] == place[end + shift]
            ignored = any(label == x or (label, x) in same_labels for x in ignored_labels)
            if not empty and not ignored:
                spans.append((place[start + shift], place[end + shift], label))
        shift += len(tree.words())
    words = [word for word, keep in zip(_words(sentence), kept, strict=True) if keep]
    return words, spans


def _matched(gold, predicted, same_labels, labeled):
    """How many gold brackets find an equal one that no other has found, as EVALB looks for it."""
    left = defaultdict(list)
    for start, end, label in predicted:
        left[start, end].append(label)
    count = 0
    for start, end, label in gold:
        others = left[start, end]
        for k, other in enumerate(others):
            if not labeled or label == other or (label, other) in same_labels:
                del others[k]
                count += 1
                break
    return count


def _keep_quotes(gold, predicted, kept, quote_tags):
    """Have marks stay, in `kept`, that one side alone removes; as EVALB's `fix_quote`."""
    sides = zip((gold, predicted), kept, strict=True)
    ours, theirs = (_quote_marks(side, keep, quote_tags) for side, keep in sides)
    for i, mark in enumerate(theirs):
        before = mark["before"]
        for j, other in enumerate(ours):
            if other["before"] != before or other["tag"] == mark["tag"]:
                continue
            if mark["stays"] and not other["stays"]:
                kept[0][other["place"]] = True
                moved = ours[j:]
            elif other["stays"] and not mark["stays"]:
                kept[1][mark["place"]] = True
                moved = theirs[i:]
            else:
                continue
            for later in moved:
                later["before"] += 1


def _quote_marks(sentence, kept, quote_tags):
    """Of each mark its place, its tag, how many words before it stay, and whether it does."""
    before = list(itertools.accumulate(kept, initial=0))
    return [
        {"place": k, "tag": tag, "before": before[k], "stays": kept[k]}
        for k, (word, tag) in enumerate(zip(_words(sentence), _tags(sentence), strict=True))
        if tag in quote_tags and word in QUOTES
    ]


def cut_function(label):
    """The label without its function: `NP` of `NP-SBJ=2`."""
    return label[:1] + re.split("[-=]", label[1:], maxsplit=1)[0]


def scored_label(label):
    """What EVALB compares of a label."""
    label = cut_function(label)
    return "ADVP" if label == "PRT" else label


def _ratio(part, whole):
    return part / whole if whole else 0.0
