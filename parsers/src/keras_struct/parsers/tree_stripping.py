"""What parsers are not trained on: traces, functions and roots of treebanks."""

from __future__ import annotations

from typing import cast

from keras_struct.parsers.bracket_scores import IGNORED_LABELS, cut_function
from keras_struct.parsers.tree import Tree, fold


def strip_traces(tree: Tree) -> Tree | None:
    """Removes words tagged `-NONE-` and the constituents that they leave empty.

    Args:
        tree: `Tree`.

    Returns:
        `Tree`, or None if nothing is left.

    Example:

    >>> from keras_struct.parsers import read_trees, strip_traces
    >>> (tree,) = read_trees(["(S (NP-SBJ (-NONE- *)) (VP (VB Go)))"])
    >>> strip_traces(tree)
    Tree<(S (VP (VB Go)))>
    """

    def strip(node, children):
        if node.word is not None:
            return None if node.label == "-NONE-" else node
        left = [child for child in children if child is not None]
        return Tree(node.label, left) if left else None

    return fold(tree, strip)


def strip_functions(tree: Tree) -> Tree:
    """Cuts what follows `-` or `=` off the labels of constituents: `NP-SBJ=2` is `NP`.

    Args:
        tree: `Tree`.

    Returns:
        `Tree`.

    Example:

    >>> from keras_struct.parsers import read_trees, strip_functions
    >>> (tree,) = read_trees(["(S (NP-SBJ (-LRB- -LRB-) (PRP We)) (VP (VBD left)))"])
    >>> strip_functions(tree)
    Tree<(S (NP (-LRB- -LRB-) (PRP We)) (VP (VBD left)))>
    """

    def strip(node, children):
        return node if node.word is not None else Tree(cut_function(node.label), children)

    return fold(tree, strip)


def strip_root(tree: Tree) -> Tree:
    """Removes the roots above a sentence that some treebanks have: TOP, ROOT, S1 or an empty label.

    Args:
        tree: `Tree`.

    Returns:
        `Tree`; a root over several constituents stays.

    Example:

    >>> from keras_struct.parsers import read_trees, strip_root
    >>> (tree,) = read_trees(["(S1 (S (VP (VB Go))))"])
    >>> strip_root(tree)
    Tree<(S (VP (VB Go)))>
    """
    while tree.word is None and tree.label in IGNORED_LABELS and len(tree.children) == 1:
        tree = cast(Tree, tree.children[0])
    return tree
