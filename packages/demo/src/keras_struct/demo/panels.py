"""What each panel of the page asks for: plain values in, plain values out, sentences as errors."""

import base64
import binascii
import functools
import itertools
import math
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_struct import layers, ops, parsers, protein, treebank
from keras_struct.treebank.minilm import minilm_folder

WARMEST = 16.0
MOST_WORDS, MOST_LETTERS, MOST_CHARACTERS, MOST_RESIDUES = 60, 60, 120, 1500
SAMPLES = 5
# Of words by their rank in a vocabulary that is ordered by frequency; of a letter that is no word.
LONGEST_WORD, UNKNOWN = 16, -14.0
ALIGNMENTS = ("needleman_wunsch", "overlap", "smith_waterman")


def number(name: str, value: object, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(f"Expected a number from {low:g} to {high:g}. Received: {name}={value!r}")
    return float(value)


def text(name: str, value: object, most: int) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"Expected some text. Received: {name}={value!r}")
    if len(value) > most:
        raise ValueError(f"Expected at most {most} letters. Received: {len(value)} in {name}")
    return value.strip()


def to_numpy(x: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(x))


def rounded(x: np.ndarray) -> list:
    return np.round(x.astype("float64"), 4).tolist()


def trees(sentence: str, temperature: float = 1.0) -> dict[str, Any]:
    """Both trees of a sentence as SVG, with probabilities at a temperature, and their entropies.

    The best tree is that of all temperatures; how sure of each part one is changes.
    """
    temperature = number("temperature", temperature, 0, WARMEST)
    found = treebank.sentences_of(text("sentence", sentence, 20 * MOST_WORDS))
    words = found[0]
    if len(words) > MOST_WORDS:
        raise ValueError(f"Expected at most {MOST_WORDS} words. Received: {len(words)}")
    answer: dict[str, Any] = {"left_out": len(found) - 1}
    for kind in ("constituency", "dependency"):
        parser = parser_of(kind)
        tags, packed = scores_of(kind, tuple(words))
        tree = to_numpy(parsers.TreeDecoder()(packed))[0]
        d = layers.unpack(packed).distribution(temperature=temperature)
        marginals = to_numpy(d.marginals("labels"))[0]
        parse = parser.result(words, tree, tags, marginals)
        answer[kind] = treebank.draw(parse)
        answer[f"{kind}_entropy"] = round(float(to_numpy(d.entropy())[0]), 3)
    return answer


@functools.cache
def parser_of(kind: str) -> Any:
    classes: dict[str, Any] = {
        "constituency": treebank.ConstituencyParser,
        "dependency": treebank.DependencyParser,
    }
    return classes[kind].from_preset(f"{kind}_en")


@functools.cache
def scorer_of(kind: str) -> keras.Model:
    """The parser as a plain model: KerasHub would preprocess what are arrays already."""
    parser = parser_of(kind)
    return keras.Model(parser.input, parser.output)


@functools.lru_cache(maxsize=16)
def scores_of(kind: str, words: tuple[str, ...]) -> tuple[list[str], Any]:
    """Tags, and the packed scores of the trees, of one sentence."""
    parser = parser_of(kind)
    arrays = parser.preprocessor.arrays([list(words)])
    found = scorer_of(kind).predict_on_batch(parser.needed(arrays))
    tags = np.argmax(np.asarray(found["tags"])[0], axis=-1)[: len(words)]
    return [parser.tags[k] for k in tags], keras.ops.convert_to_tensor(found["tree"])


def sequences(
    first: str,
    second: str,
    temperature: float = 1.0,
    match: float = 2.0,
    mismatch: float = -1.0,
    gap_open: float = -3.0,
    gap_extend: float = -1.0,
    structure: str = "needleman_wunsch",
) -> dict[str, Any]:
    """The map of the alignments of two texts by letters, the best path, and samples, as rows."""
    first, second = text("first", first, MOST_LETTERS), text("second", second, MOST_LETTERS)
    if structure not in ALIGNMENTS:
        raise ValueError(f"Expected one of {ALIGNMENTS}. Received: structure={structure!r}")
    temperature = number("temperature", temperature, 0, WARMEST)
    same, other = (
        number(name, x, -20, 20) for name, x in (("match", match), ("mismatch", mismatch))
    )
    gaps = [number(n, x, -20, 0) for n, x in (("gap_open", gap_open), ("gap_extend", gap_extend))]
    scores = np.array([[[same if a == b else other for b in second] for a in first]], "float32")
    d = getattr(ops, structure)(scores, *gaps, temperature=temperature)
    best = to_numpy(d.argmax())[0]
    samples = to_numpy(d.sample(0, SAMPLES))[:, 0] if temperature else best[None]
    return {
        "map": rounded(to_numpy(d.marginals())[0]),
        "path": [node for node in best.tolist() if node[0] >= 0],
        "best": rows_of(first, second, best),
        "samples": [rows_of(first, second, path) for path in samples],
        "value": round(float(to_numpy(d.value())[0]), 3),
    }


