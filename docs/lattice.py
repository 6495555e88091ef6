"""Draws `lattice.svg`, both sweeps over a lattice, and `temperature.svg`, from warm to cold.

KERAS_BACKEND=numpy python docs/lattice.py
"""

import os
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "numpy")

import numpy as np

from keras_struct import ops

WORDS = ["they", "can", "fish", "in", "May"]
TAGS = ["noun", "verb", "other"]
UNARY = np.array(
    [[1.2, -1.0, 0.4], [0.2, 0.4, 0.6], [0.8, 0.7, -1.5], [-1.5, -1.0, 1.8], [1.0, 0.4, 0.6]]
)
TRANSITIONS = np.array([[-0.6, 0.9, 0.3], [0.5, -0.5, 0.2], [0.4, 0.3, -0.8]])
STEP, LEFT, TOP, ROW, LARGEST = 120, 110, 54, 74, 26
FORWARD, BACKWARD, INK = "#4a7fb5", "#d9822b", "#7a7f87"
STYLE = f"text {{ font: 15px system-ui, sans-serif; fill: {INK}; }} .mid {{ text-anchor: middle; }}"


def chain(words, temperature=1.0):
    steps = np.repeat(TRANSITIONS[None], max(words - 1, 1), axis=0)
    return ops.linear_chain(
        UNARY[:words], steps if words > 1 else TRANSITIONS, None, None, None, temperature
    )


def place(word, tag):
    return LEFT + STEP * word, TOP + ROW * tag


def circle(word, tag, share, colour, name=""):
    x, y = place(word, tag)
    radius = LARGEST * np.sqrt(share)  # its area is the probability
    return f'<circle class="{name}" cx="{x}" cy="{y}" r="{radius:.1f}" fill="{colour}"/>'


def line(word, first, second, share, colour, name=""):
    (x1, y1), (x2, y2) = place(word, first), place(word + 1, second)
    shape = f'x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"'
    return f'<line class="{name}" {shape} stroke="{colour}" stroke-width="{9 * share:.2f}"/>'


def names():
    rows = [f'<text x="8" y="{place(0, t)[1] + 5}">{tag}</text>' for t, tag in enumerate(TAGS)]
    below = TOP + ROW * len(TAGS) - 14
    return rows + [
        f'<text class="mid" x="{place(w, 0)[0]}" y="{below}">{word}</text>'
        for w, word in enumerate(WORDS)
    ]


def animation():
    """Columns appear one after the other, first forward, then back; without motion, all of them."""
    count, frames = len(WORDS), 2 * len(WORDS) + 2
    style, parts = [STYLE], []
    for frame in range(2 * count):
        start = 100 * frame / frames
        shown = f"{start:.1f}% {{ opacity: 0 }} {start + 4:.1f}% {{ opacity: 1 }}"
        style.append(f"@keyframes s{frame} {{ 0% {{ opacity: 0 }} {shown} }}")
        style.append(f".s{frame} {{ animation: s{frame} 14s infinite; }}")
    style.append("@media (prefers-reduced-motion: reduce) { * { animation: none !important; } }")
    whole = chain(len(WORDS))
    pairs = np.array(whole.marginals("transitions"))
    for word in range(count):
        so_far = np.array(chain(word + 1).marginals())[word]
        parts += [circle(word, t, p, FORWARD, f"s{word}") for t, p in enumerate(so_far)]
    for word in reversed(range(count)):
        name = f"s{2 * count - 1 - word}"
        if word + 1 < count:
            parts += [
                line(word, i, j, pairs[word, i, j], BACKWARD, name)
                for i in range(len(TAGS))
                for j in range(len(TAGS))
            ]
        shares = np.array(whole.marginals())[word]
        parts += [
            f'<circle class="{name}" cx="{place(word, t)[0]}" cy="{place(word, t)[1]}" '
            f'r="{LARGEST * np.sqrt(p):.1f}" fill="{BACKWARD}" fill-opacity="0.85"/>'
            for t, p in enumerate(shares)
        ]
    legend = [
        f'<text x="{LEFT - 20}" y="20"><tspan fill="{FORWARD}">forward: given the words so far'
        f'</tspan><tspan dx="18" fill="{BACKWARD}">backward: given all words</tspan></text>'
    ]
    return svg(LEFT + STEP * count - 50, TOP + ROW * len(TAGS), style, [*legend, *parts, *names()])


def temperatures():
    """Marginals of words and of pairs, at four temperatures."""
    parts, width, height = [], LEFT + STEP * len(WORDS) - 50, TOP + ROW * len(TAGS)
    for number, temperature in enumerate((4.0, 1.0, 0.25, 0)):
        d = chain(len(WORDS), temperature)
        pairs, shares = np.array(d.marginals("transitions")), np.array(d.marginals())
        x, y = number % 2 * width, number // 2 * height
        drawn = [f'<text x="{LEFT - 20}" y="20">temperature {temperature:g}</text>']
        drawn += [
            line(w, i, j, pairs[w, i, j], BACKWARD)
            for w in range(len(WORDS) - 1)
            for i in range(len(TAGS))
            for j in range(len(TAGS))
        ]
        drawn += [
            circle(w, t, shares[w, t], BACKWARD)
            for w in range(len(WORDS))
            for t in range(len(TAGS))
        ]
        parts += [f'<g transform="translate({x} {y})">', *drawn, *names(), "</g>"]
    return svg(2 * width, 2 * height, [STYLE], parts)


def svg(width, height, style, parts):
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">'
    return "\n".join([head, "<style>", *style, "</style>", *parts, "</svg>"]) + "\n"


def pictures():
    return {"lattice.svg": animation(), "temperature.svg": temperatures()}


if __name__ == "__main__":
    for file, text in pictures().items():
        (Path(__file__).parent / file).write_text(text, encoding="utf-8")
