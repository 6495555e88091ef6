"""Constituency trees and their bracket notation, `(S (NP (DT the) (NN dog)) (VP (VBD ran)))`."""

import dataclasses
import re
from collections.abc import Sequence

# A label or a word. Blanks are those of ASCII: words of some treebanks hold a no-break space.
_ATOM = re.compile(r"[^\s()]+", re.ASCII)
_TOKEN = re.compile(rf"[()]|{_ATOM.pattern}", re.ASCII)


@dataclasses.dataclass(frozen=True, slots=True, eq=False, repr=False)
class Tree:
    """A constituent over smaller ones, or a part-of-speech tag over its word.

    Trees are immutable. `str` gives the bracket notation on one line, and trees of the same
    notation are equal. Nothing here recurses, so a tree may be of any depth.

    Args:
        label: Label or tag, without blanks and brackets; that of a constituent may be empty.
        children: The word, a string without blanks and brackets (they are written -LRB- and -RRB-);
            or the child trees, at least one.

    Raises:
        ValueError: If it could not be written in bracket notation and read again.

    Example:

    >>> from keras_struct.parsers import Tree
    >>> tree = Tree("NP", [Tree("DT", "the"), Tree("NN", "dog")])
    >>> str(tree), tree.words(), tree.tags()
    ('(NP (DT the) (NN dog))', ['the', 'dog'], ['DT', 'NN'])
    """

    label: str
    children: "Sequence[Tree] | str"

    def __post_init__(self):
        if isinstance(self.children, str):
            valid = all(_ATOM.fullmatch(atom) for atom in (self.label, self.children))
        else:
            object.__setattr__(self, "children", tuple(self.children))
            label = self.label == "" or _ATOM.fullmatch(self.label)
            trees = bool(self.children) and all(isinstance(c, Tree) for c in self.children)
            valid = bool(label) and trees
        if not valid:
            raise ValueError(
                "Expected a label over child trees, or a tag over a word, without blanks and "
                f"brackets. Received: label={self.label!r}, children={self.children!r}"
            )

    @property
    def word(self):
        """The word under a tag; None for a constituent."""
        return self.children if isinstance(self.children, str) else None

    def words(self):
        """The words, from left to right."""
        return [node.word for node in preorder(self) if node.word is not None]

    def tags(self):
        """The part-of-speech tags, from left to right."""
        return [node.label for node in preorder(self) if node.word is not None]

    def __str__(self):
        return fold(self, lambda node, parts: f"({node.label} {node.word or ' '.join(parts)})")

    def __repr__(self):
        return f"Tree<{self}>"

    def __eq__(self, other):
        return str(self) == str(other) if isinstance(other, Tree) else NotImplemented

    def __hash__(self):
        return hash(str(self))


def preorder(tree):
    """Yields every node, parents before their children, from left to right."""
    stack = [tree]
    while stack:
        node = stack.pop()
        yield node
        if node.word is None:
            stack.extend(reversed(node.children))


def fold(tree, function):
    """`function(node, results)` for every node, with the results of its children; that of the root.

    The list is empty under a tag. Children come before their parent, in no other order.
    """
    results: list = []
    for node in reversed(list(preorder(tree))):
        count = 0 if node.word is not None else len(node.children)
        results.append(function(node, [results.pop() for _ in range(count)]))
    return results[0]


def read_trees(lines, name="<lines>"):
    """Reads trees in bracket notation, each on one line or over several.

    Args:
        lines: Lines of text, such as an open file or a list of strings.
        name: What errors call the text, such as the path of the file.

    Yields:
        A `Tree` for each outermost pair of brackets. An extra pair, as in `( (S ...))`, is a
        constituent with an empty label.

    Raises:
        ValueError: If the text is malformed; the message starts with name and line.

    Example:

    >>> from keras_struct.parsers import read_trees
    >>> for tree in read_trees(["( (S (NP (PRP We))", "  (VP (VBD left))))", "(FRAG (RB so))"]):
    ...     print(tree)
    ( (S (NP (PRP We)) (VP (VBD left))))
    (FRAG (RB so))

    Source: Bies et al. (1995), Bracketing Guidelines for Treebank II Style.
    """
    stack: list[tuple] = []  # of open brackets: line, atoms, children
    for number, line in enumerate(lines, 1):
        for token in _TOKEN.findall(line):
            _, atoms, children = stack[-1] if stack else (number, [], [])
            if token == "(" and len(atoms) < 2:
                stack.append((number, [], []))
            elif token == ")" and (children or len(atoms) == 2):
                stack.pop()
                tree = Tree(*atoms) if len(atoms) == 2 else Tree("".join(atoms), children)
                if stack:
                    stack[-1][2].append(tree)
                else:
                    yield tree
            elif stack and token not in "()" and not children and len(atoms) < 2:
                atoms.append(token)
            else:
                raise ValueError(
                    f"{name}:{number}: Expected a label over child trees, such as (NP (NN dog)), "
                    f"or a tag over one word. Received: {token!r} {_place(stack)}"
                )
    if stack:
        raise ValueError(f"{name}:{number}: Expected ')'. Received: no more lines {_place(stack)}")


def _place(stack):
    if not stack:
        return "outside of brackets"
    line, atoms, _ = stack[-1]
    return f"in the bracket '({' '.join(atoms)}' opened in line {line}"
