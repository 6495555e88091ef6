"""Random trees for property tests."""

import itertools

from keras_struct.parsers.tree import Tree

LABELS = ("S", "NP", "VP", "ADVP", "PRT", "NP-SBJ", "NP=2")
TAGS = ("NN", "-LRB-", "-NONE-", ",", ".")


def random_tree(rng, n, labels=LABELS, tags=TAGS):
    """A constituent over n words, with unary chains and nodes of many children.

    Args:
        rng: `numpy.random.Generator`.
        n: Number of words, at least 1.
        labels: Labels to choose from.
        tags: Tags to choose from; a word is its tag in lower case.

    Returns:
        `Tree`.
    """

    def grow(n):
        if n == 1 and rng.random() < 0.6:
            tag = str(rng.choice(tags))
            return Tree(tag, tag.lower())
        return Tree(str(rng.choice(labels)), children(n))

    def children(n):
        cuts = 1 + rng.permutation(n - 1)[: rng.integers(0, min(n, 5))]
        bounds = [0, *sorted(cuts.tolist()), n]
        return [grow(end - start) for start, end in itertools.pairwise(bounds)]

    return Tree(str(rng.choice(labels)), children(n))


def permuted_tree(rng, tree, labels=LABELS):
    """A random tree over the tagged words of another."""
    leaves = iter([Tree(tag, word) for tag, word in zip(tree.tags(), tree.words(), strict=True)])

    def replace(node):
        if node.word is not None:
            return next(leaves)
        return Tree(node.label, [replace(child) for child in node.children])

    return replace(random_tree(rng, len(tree.words()), labels))
