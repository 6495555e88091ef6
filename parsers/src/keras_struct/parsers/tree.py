"""Constituency trees and their bracket notation, `(S (NP (DT the) (NN dog)) (VP (VBD ran)))`."""

from __future__ import annotations

import dataclasses
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

BRACKET_ESCAPES = {
    "-LRB-": "(",
    "-RRB-": ")",
    "-LSB-": "[",
    "-RSB-": "]",
    "-LCB-": "{",
    "-RCB-": "}",
}
_ESCAPE = {sign: escape for escape, sign in BRACKET_ESCAPES.items()}
_TO_ESCAPE = re.compile(r"[()\[\]{}]")
_ESCAPED = re.compile("|".join(BRACKET_ESCAPES))
_NO_WORD = re.compile(r"[\s\x00-\x1f\x7f]+", re.ASCII)
_BROKEN = re.compile("[\ud800-\udfff]")  # halves of characters, bytes that were no text
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
    children: Sequence[Tree] | str

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
    def word(self) -> str | None:
        """The word under a tag; None for a constituent."""
        return self.children if isinstance(self.children, str) else None

    def words(self) -> list[str]:
        """The words, from left to right."""
        return [node.word for node in preorder(self) if node.word is not None]

    def tags(self) -> list[str]:
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


def escape_word(word: str) -> str:
    """A word as treebanks write it: brackets, also within it, as -LRB-, and no blanks.

    Args:
        word: Any string that is not empty.

    Returns:
        String that a `Tree` takes: a blank within it is a no-break space.

    Example:

    >>> from keras_struct.parsers import escape_word, unescape_word
    >>> escape_word("f(x)"), unescape_word("f-LRB-x-RRB-")
    ('f-LRB-x-RRB-', 'f(x)')

    Source: Bies et al. (1995), Bracketing Guidelines for Treebank II Style.
    """
    return _NO_WORD.sub("\u00a0", _TO_ESCAPE.sub(lambda match: _ESCAPE[match[0]], word))


def unescape_word(word: str) -> str:
    """The word that `escape_word` wrote."""
    return _ESCAPED.sub(lambda match: BRACKET_ESCAPES[match[0]], word) if "-" in word else word


def read_trees(
    lines: Iterable[str],
    name: str = "<lines>",
    skipped: Callable[[Exception], object] | None = None,
) -> Iterator[Tree]:
    """Reads trees in bracket notation, each on one line or over several.

    Args:
        lines: Lines of text, such as an open file or a list of strings. A byte-order mark before
            the first one is no part of it.
        name: What errors call the text, such as the path of the file.
        skipped: Called with the error of a malformed tree, which is left out: reading goes on at
            the next line that begins with a bracket, also where a bracket was never closed. None
            raises the error.

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
    for _, tree in numbered_trees(lines, name, skipped):
        yield tree


def numbered_trees(lines, name="<lines>", skipped=None):
    """The trees of `read_trees`, each with the number of its first line."""
    stack: list[tuple] = []  # of open brackets: line, atoms, children
    held: list[tuple[int, str]] = []  # lines since the outermost one
    source, again = enumerate(lines, 1), deque[tuple[int, str]]()  # again: to be read once more
    number, lost = 0, False
    last = 0  # line up to which a bracket at the margin begins a tree, whatever is open

    def unfit(text):
        nonlocal lost, last
        error = ValueError(f"{name}:{number}: {text}")
        if skipped is None:
            raise error
        skipped(error)
        again.extendleft(reversed(held[1:]))  # perhaps whole trees after a bracket never closed
        stack.clear()
        held.clear()
        lost, last = True, max(last, number)

    while True:
        found = again.popleft() if again else next(source, None)
        if found is None:
            if not stack:
                return
            unfit(f"Expected ')'. Received: no more lines {_place(stack)}")
            continue
        number, line = found
        if number == 1:
            line = line.removeprefix("\ufeff")
        if stack and number <= last and line.startswith("("):
            unfit(f"Expected ')'. Received: another tree {_place(stack)}")
        if lost and not line.startswith("("):
            continue
        lost = False
        if not stack:
            held.clear()
        held.append((number, line))
        if _BROKEN.search(line):
            unfit("Expected text in the encoding of the file. Received: bytes that are none")
            continue
        for token in _TOKEN.findall(line):
            _, atoms, children = stack[-1] if stack else (number, [], [])
            if token == "(" and len(atoms) < 2:
                stack.append((number, [], []))
            elif token == ")" and (children or len(atoms) == 2):
                first, *_ = stack.pop()
                tree = Tree(*atoms) if len(atoms) == 2 else Tree("".join(atoms), children)
                if stack:
                    stack[-1][2].append(tree)
                else:
                    yield first, tree
            elif stack and token not in "()" and not children and len(atoms) < 2:
                atoms.append(token)
            else:
                unfit(
                    "Expected a label over child trees, such as (NP (NN dog)), "
                    f"or a tag over one word. Received: {token[:80]!r} {_place(stack)}"
                )
                break


def _place(stack):
    if not stack:
        return "outside of brackets"
    line, atoms, _ = stack[-1]
    return f"in the bracket '({' '.join(atoms)[:80]}' opened in line {line}"
