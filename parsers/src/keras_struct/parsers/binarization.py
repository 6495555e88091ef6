"""Trees of at most two children, and trees without chains of one child; each with its inverse.

The labels of the new nodes are written with two reserved signs, which the labels of constituents
must not hold: `@NP` is an intermediate node of an NP, `S+VP` an S over nothing but a VP.
"""

from __future__ import annotations

from keras_struct.parsers.tree import Tree, fold, preorder

MARKER = "@"
JOINER = "+"
UNRESERVED = f"without {JOINER} that do not start with {MARKER}"


def binarize(tree: Tree, direction: str = "right") -> Tree:
    """Splits nodes of more than two children, with intermediate nodes labelled `@` and the label.

    Args:
        tree: `Tree`, whose labels do not start with `@`.
        direction: `"right"`: an intermediate node covers all children but the first;
            `"left"`: all but the last.

    Returns:
        `Tree` of at most two children at each node; `unbinarize` gives `tree` back.

    Raises:
        ValueError: If a label starts with `@`, or the direction is another.

    Example:

    >>> from keras_struct.parsers import binarize, read_trees
    >>> (tree,) = read_trees(["(NP (DT the) (JJ big) (NN dog))"])
    >>> binarize(tree), binarize(tree, "left")
    (Tree<(NP (DT the) (@NP (JJ big) (NN dog)))>, Tree<(NP (@NP (DT the) (JJ big)) (NN dog))>)

    Source: Klein and Manning (2003), Accurate Unlexicalized Parsing, §2.
    """
    if direction not in ("left", "right"):
        raise ValueError(f"Expected 'left' or 'right'. Received: direction={direction!r}")
    _check_labels(tree, lambda label: label.startswith(MARKER), f"that do not start with {MARKER}")

    def split(node, children):
        if node.word is not None:
            return node
        while len(children) > 2:
            pair = slice(-2, None) if direction == "right" else slice(2)
            children[pair] = [Tree(MARKER + node.label, children[pair])]
        return Tree(node.label, children)

    return fold(tree, split)


def unbinarize(tree: Tree) -> Tree:
    """Replaces the nodes whose label starts with `@` by their children; undoes `binarize`."""
    if tree.label.startswith(MARKER):
        raise ValueError(f"Expected a root that is no intermediate node. Received: tree={tree}")

    def splice(node, lists):
        if node.word is not None:
            return [node]
        children = [child for children in lists for child in children]
        return children if node.label.startswith(MARKER) else [Tree(node.label, children)]

    (root,) = fold(tree, splice)
    return root


def collapse_unary(tree: Tree) -> Tree:
    """Merges constituents with their only child, if it is no tag: `(S (VP ...))` is `(S+VP ...)`.

    Args:
        tree: `Tree`, whose labels do not hold `+`.

    Returns:
        `Tree` where a node of one child has a tag as the child; `expand_unary` gives `tree` back.

    Raises:
        ValueError: If a label holds `+`.

    Example:

    >>> from keras_struct.parsers import collapse_unary, read_trees
    >>> (tree,) = read_trees(["(ROOT (S (VP (VB Go) (ADVP (RB home)))))"])
    >>> collapse_unary(tree)
    Tree<(ROOT+S+VP (VB Go) (ADVP (RB home)))>
    """
    _check_labels(tree, lambda label: JOINER in label, f"without {JOINER}")

    def merge(node, children):
        if node.word is not None:
            return node
        if len(children) == 1 and children[0].word is None:
            return Tree(node.label + JOINER + children[0].label, children[0].children)
        return Tree(node.label, children)

    return fold(tree, merge)


def expand_unary(tree: Tree) -> Tree:
    """Makes a chain of constituents of every label joined by `+`; undoes `collapse_unary`."""

    def expand(node, children):
        return node if node.word is not None else unary_chain(node.label, children)

    return fold(tree, expand)


def unary_chain(label, children):
    """The constituents whose labels are joined by `+`, the last of them over the children."""
    for part in reversed(label.split(JOINER)):
        children = [Tree(part, children)]
    return children[0]


def check_labels(tree):
    """Raises a `ValueError` if a label holds a sign that `binarize` or `collapse_unary` writes."""
    _check_labels(tree, lambda label: label.startswith(MARKER) or JOINER in label, UNRESERVED)


def _check_labels(tree, reserved, expected):
    for node in preorder(tree):
        if node.word is None and reserved(node.label):
            raise ValueError(f"Expected labels {expected}. Received: label={node.label!r}")
