"""Scores words and sentences of raw text against treebanks, beside other tokenizers.

    pip install syntok spacy
    python packages/treebank/experiments/segmentation.py FILE.conllu...

A paragraph is what lies between `# newpar` or `# newdoc` comments, its sentences joined by a blank.
Words are those of a treebank, parts of multiword tokens where these are just written together. F1
is that of words, and of sentences, by where they begin and end.
"""

import argparse
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from keras_struct import parsers
from keras_struct.treebank.segmentation import sentence_spans

Span = tuple[int, int]
Segmenter = Callable[[str], list[list[Span]]]


class Paragraph(NamedTuple):
    text: str
    sentences: list[list[Span]]


def read_paragraphs(path: Path) -> Iterator[Paragraph]:
    """The paragraphs of a CoNLL-U file, without sentences whose words are not in their text."""
    text = ""
    sentences: list[list[Span]] = []
    with path.open(encoding="utf-8") as lines:
        for sentence in parsers.read_conllu(lines, str(path)):
            if text and any(key.startswith(("newpar", "newdoc")) for key in sentence.metadata):
                yield Paragraph(text, sentences)
                text, sentences = "", []
            start = len(text) + 1 if text else 0
            spans = spans_of(sentence, start)
            if spans:
                text = f"{text} {sentence.metadata['text']}" if text else sentence.metadata["text"]
                sentences.append(spans)
    if text:
        yield Paragraph(text, sentences)


def spans_of(sentence, start: int) -> list[Span]:
    text, at, spans = sentence.metadata["text"], 0, []
    for form in surface_words(sentence):
        while text[at : at + 1].isspace():
            at += 1
        if not text.startswith(form, at):
            return []
        spans.append((start + at, start + at + len(form)))
        at += len(form)
    return spans


def surface_words(sentence) -> list[str]:
    """Words as they are written: multiword tokens in their parts if these give the whole."""
    forms = {token["id"]: token["form"] for token in sentence if isinstance(token["id"], int)}
    found, after = [], 0
    for token in sentence:
        number = token["id"]
        if isinstance(number, tuple) and number[1] == "-":
            first, _, last = number
            parts = [forms[k] for k in range(first, last + 1)]
            found += parts if "".join(parts) == token["form"] else [token["form"]]
            after = last
        elif isinstance(number, int) and number > after:
            found.append(token["form"])
    return found


def with_syntok() -> Segmenter:
    from syntok import segmenter
    from syntok.tokenizer import Tokenizer

    tokenizer = Tokenizer(emit_hyphen_or_underscore_sep=True, replace_not_contraction=False)

    def segment(text):
        found = segmenter.segment(tokenizer.tokenize(text))
        return [[(t.offset, t.offset + len(t.value)) for t in s if t.value] for s in found]

    return segment


def with_spacy() -> Segmenter:
    import spacy

    pipeline = spacy.blank("en")
    pipeline.add_pipe("sentencizer")

    def segment(text):
        return [
            [(t.idx, t.idx + len(t.text)) for t in sentence if not t.is_space]
            for sentence in pipeline(text).sents
        ]

    return segment


def words_of(sentences: list[list[Span]]) -> set[Span]:
    return {span for sentence in sentences for span in sentence}


def ends_of(sentences: list[list[Span]]) -> set[Span]:
    return {(sentence[0][0], sentence[-1][1]) for sentence in sentences}


def f1(pairs: list[tuple[set, set]]) -> float:
    right = sum(len(gold & found) for gold, found in pairs)
    return 200 * right / max(1, sum(len(gold) + len(found) for gold, found in pairs))


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("paths", nargs="+", type=Path, metavar="FILE")
    segmenters: dict[str, Segmenter] = {"keras_struct": sentence_spans}
    for name, make in (("syntok", with_syntok), ("spacy", with_spacy)):
        if importlib.util.find_spec(name):
            segmenters[name] = make()
    print("| file | sentences | by | words | sentences |\n|---|---:|---|---:|---:|")
    for path in options.parse_args().paths:
        paragraphs = list(read_paragraphs(path))
        count = sum(len(paragraph.sentences) for paragraph in paragraphs)
        for name, segment in segmenters.items():
            words, sentences = [], []
            for text, gold in paragraphs:
                found = [spans for spans in segment(text) if spans]
                words.append((words_of(gold), words_of(found)))
                sentences.append((ends_of(gold), ends_of(found)))
            row = f"{f1(words):.2f} | {f1(sentences):.2f}"
            print(f"| {path.name} | {count} | {name} | {row} |", flush=True)


if __name__ == "__main__":
    main()
