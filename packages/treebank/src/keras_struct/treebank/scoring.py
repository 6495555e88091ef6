"""Scores of trees that any parser wrote, on gold trees."""

from typing import Any

from keras_struct import parsers
from keras_struct.runs import open_text
from keras_struct.treebank.gold_trees import bracket_measures, read_dependency


def score_files(kind, gold, predicted, skipped=None, encoding=None, parameters=None):
    """Scores of a file of trees on a file of gold trees, sentence by sentence.

    Args:
        kind: `"constituency"`, brackets, scored as EVALB does, or `"dependency"`, CoNLL-U, scored
            as the CoNLL 2018 shared task does over the same words.
        gold, predicted: Paths. Where every line of the gold file is a tree, sentences are lines, as
            for EVALB: an empty line is a sentence without a tree, and several trees on one are a
            tree in pieces.
        skipped: Called with the error of a sentence that cannot be scored, such as one with other
            words or arcs that are no tree, which is left out; None raises.
        encoding: Of the files; None for that of their byte-order marks, or else UTF-8.
        parameters: Path of a parameter file of EVALB; None for those of `bracket_scores`.

    Returns:
        Number of the sentences that are scored, and a dict from the name of a score to its value.

    Raises:
        ValueError: If a gold tree is malformed, or a tree of files that are not read by lines; if
            there are more sentences in one file; or if none is scored.
    """

    def left_out(number, reason):
        error = ValueError(f"{predicted}: sentence {number}: {reason}")
        if skipped is None:
            raise error
        skipped(error)

    if kind == "dependency":
        if parameters is not None:
            raise ValueError(f"Expected brackets for EVALB's parameters. Received: kind={kind!r}")
        return _score_arcs(gold, predicted, left_out, encoding)
    options = {}
    if parameters is not None:
        with open_text(parameters) as lines:
            options = parsers.read_evalb_parameters(lines, str(parameters))
    *sentences, malformed = _read_sentences(gold, predicted, left_out, encoding)
    _check_counts(gold, predicted, *sentences)
    found = parsers.bracket_scores(*sentences, **options)
    for number, reason in found.excluded:
        if number not in malformed:
            left_out(number + 1, reason)
    if not found.sentences:
        raise ValueError(f"Expected sentences of {gold} with their words in {predicted}")
    return found.sentences, bracket_measures(found)


def _read_sentences(gold, predicted, left_out, encoding):
    """Trees of two files, by lines if every line of the first is one; which are malformed."""
    texts = []
    for path in (gold, predicted):
        with open_text(path, encoding) as lines:
            texts.append([line.removeprefix("\ufeff") for line in lines])
    try:
        trees = [tree for line in texts[0] for (tree,) in [parsers.read_trees([line])]]
    except ValueError:
        named = zip(texts, (gold, predicted), strict=True)
        return [*(list(parsers.read_trees(lines, str(path))) for lines, path in named), set()]
    found: list[tuple | None] = []
    malformed = set()
    for number, line in enumerate(texts[1], 1):
        try:
            found.append(tuple(parsers.read_trees([line], str(predicted))))
        except ValueError as error:
            found.append(None)
            malformed.add(number - 1)
            left_out(number, error)
    return trees, found, malformed


def _score_arcs(gold, predicted, left_out, encoding):
    theirs: list[Any] = []  # sentences, and the errors of those that are none
    with open_text(predicted, encoding) as lines:
        for sentence in parsers.read_conllu(lines, str(predicted), theirs.append, trees=True):
            theirs.append(sentence)
    sentences = read_dependency(gold, None, encoding), theirs
    _check_counts(gold, predicted, *sentences)
    pairs = []
    for number, pair in enumerate(zip(*sentences, strict=True), 1):
        if isinstance(pair[1], ValueError):
            left_out(number, pair[1])
            continue
        words = [[word["form"] for word in parsers.words_of(sentence)] for sentence in pair]
        if words[0] == words[1]:
            pairs.append(pair)
        else:
            left_out(number, f"Expected the words {words[0]}. Received: words={words[1]}")
    if not pairs:
        raise ValueError(f"Expected sentences of {gold} with their words in {predicted}")
    found = parsers.attachment_scores(*zip(*pairs, strict=True))
    return len(pairs), {"UAS": found.uas, "LAS": found.las, "CLAS": found.clas}


def _check_counts(gold, predicted, ours, theirs):
    if len(ours) != len(theirs):
        raise ValueError(
            f"Expected as many sentences in {predicted} as in {gold}, {len(ours)}. "
            f"Received: {len(theirs)}"
        )
