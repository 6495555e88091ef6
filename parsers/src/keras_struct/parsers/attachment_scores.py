"""Attachment scores of dependency trees, by the conventions of the CoNLL 2018 shared task."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import conllu

from keras_struct.parsers.dependencies import arcs, words_of

_CONTENT = """
    acl advcl advmod amod appos ccomp compound conj csubj dep discourse dislocated expl fixed
    flat goeswith iobj list nmod nsubj nummod obj obl orphan parataxis reparandum root vocative
    xcomp
"""
CONTENT_RELATIONS = frozenset(_CONTENT.split())


class AttachmentScores(NamedTuple):
    """Scores of a list of dependency trees, between 0 and 1.

    Attributes:
        uas: Unlabelled attachment score: share of the words with the right head.
        las: Labelled attachment score: share of the words with the right head and relation.
        clas: Content-word labelled attachment score: F1 of the words with a content relation.
        words: Number of words.
    """

    uas: float
    las: float
    clas: float
    words: int


def attachment_scores(
    gold: Iterable[conllu.TokenList], predicted: Iterable[conllu.TokenList]
) -> AttachmentScores:
    """Scores predicted dependency trees over gold words as the CoNLL 2018 shared task does.

    All words count, punctuation too. Of a relation only what stands before `:` is compared
    (`nsubj:pass` is `nsubj`). Words without a content relation, such as `det`, `case` and `punct`,
    are left out of CLAS.

    Args:
        gold: Iterable of `conllu.TokenList`.
        predicted: Iterable of as many `conllu.TokenList`, with the same words.

    Returns:
        `AttachmentScores`.

    Raises:
        ValueError: If there are more sentences on one side, or the words of one differ.

    Example:

    >>> from keras_struct.parsers import attachment_scores, new_sentence, with_arcs
    >>> words = new_sentence(["We", "left", "early"])
    >>> gold = with_arcs(words, [2, 0, 2], ["nsubj", "root", "advmod"])
    >>> tree = with_arcs(words, [2, 0, 1], ["nsubj:pass", "root", "advmod"])
    >>> scores = attachment_scores([gold], [tree])
    >>> round(scores.uas, 3), round(scores.las, 3), scores.words
    (0.667, 0.667, 3)

    Source: Zeman et al. (2018), CoNLL 2018 Shared Task, §5.1; Nivre and Fang (2017), Universal
    Dependency Evaluation (CLAS).
    """
    words = heads_right = right = content = content_gold = content_predicted = 0
    for number, (g, p) in enumerate(zip(gold, predicted, strict=True)):
        forms, received = ([word["form"] for word in words_of(s)] for s in (g, p))
        if forms != received:
            where = g.metadata.get("sent_id", number)
            raise ValueError(
                f"Expected the words {forms} in the sentence {where!r}. Received: words={received}"
            )
        pairs = zip(*arcs(g), *arcs(p), strict=True)
        for head, relation, found_head, found_relation in pairs:
            relation, found_relation = map(universal_relation, (relation, found_relation))
            same_head = head == found_head
            same = same_head and relation == found_relation
            is_content = relation in CONTENT_RELATIONS
            words += 1
            heads_right += same_head
            right += same
            content += same and is_content
            content_gold += is_content
            content_predicted += found_relation in CONTENT_RELATIONS
    return AttachmentScores(
        uas=heads_right / max(words, 1),
        las=right / max(words, 1),
        clas=2 * content / max(content_gold + content_predicted, 1),
        words=words,
    )


def universal_relation(relation):
    """The universal part of a relation: `nsubj` of `nsubj:pass`."""
    return str(relation).split(":")[0]
