"""Pictures of trees, in SVG."""

import contextlib
import re
import sys

import svgling
import svgwrite

from keras_struct.treebank.parses import ConstituencyParse, DependencyParse

FONT = "Helvetica, Arial, sans-serif"
CHARACTER, GAP, LEVEL, MARGIN = 9, 22, 34, 14  # pixels
INK, ARC = "#222222", "#2a6f97"
DEEPEST = 100_000  # calls: svgling takes a few for each level of a tree
_BLANKS = re.compile(r"\s+")
_NO_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _shown(text: str) -> str:
    """A text that XML can hold, on one line."""
    return _NO_XML.sub("\ufffd", _BLANKS.sub(" ", text))


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

    Example:

    >>> from keras_struct.treebank import ConstituencyParse, draw
    >>> picture = draw(ConstituencyParse(["We", "left"], ["PRP", "VBD"], [(0, 2, "S")]))
    >>> picture.startswith("<svg"), "left" in picture
    (True, True)
    """
    if isinstance(parse, DependencyParse):
        return _draw_arcs(parse)
    with _deep_calls():
        drawing = svgling.draw_tree(_nested(parse.tree)).get_svg()
        drawing.elements.insert(1, drawing.rect((0, 0), ("100%", "100%"), fill="white"))
        return drawing.tostring()


def _nested(tree):
    # Depth is that of the sentence's nesting; recursion is svgling's own.
    if tree.word is not None:
        return (_shown(tree.label), _shown(tree.word))
    return (_shown(tree.label), *[_nested(child) for child in tree.children])


def _draw_arcs(parse: DependencyParse) -> str:
    """Words in a row, an arc above them from each head to its dependent."""
    words = [_shown(word) for word in parse.words]
    widths = [CHARACTER * max(len(w), len(t)) for w, t in zip(words, parse.tags, strict=True)]
    centres, right = [], float(MARGIN)
    for width in widths:
        centres.append(right + width / 2)
        right += width + GAP
    levels = _levels(parse.heads)
    base = MARGIN + LEVEL * (max(levels) + 1)
    drawing = svgwrite.Drawing(size=(right - GAP + MARGIN, base + 3 * MARGIN + 20))
    drawing.add(drawing.rect((0, 0), ("100%", "100%"), fill="white"))
    style = {"text_anchor": "middle", "font_family": FONT, "fill": INK}
    for at, word, tag in zip(centres, words, parse.tags, strict=True):
        drawing.add(drawing.text(word, (at, base + 22), font_size=16, **style))
        drawing.add(drawing.text(tag, (at, base + 40), font_size=11, **{**style, "fill": "#888"}))
    small = {**style, "fill": ARC, "font_size": 11}
    for dependent, (head, level) in enumerate(zip(parse.heads, levels, strict=True)):
        at, relation = centres[dependent], parse.relations[dependent]
        if head == 0:
            curve = f"M{at:g},{MARGIN} L{at:g},{base}"
            beside = {**small, "text_anchor": "start"}
            drawing.add(drawing.text(relation, (at + 4, MARGIN + 10), **beside))
        else:
            start, top = centres[head - 1], base - LEVEL * level
            start += 5 if at > start else -5  # the arcs of one head side by side
            curve = f"M{start:g},{base} C{start:g},{top:g} {at:g},{top:g} {at:g},{base}"
            # The curve is three quarters as high as its control points.
            highest = ((start + at) / 2, base - 0.75 * LEVEL * level - 3)
            drawing.add(drawing.text(relation, highest, **small))
        drawing.add(drawing.path(curve, stroke=ARC, fill="none", stroke_width=1.4))
        drawing.add(drawing.polygon([(at - 4, base - 7), (at + 4, base - 7), (at, base)], fill=ARC))
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
