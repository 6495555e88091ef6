"""Pictures of trees, in SVG."""

import contextlib
import re
import sys
import unicodedata
from collections.abc import Iterator, Sequence

import svgling
import svgwrite

from keras_struct import parsers
from keras_struct.treebank.parses import ConstituencyParse, DependencyParse

FONT = "Helvetica, Arial, sans-serif"
GAP, LEVEL, MARGIN = 22, 34, 14  # pixels
SIZE, SMALL = 16, 11  # of letters, in pixels
INK, ARC, PALE = "#222222", "#2a6f97", "#888888"
# A nested <svg> cuts off what its text, whose width nobody knows, takes more than was reckoned.
STYLE = "svg { overflow: visible }"
DEEPEST = 100_000  # calls: svgling takes a few for each level of a tree
_BLANKS = re.compile(r"\s+")
_NO_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _shown(text: str) -> str:
    """A text that XML can hold, on one line."""
    return _NO_XML.sub("\ufffd", _BLANKS.sub(" ", text))


def _width(text: str, size: float = SIZE) -> float:
    """At most how wide a text is: Chinese characters and emoji are squares."""
    return size * sum(1.0 if unicodedata.east_asian_width(c) in "WF" else 0.58 for c in text)


@contextlib.contextmanager
def _deep_calls():
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, DEEPEST))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def draw(parse: ConstituencyParse | DependencyParse) -> str:
    """The tree of a sentence as the text of an SVG file.

    If the parse has probabilities, each phrase and each arc shows its own: below the label of the
    phrase, and below the dependent of the arc.

    Example:

    >>> from keras_struct.treebank import ConstituencyParse, draw
    >>> parse = ConstituencyParse(["We", "left"], ["PRP", "VBD"], [(0, 2, "S")], [0.75])
    >>> picture = draw(parse)
    >>> picture.startswith("<svg"), "left" in picture, "0.75" in picture
    (True, True, True)
    """
    return _draw_arcs(parse) if isinstance(parse, DependencyParse) else _draw_phrases(parse)


def _draw_phrases(parse: ConstituencyParse) -> str:
    longest = max([*parse.words, *parse.tags], key=_width, default="")
    letters = len(longest) / max(_width(longest, 1.0), 1.0)
    font = svgling.core.cssfont(FONT)
    with _deep_calls():
        tree = _nested(parse.tree, _probabilities(parse))
        picture = svgling.draw_tree(tree, font_style=font, average_glyph_width=letters).get_svg()
        width, height = (float(picture[side].removesuffix("px")) for side in ("width", "height"))
        drawing = svgwrite.Drawing()
        drawing.add(picture)
        _frame(drawing, -MARGIN, -MARGIN, width + MARGIN, height + MARGIN)
        return drawing.tostring()


def _probabilities(parse: ConstituencyParse) -> Iterator[float | None]:
    """Of every node of the tree that is a phrase, parents first: a chain has one probability."""
    known: Sequence[float | None] | None = parse.probabilities
    known = [None] * len(parse.spans) if known is None else known
    ordered = sorted(zip(parse.spans, known, strict=True), key=lambda x: (x[0][0], -x[0][1]))
    for (_, _, label), p in ordered:
        if label != parsers.NULL:
            yield from [p] * len(label.split("+"))


def _nested(tree, probabilities):
    # Depth is that of the sentence's nesting; recursion is svgling's own.
    if tree.word is not None:
        return (_shown(tree.label), _shown(tree.word))
    p = next(probabilities, None) if tree.label else None
    label = _shown(tree.label) if p is None else f"{_shown(tree.label)}\n{p:.2f}"
    return (label, *[_nested(child, probabilities) for child in tree.children])


def _frame(drawing, left: float, top: float, right: float, bottom: float) -> None:
    """Shows this part of the drawing, on white."""
    size = right - left, bottom - top
    drawing["width"], drawing["height"] = (f"{x:g}px" for x in size)
    drawing["viewBox"] = " ".join(f"{x:g}" for x in (left, top, *size))
    drawing.elements.insert(1, drawing.style(STYLE))
    drawing.elements.insert(2, drawing.rect((left, top), size, fill="white"))


def _draw_arcs(parse: DependencyParse) -> str:
    """Words in a row, an arc above them from each head to its dependent."""
    words = [_shown(word) for word in parse.words]
    centres, right = [], 0.0
    for word, tag in zip(words, parse.tags, strict=True):
        width = max(_width(word), _width(tag, SMALL))
        centres.append(right + width / 2)
        right += width + GAP
    levels = _levels(parse.heads)
    base = LEVEL * (max(levels, default=0) + 1)
    drawing = svgwrite.Drawing()
    left, right = 0.0, right - GAP

    def write(text, at, y, anchor="middle", **style):
        nonlocal left, right
        width = _width(text, style["font_size"])
        start = at - width / 2 if anchor == "middle" else at
        left, right = min(left, start), max(right, start + width)
        drawing.add(drawing.text(text, (at, y), text_anchor=anchor, font_family=FONT, **style))

    for number, (at, word, tag) in enumerate(zip(centres, words, parse.tags, strict=True)):
        write(word, at, base + 22, font_size=SIZE, fill=INK)
        write(tag, at, base + 40, font_size=SMALL, fill=PALE)
        if parse.probabilities is not None:
            write(f"{parse.probabilities[number]:.2f}", at, base + 56, font_size=SMALL, fill=ARC)
    for dependent, (head, level) in enumerate(zip(parse.heads, levels, strict=True)):
        at, relation = centres[dependent], parse.relations[dependent]
        if head == 0:
            curve = f"M{at:g},0 L{at:g},{base}"
            write(relation, at + 4, 10, anchor="start", font_size=SMALL, fill=ARC)
        else:
            start, top = centres[head - 1], base - LEVEL * level
            start += 5 if at > start else -5  # the arcs of one head side by side
            curve = f"M{start:g},{base} C{start:g},{top:g} {at:g},{top:g} {at:g},{base}"
            # The curve is three quarters as high as its control points.
            highest = base - 0.75 * LEVEL * level - 3
            write(relation, (start + at) / 2, highest, font_size=SMALL, fill=ARC)
        drawing.add(drawing.path(curve, stroke=ARC, fill="none", stroke_width=1.4))
        drawing.add(drawing.polygon([(at - 4, base - 7), (at + 4, base - 7), (at, base)], fill=ARC))
    bottom = base + (40 if parse.probabilities is None else 56)
    _frame(drawing, left - MARGIN, -MARGIN, right + MARGIN, bottom + MARGIN)
    return drawing.tostring()


def _levels(heads):
    """How high each arc goes: above the arcs within it."""
    arcs = [(min(m, h), max(m, h)) if h else (m, m) for m, h in enumerate(heads, 1)]
    order = sorted(range(len(arcs)), key=lambda i: arcs[i][1] - arcs[i][0])
    levels = [1] * len(arcs)
    for place, i in enumerate(order):
        low, high = arcs[i]
        within = [levels[j] for j in order[:place] if arcs[j][0] < high and low < arcs[j][1]]
        levels[i] = 1 + max(within, default=0)
    return levels