def rows_of(first: str, second: str, path: np.ndarray) -> list[str]:
    """What a path over nodes aligns, `-` for gaps."""
    rows: list[list[str]] = [[], []]
    nodes = [tuple(node) for node in path.tolist() if node[0] >= 0]
    for (i, j), (k, m) in itertools.pairwise(nodes):
        rows[0].append(first[k - 1] if k > i else "-")
        rows[1].append(second[m - 1] if m > j else "-")
    return ["".join(row) for row in rows]


def structures(
    first: dict[str, str],
    second: dict[str, str],
    first_chain: str = "",
    second_chain: str = "",
    refine: bool = True,
) -> dict[str, Any]:
    """Two structure files, `{"name", "base64"}` each, aligned and superposed; of each the chain of
    that name, or the first one."""
    chains = [chain_of("first", first, first_chain), chain_of("second", second, second_chain)]
    (found,) = aligner().align([(chains[0], chains[1])], maps=True, refine=3 if refine else 0)
    rotation, translation = found.transformation()
    moved = chains[1].ca @ np.asarray(rotation).T + translation
    measures = {k: v if v is None else round(float(v), 3) for k, v in found.measures().items()}
    return {
        "names": [chain.name for chain in chains],
        "first": rounded(chains[0].ca),
        "second": rounded(moved),
        "pairs": found.pairs.tolist(),
        "map": rounded(np.asarray(found.map)),
        "rows": list(found.rows()),
        "measures": measures,
    }


@functools.cache
def aligner() -> Any:
    return protein.ProteinAligner.from_preset("structure")


def chain_of(name: str, file: dict[str, str], chain_name: str) -> Any:
    """A chain of a file that the browser sent."""
    if not isinstance(file, dict) or not file.get("base64"):
        raise ValueError(f"Expected a structure file (PDB or mmCIF). Received: none as {name}")
    try:
        data = base64.b64decode(file["base64"], validate=True)
    except (binascii.Error, TypeError) as error:
        raise ValueError(f"Expected a file in base64. Received: {name}, {error}") from error
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / Path(str(file.get("name") or "file.pdb")).name
        path.write_bytes(data)
        try:
            chain = protein.read_chain(f"{path}:{chain_name}" if chain_name else str(path))
        except (ValueError, OSError) as error:
            raise ValueError(str(error).replace(f"{folder}/", "")) from error
    if chain.backbone is None:
        raise ValueError(f"Expected a file with coordinates. Received: {path.name}")
    if len(chain) > MOST_RESIDUES:
        raise ValueError(f"Expected at most {MOST_RESIDUES} residues. Received: {len(chain)}")
    return chain


def spaces(text_without: str, temperature: float = 1.0) -> dict[str, Any]:
    """Where words may end in a text without spaces, by how frequent words are, and nothing else."""
    temperature = number("temperature", temperature, 0, WARMEST)
    letters = "".join(text("text_without", text_without, MOST_CHARACTERS).split())
    segments = word_scores(letters.lower())
    none = np.zeros((1, 1), "float32")
    d = ops.semi_markov(segments[None, :, :, None], none, temperature=temperature)
    marginals = to_numpy(d.marginals())[0, :, :, 0]
    ends = np.zeros(len(letters))
    for start, length in np.ndindex(*marginals.shape):
        if start + length < len(letters):
            ends[start + length] += marginals[start, length]
    samples = to_numpy(d.sample(0, SAMPLES))[:, 0] if temperature else to_numpy(d.argmax())
    return {
        "letters": letters,
        "ends": rounded(ends),
        "best": words_of(letters, to_numpy(d.argmax())[0]),
        "samples": [words_of(letters, sample) for sample in samples],
        "entropy": round(float(to_numpy(d.entropy())[0]), 3),
    }


def word_scores(letters: str) -> np.ndarray:
    """(N, D): the log-frequency of the word that starts at a letter and has a length."""
    ranks = vocabulary()
    scores = np.full((len(letters), min(LONGEST_WORD, len(letters))), -1e30, "float32")
    for start, length in np.ndindex(*scores.shape):
        word = letters[start : start + length + 1]
        if len(word) == length + 1 and word in ranks:
            scores[start, length] = -math.log(ranks[word] + 10)
        elif length == 0:
            scores[start, 0] = UNKNOWN
    return scores


@functools.cache
def vocabulary() -> dict[str, int]:
    """Rank of the words of MiniLM's vocabulary; the only words of one letter are `a` and `i`."""
    lines = (minilm_folder() / "vocab.txt").read_text(encoding="utf-8").split("\n")
    words = [x for x in lines if x.isalpha() and (len(x) > 1 or x in "ai")]
    return {word: rank for rank, word in enumerate(words, 1)}


def words_of(letters: str, event: np.ndarray) -> str:
    starts = np.flatnonzero(event[: len(letters), 1] > 0)
    return " ".join(letters[s : s + event[s, 1]] for s in starts)
