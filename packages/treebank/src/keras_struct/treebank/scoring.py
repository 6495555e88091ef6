"""Scores of trees that any parser wrote, on gold trees."""

from keras_struct.treebank.gold_trees import KINDS


def score_files(kind, gold, predicted, skipped=None, encoding=None):
    """Scores of a file of trees on a file of gold trees, sentence by sentence.

    Args:
        kind: `"constituency"`, brackets, scored as EVALB does, or `"dependency"`, CoNLL-U, scored
            as the CoNLL 2018 shared task does over the same words.
        gold, predicted: Paths.
        skipped: Called with the error of a sentence whose words differ, which is left out; None
            raises.
        encoding: Of the files; None for that of their byte-order marks, or else UTF-8.

    Returns:
        Number of the sentences that are scored, and a dict from the name of a score to its value.

    Raises:
        ValueError: If a tree is malformed or arcs are no tree, since sentences would then be
            compared with others; if there are more sentences in one file; or if none is left.
    """
    treebank = KINDS[kind]
    trees = [treebank.read(path, None, encoding) for path in (gold, predicted)]
    if len(trees[0]) != len(trees[1]):
        raise ValueError(
            f"Expected as many sentences in {predicted} as in {gold}, {len(trees[0])}. "
            f"Received: {len(trees[1])}"
        )
    pairs = []
    for number, pair in enumerate(zip(*trees, strict=True), 1):
        words = [treebank.words(tree) for tree in pair]
        if words[0] == words[1]:
            pairs.append(pair)
            continue
        where = next(
            (k for k, (a, b) in enumerate(zip(*words, strict=False)) if a != b),
            min(map(len, words)),
        )
        found = [" ".join(w[where : where + 3]) or "the end" for w in words]
        error = ValueError(
            f"{predicted}: Expected the words of {gold} in sentence {number}, {found[0]!r} as word "
            f"{where + 1}. Received: {found[1]!r}"
        )
        if skipped is None:
            raise error
        skipped(error)
    if not pairs:
        raise ValueError(f"Expected sentences. Received: none in {predicted} that are in {gold}")
    return len(pairs), treebank.compared(*zip(*pairs, strict=True))
