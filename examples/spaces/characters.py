"""Sentences as arrays: characters in, one tag per character out, and how right the tags are.

A word is tagged `B M ... M E`, a word of one letter `S`; B rows, N characters.
"""

from typing import NamedTuple

import numpy as np

ALPHABET = "abcdefghijklmnopqrstuvwxyz'"  # number 1 and on; 0 is padding
LABELS = ["B", "M", "E", "S"]


class Scores(NamedTuple):
    """Of the boundaries between words, and of whole sentences."""

    precision: float
    recall: float
    f1: float
    exact: float


def encode(sentences: list[str], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Characters and tags of sentences, (B, length) each; 0 and -1 in the padding."""
    characters = np.zeros((len(sentences), length), "int32")
    tags = np.full((len(sentences), length), -1, "int32")
    for row, sentence in enumerate(sentences):
        words = sentence.split()
        letters = "".join(words)
        marks = "".join("B" + "M" * (len(w) - 2) + "E" if len(w) > 1 else "S" for w in words)
        characters[row, : len(letters)] = [1 + ALPHABET.index(letter) for letter in letters]
        tags[row, : len(marks)] = [LABELS.index(mark) for mark in marks]
    return characters, tags


def join_to_rows(sentences: list[str], length: int) -> list[str]:
    """Sentences joined to rows of at most `length` characters, each to the first row with room."""
    rows: list[str] = []
    room: list[int] = []
    for sentence in sentences:
        letters = len(sentence.replace(" ", ""))
        for i, left in enumerate(room):
            if letters <= left:
                rows[i] += " " + sentence
                room[i] -= letters
                break
        else:
            rows.append(sentence)
            room.append(length - letters)
    return rows


def boundaries(tags: np.ndarray) -> np.ndarray:
    """Whether a word ends at each character and the next one starts a word, (B, N - 1).

    The tags of an independent tagger may contradict each other. As in the CoNLL-2000 evaluation,
    a boundary is where a word ends or the next one starts.
    """
    end, start = np.isin(tags[:, :-1], (2, 3)), np.isin(tags[:, 1:], (0, 3))
    return (end | start) & (tags[:, 1:] >= 0)


def insert_spaces(sentence: str, boundary: np.ndarray) -> str:
    """The characters of a sentence with a space at each boundary."""
    letters = "".join(sentence.split())
    spaces = [" " if boundary[i] else "" for i in range(len(letters) - 1)]
    return "".join(letter + space for letter, space in zip(letters, [*spaces, ""], strict=True))


def score(predicted: np.ndarray, target: np.ndarray) -> Scores:
    """Scores of predicted tags (B, N); what they hold in the padding of `target` is ignored."""
    found, true = boundaries(np.where(target < 0, -1, predicted)), boundaries(target)
    right = (found & true).sum()
    precision, recall = right / max(found.sum(), 1), right / true.sum()
    f1 = 2 * right / (found.sum() + true.sum())
    exact = (found == true).all(axis=1).mean()
    return Scores(*map(float, (precision, recall, f1, exact)))
