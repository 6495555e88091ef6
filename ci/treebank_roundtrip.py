"""Reads treebanks, converts every tree there and back, and prints a table of what came back.

    python ci/treebank_roundtrip.py PATH...

Paths that end in `.conllu` are read as CoNLL-U, others as trees in brackets. The exit status is 1
if a tree did not come back as it was.
"""

import argparse
import collections
import itertools
import re
import sys
import time
from pathlib import Path

from keras_struct import parsers

DIRECTIONS = ("left", "right")


def check_tree(tree):
    """Names of the conversions from which the tree did not come back."""
    words, tags = tree.words(), tree.tags()
    charts = {direction: parsers.chart_spans(tree, direction) for direction in DIRECTIONS}
    back = {
        "collapsed": parsers.expand_unary(parsers.collapse_unary(tree)),
        "spans": parsers.tree_from_spans(words, tags, parsers.tree_spans(tree)),
    }
    for direction, chart in charts.items():
        back[f"binarized {direction}"] = parsers.unbinarize(parsers.binarize(tree, direction))
        back[f"chart {direction}"] = parsers.tree_from_spans(words, tags, chart)
    failures = [name for name, other in back.items() if other != tree]
    if any(len({span[:2] for span in chart}) != 2 * len(words) - 1 for chart in charts.values()):
        failures.append("size of the chart")
    return failures


def check_brackets(path):
    """Counts of a file of trees in brackets, and its failures."""
    counts: collections.Counter = collections.Counter()
    failures: list[str] = []
    written, chart_labels = [], set[str]()
    with path.open(encoding="utf-8") as stream:
        for number, tree in enumerate(parsers.read_trees(stream, path), 1):
            try:
                failures += [f"tree {number}: {name}" for name in check_tree(tree)]
                chart_labels.update(label for _, _, label in parsers.chart_spans(tree))
            except ValueError as error:
                failures.append(f"tree {number}: {error}")
            counts.update(sentences=1, words=len(tree.words()))
            counts["longest"] = max(counts["longest"], len(tree.words()))
            written.append(str(tree))
    counts["labels"] = len(chart_labels)
    pairs = itertools.zip_longest(tokens(path.read_text(encoding="utf-8")), tokens(written))
    failures += ["brackets as written"] * any(read != back for read, back in pairs)
    return counts, failures


def tokens(text):
    """The brackets, labels and words of a string or a list of strings."""
    for part in [text] if isinstance(text, str) else text:
        for match in re.finditer(r"[()]|[^\s()]+", part, re.ASCII):
            yield match[0]


def check_conllu(path):
    """Counts of a CoNLL-U file, and its failures."""
    counts: collections.Counter = collections.Counter()
    failures, written, relations = [], [], set[str]()
    with path.open(encoding="utf-8") as stream:
        for sentence in parsers.read_conllu(stream, path):
            words, (heads, names) = parsers.words_of(sentence), parsers.arcs(sentence)
            bare = parsers.new_sentence([word["form"] for word in words])
            if parsers.arcs(parsers.with_arcs(bare, heads, names)) != (heads, names):
                failures.append(f"arcs of {sentence.metadata['sent_id']}")
            counts.update(sentences=1, words=len(words))
            counts["longest"] = max(counts["longest"], len(words))
            relations.update(names)
            try:
                parsers.check_arcs(sentence)
                counts["non-projective"] += not parsers.is_projective(heads)
            except ValueError as error:
                print(error)
                counts["no tree"] += 1
            written.append(sentence.serialize())
    counts["labels"] = len(relations)
    if "".join(written).rstrip() != path.read_text(encoding="utf-8").rstrip():
        failures.append("text as written")
    return counts, failures


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a treebank file")
    columns = ("sentences", "words", "longest", "labels", "non-projective", "no tree")
    print(f"| {' | '.join(['file', *columns, 'failures', 'seconds'])} |")
    print("| --- " * (len(columns) + 3) + "|")
    failed = False
    for path in parser.parse_args().paths:
        start = time.perf_counter()
        check = check_conllu if path.suffix == ".conllu" else check_brackets
        counts, failures = check(path)
        cells = [f"{counts[column]:,}" if column in counts else "–" for column in columns]
        seconds = f"{time.perf_counter() - start:.1f}"
        name = f"{path.parent.name}/{path.name}"
        print(f"| {' | '.join([name, *cells, str(len(failures)), seconds])} |", flush=True)
        for failure in failures[:10]:
            print(f"{path}: {failure}")
        failed = failed or bool(failures)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
