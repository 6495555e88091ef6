"""Constituency trees as labelled spans: lists of `(start, end, label)`, the end exclusive."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from keras_struct.layers.annotations import Span
from keras_struct.parsers.binarization import MARKER, binarize, collapse_unary, unary_chain
from keras_struct.parsers.tree import Tree

NULL = MARKER  # label of the spans that are no constituent


def tree_spans(tree: Tree) -> list[Span]:
    """The spans of all constituents, parents before their children, from left to right.

    Args:
        tree: `Tree` of N words.

    Returns:
        List of `(start, end, label)`, 0 <= start < end <= N; tags are not among them.

    Example:

    >>> from keras_struct.parsers import read_trees, tree_spans
    >>> (tree,) = read_trees(["(S (NP (PRP We)) (VP (VBD left)))"])
    >>> tree_spans(tree)
    [(0, 2, 'S'), (0, 1, 'NP'), (1, 2, 'VP')]
    """
    spans: list[tuple] = []
    position = 0
    stack: list[Any] = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, int):  # all children of this constituent have been seen
            start, label = spans[node]
            spans[node] = (start, position, label)
        elif node.word is not None:
            position += 1
        else:
            stack.append(len(spans))
            spans.append((position, node.label))
            stack.extend(reversed(node.children))
    return spans


def chart_spans(tree: Tree, direction: str = "right") -> list[Span]:
    """The complete set of 2N - 1 labelled spans of the binarized tree, as a CKY chart has it.

    Every span between two positions occurs at most once: a chain of constituents over the same
    words has one label, joined by `+`. Spans that are no constituent, which are the intermediate
    nodes and the words that lie directly in a larger constituent, have the label `NULL`.

    Args:
        tree: `Tree` of N words; labels of constituents do not start with `@` and hold no `+`.
        direction: Direction of `binarize`, `"right"` or `"left"`.

    Returns:
        List of 2N - 1 `(start, end, label)`, parents before their children, from left to right.

    Raises:
        ValueError: If a label holds a reserved sign, or the direction is another.

    Example:

    >>> from keras_struct.parsers import chart_spans, read_trees
    >>> (tree,) = read_trees(["(S (VP (VB Go) (ADVP (RB home)) (ADVP (RB now))))"])
    >>> for span in chart_spans(tree):
    ...     print(span)
    (0, 3, 'S+VP')
    (0, 1, '@')
    (1, 3, '@')
    (1, 2, 'ADVP')
    (2, 3, 'ADVP')

    Source: Stern, Andreas and Klein (2017), A Minimal Span-Based Neural Constituency Parser, §2.
    """
    spans = [
        (start, end, NULL if label.startswith(MARKER) else label)
        for start, end, label in tree_spans(binarize(collapse_unary(tree), direction))
    ]
    labelled = {start for start, end, _ in spans if end == start + 1}
    words = set(range(len(tree.words())))
    spans += [(word, word + 1, NULL) for word in words - labelled]
    return sorted(spans, key=_preorder)


def tree_from_spans(words: Sequence[str], tags: Sequence[str], spans: Iterable[Span]) -> Tree:
    """The tree of nested labelled spans; the inverse of `chart_spans` and of `tree_spans`.

    Args:
        words: List of N words, N >= 1.
        tags: List of N part-of-speech tags.
        spans: Nested `(start, end, label)` in any order; of two over the same words the first is
            the parent. Labels joined by `+` become chains, and spans labelled `NULL` are left out.

    Returns:
        `Tree`. If no span covers a whole sentence of several constituents, its root has an empty
        label.

    Raises:
        ValueError: If spans cross or leave the sentence.

    Example:

    >>> from keras_struct.parsers import tree_from_spans
    >>> spans = [(0, 3, "S+VP"), (0, 1, "@"), (1, 3, "@"), (1, 2, "ADVP"), (2, 3, "ADVP")]
    >>> tree_from_spans(["Go", "home", "now"], ["VB", "RB", "RB"], spans)
    Tree<(S (VP (VB Go) (ADVP (RB home)) (ADVP (RB now))))>
    """
    leaves = [Tree(tag, word) for tag, word in zip(tags, words, strict=True)]
    parts = {start: (start + 1, leaf) for start, leaf in enumerate(leaves)}

    def take(start, end):
        children = []
        while start < end:
            if start not in parts or parts[start][0] > end:
                raise ValueError(
                    f"Expected nested spans within 0 and {len(leaves)}. Received: spans={spans}"
                )
            start, tree = parts.pop(start)
            children.append(tree)
        return children

    for start, end, label in reversed(sorted(spans, key=_preorder)):
        if label != NULL:
            parts[start] = end, unary_chain(label, take(start, end))
    top = take(0, len(leaves))
    return top[0] if len(top) == 1 else Tree("", top)


def _preorder(span):
    return span[0], -span[1]
