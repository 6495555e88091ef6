"""Parses sentences with the shipped parsers, and draws their trees.

    make demo BACKEND=jax SENTENCE="The parser reads raw text."

Prints the constituency tree with the probability of each phrase, and the dependency tree with that
of each arc; both are exact marginals of the distributions over all trees. The pictures are written
to build/demo/<backend>.
"""

import argparse
import os
import time
from pathlib import Path

from keras_struct.runs.quiet import hide_native_logs

os.environ.setdefault("KERAS_BACKEND", "jax")
hide_native_logs()

import keras
from rich.console import Console
from rich.table import Table
from rich.tree import Tree

from keras_struct import treebank
from keras_struct.layers.whole_files import open_whole

SENTENCES = ["We sequenced the genome of the mouse and compared it with those of other species."]
ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("sentences", nargs="*", default=SENTENCES, help="English text")
    parser.add_argument("--output", type=Path, help="folder; default build/demo/<backend>")
    options = parser.parse_args()
    folder = options.output or ROOT / "build" / "demo" / keras.config.backend()
    folder.mkdir(parents=True, exist_ok=True)
    console, start, pictures = Console(), time.perf_counter(), []
    constituency = treebank.ConstituencyParser.from_preset("constituency_en")
    dependency = treebank.DependencyParser.from_preset("dependency_en")
    pairs = zip(
        constituency.parse(options.sentences, probabilities=True),
        dependency.parse(options.sentences, probabilities=True),
        strict=True,
    )
    for number, (phrases, arcs) in enumerate(pairs, 1):
        console.print(phrase_tree(phrases))
        console.print(arc_table(arcs))
        for name, parse in (("constituency", phrases), ("dependency", arcs)):
            pictures.append(folder / f"{name}-{number}.svg")
            with open_whole(pictures[-1]) as stream:
                stream.write(treebank.draw(parse))
    seconds = time.perf_counter() - start
    console.print(f"{seconds:.0f} s in all. Open:", *pictures, sep="\n", soft_wrap=True)


def phrase_tree(parse: treebank.ConstituencyParse) -> Tree:
    """Phrases within phrases, each with its probability."""
    root = Tree(" ".join(parse.words), guide_style="dim")
    branches = [(len(parse.words), root)]
    spans = iter(zip(parse.spans, parse.probabilities or [], strict=True))
    following = next(spans, None)
    for place, (word, tag) in enumerate(zip(parse.words, parse.tags, strict=True)):
        while branches[-1][0] <= place:
            branches.pop()
        while following is not None and following[0][0] == place:
            (_, end, label), p = following
            branches.append((end, branches[-1][1].add(f"[bold]{label}[/bold] [dim]{p:.2f}[/dim]")))
            following = next(spans, None)
        branches[-1][1].add(f"[cyan]{tag}[/cyan] {word}")
    return root


def arc_table(parse: treebank.DependencyParse) -> Table:
    """Each word with its head, their relation, and the probability of both."""
    table = Table("", "word", "tag", "head", "relation", "probability")
    for number, row in enumerate(
        zip(
            parse.words,
            parse.tags,
            parse.heads,
            parse.relations,
            parse.probabilities or [],
            strict=True,
        ),
        1,
    ):
        word, tag, head, relation, p = row
        above = parse.words[head - 1] if head else "–"
        table.add_row(str(number), word, tag, above, relation, f"{p:.3f}")
    return table


if __name__ == "__main__":
    main()
