"""An index of many chains: encoded once, on the disk, read without reading all of it."""

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_struct.layers.whole_files import open_whole, whole_folder
from keras_struct.protein import kmers
from keras_struct.protein.chain import BACKBONE, CA, Chain
from keras_struct.protein.residue_encoder import ALPHABETS, letter_ids
from keras_struct.protein.search import EncodingCache, encoded_files
from keras_struct.protein.structure_files import read_chains
from keras_struct.runs import digest, digest_of_weights, without_names
from keras_struct.runs.locks import lock

VERSION = 1
HEAD, SPACE, BACKGROUND, PARTS = "index.json", "space.npy", "background.npy", "parts"
PART_CHAINS = 16384  # of a part, unless another number is asked for
WORD = {"3di": 4, "amino_acids": 4}  # letters of a word
FLATTENING = 0.25  # the power of the variances by which axes are divided
TABLE, STATES, PLACES, VECTORS = "chains.arrow", "states.npy", "ca.npy", "vectors.usearch"
COMMONS = "common.npy"
RESIDUES = 1024  # of the background
MISSING = -32768  # in the coordinates of the background
WORDS = ("words.npy", "owners.npy", "places.npy")


class StructureIndex:
    """Chains with their states, in parts of which each appears whole.

    It may be read while another process extends it: what is read are the parts that were there
    when it was opened. States, coordinates, words and vectors stay on the disk until they are used.

    Args:
        folder: Folder that `build_index` wrote.
        names: Names of the parts to read; None for all that are there.

    Attributes:
        parts: List of `IndexPart`.
        lengths: Residues of each chain, int64 `(N,)`.

    Raises:
        ValueError: If it is none, of another version, or damaged.
        ImportError: If pyarrow or usearch is not installed.
    """

    def __init__(self, folder: str | Path, names: Sequence[str] | None = None) -> None:
        self.folder = Path(folder)
        self.head = _head(self.folder)
        place = self.folder / PARTS
        if names is None:
            names = sorted(path.name for path in place.iterdir() if path.name.isdigit())
        self.parts = [IndexPart(place / name) for name in names]
        self.starts = np.cumsum([0, *(len(part) for part in self.parts)])
        self.lengths = np.concatenate([np.zeros(0, "int64"), *(p.lengths for p in self.parts)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    @functools.cached_property
    def space(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean `(dim,)` of the vectors of chains, and the map `(dim, dim)` that flattens them."""
        mean, *map = np.load(self.folder / SPACE)
        return mean, np.stack(map)

    @functools.cached_property
    def background(self) -> np.ndarray:
        """States `(N, dim)` of residues taken at random."""
        return np.load(self.folder / BACKGROUND).astype("float32")

    def place(self, k: int) -> "tuple[IndexPart, int]":
        """The part of a chain with a number, and its number there."""
        part = int(np.searchsorted(self.starts, k, "right")) - 1
        return self.parts[part], int(k - self.starts[part])

    def check_model(self, aligner: Any) -> None:
        """Raise a `ValueError` unless the index was made by an aligner."""
        if self.head["model"] != model_digest(aligner):
            raise ValueError(
                f"Expected the model that the index was made by. Received: {self.folder} of "
                "another one"
            )


class IndexPart:
    """One part of an index, whose files are mapped into memory."""

    def __init__(self, folder):
        pyarrow = _pyarrow()
        self.folder = folder
        try:
            with pyarrow.memory_map(str(folder / TABLE)) as source:
                self.table = pyarrow.ipc.open_file(source).read_all()
            self.states = np.load(folder / STATES, mmap_mode="r", allow_pickle=False)
            self.common = np.load(folder / COMMONS, mmap_mode="r", allow_pickle=False)
            self.ca = np.load(folder / PLACES, mmap_mode="r", allow_pickle=False)
            self.lengths = self.table["length"].to_numpy().astype("int64")
        except (OSError, ValueError, KeyError, pyarrow.ArrowException) as error:
            raise ValueError(f"Expected a part of an index. Received: {folder}: {error}") from error
        self.ends = np.cumsum(self.lengths)
        if {len(self.states), len(self.common), len(self.ca)} != {int(self.lengths.sum())}:
            raise ValueError(f"Expected a part of an index. Received: {folder}, of other lengths")

    def __len__(self):
        return len(self.lengths)

    @functools.cached_property
    def inverted(self):
        """The inverted list of words, see `kmers.inverted`."""
        return [np.load(self.folder / name, mmap_mode="r") for name in WORDS]

    @functools.cached_property
    def vectors(self):
        """The vectors of its chains, by usearch."""
        return _usearch().Index.restore(str(self.folder / VECTORS), view=True)

    def states_of(self, k):
        """States `(L, dim)`, float16, of a chain, and how common its residues are, `(L,)`."""
        rows = slice(self.ends[k] - self.lengths[k], self.ends[k])
        return self.states[rows], self.common[rows]

    def file(self, k):
        """The file of a chain."""
        return Path(self.table["file"][k].as_py())

    def chain(self, k):
        """A chain with its CA atoms, without the others."""
        name, sequence = (self.table[column][k].as_py() for column in ("name", "sequence"))
        ca = self.ca[self.ends[k] - self.lengths[k] : self.ends[k]]
        if not np.isfinite(ca).all():
            return Chain(name, sequence)
        backbone = np.full((len(sequence), len(BACKBONE), 3), np.nan, "float32")
        backbone[:, CA] = ca
        return Chain(name, sequence, backbone)


def build_index(
    aligner: Any,
    files: Sequence[str | Path],
    folder: str | Path,
    part_chains: int = PART_CHAINS,
    skipped: Callable[[Any, Exception], Any] | None = None,
    progress: Callable[[int], Any] | None = None,
    model: int = 1,
    names: str = "author",
    background: Sequence[Chain] | None = None,
) -> int:
    """Encode the chains of files into an index, or extend one that is there.

    Files that it holds are not read again, so the same command goes on after an interruption, and
    adds what is new to an index of yesterday. What is complete is written every `part_chains`.

    Args:
        aligner: `ProteinAligner` of local alignments with affine gaps.
        files: Paths of protein files, see `protein_files`.
        folder: Folder, made if need be.
        part_chains: Chains of a part.
        skipped: Called with file and error for what cannot be read or encoded, and for a file that
            has changed since it was indexed; it is left out. None raises.
        progress: Called with the number of files that are done, after each.
        model, names: As for `read_chains`.
        background: List of `Chain` that tell how common residues are; None for that of the index,
            of a new one for 32 chains of the Protein Data Bank, of as many folds.

    Returns:
        How many chains were added.

    Raises:
        ValueError: If the folder holds the index of another model, version or background, or
            another process extends it.

    Example:

    >>> import pathlib, tempfile, tmtools
    >>> from keras_struct import protein
    >>> file = pathlib.Path(tmtools.__file__).parent / "data" / "2gtl.cif"
    >>> aligner = protein.ProteinAligner.from_preset("structure")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     [protein.build_index(aligner, [file], folder) for _ in range(2)]
    [15, 0]
    """
    from keras_struct.protein.local_scores import LocalScores

    scores = LocalScores(aligner)
    _pyarrow()
    _usearch()
    folder = Path(folder)
    (folder / PARTS).mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a") as stream:
        lock(stream, folder)
        head = {
            "version": VERSION,
            "model": model_digest(aligner),
            "alphabet": aligner.encoder.alphabets[0],
            "reading": f"{model} {names}",
        }
        if not (folder / HEAD).exists():
            with open_whole(folder / HEAD) as head_file:
                head_file.write(json.dumps(head, indent=1) + "\n")
        elif _head(folder) != head:
            raise ValueError(
                "Expected an index by the same model, read in the same way. "
                f"Received: {folder} of another one"
            )
        if not (folder / BACKGROUND).exists():
            states = aligner.encode(background or background_chains())
            with open_whole(folder / SPACE, "wb") as whole:
                np.save(whole, _space(np.stack([x.mean(axis=0) for x in states])))
            with open_whole(folder / BACKGROUND, "wb") as whole:  # the last: then both are there
                np.save(whole, _sample(states).astype("float16"))
        elif background is not None:
            sample = _sample(aligner.encode(background)).astype("float16")
            stored = np.load(folder / BACKGROUND)
            # Rounding depends on batches.
            if sample.shape != stored.shape or not np.allclose(sample, stored, atol=0.01):
                raise ValueError(f"Expected the background of {folder}. Received: another one")
        builder = _Builder(folder, head["alphabet"], part_chains, scores)
        rest = []
        for file in files:
            stamp = builder.known.get(str(file))
            if stamp is None:
                rest.append(file)
            elif stamp != _stamp(file):
                error = ValueError(
                    f"Expected a file as it was when it was indexed. Received: {file}, changed"
                )
                if skipped is None:
                    raise error
                skipped(file, error)
        done = len(files) - len(rest)
        read = functools.partial(read_chains, model=model, names=names)
        found = encoded_files(aligner, rest, EncodingCache(None, aligner), read, skipped)
        for file, chains, states in found:
            builder.add(file, chains, states)
            done += 1
            if progress is not None:
                progress(done)
        builder.write()
        return builder.count


class _Builder:
    """Collects chains and writes them as parts."""

    def __init__(self, folder, alphabet, part_chains, scores):
        self.folder, self.alphabet, self.part_chains = folder, alphabet, part_chains
        self.scores = scores
        parts = StructureIndex(folder).parts
        self.number = 1 + max((int(part.folder.name) for part in parts), default=-1)
        self.known = {
            file: stamp
            for part in parts
            for file, stamp in zip(
                part.table["file"].to_pylist(), part.table["stamp"].to_pylist(), strict=True
            )
        }
        self.count, self.rows = 0, []

    def add(self, file, chains, states):
        stamp = _stamp(file)
        self.rows += [(str(file), stamp, c, x) for c, x in zip(chains, states, strict=True)]
        if len(self.rows) >= self.part_chains:
            self.write()

    def write(self):
        if not self.rows:
            return
        files, stamps, chains, states = (list(x) for x in zip(*self.rows, strict=True))
        means = np.stack([x.mean(axis=0) for x in states])
        mean, *map = np.load(self.folder / SPACE)
        with whole_folder(self.folder / PARTS / f"{self.number:06d}") as new:
            new.mkdir()
            self._write(new, files, stamps, chains, states)
            vectors = _usearch().Index(ndim=means.shape[1], metric="cos", dtype="f16")
            vectors.add(np.arange(len(means)), (means - mean) @ np.stack(map))
            vectors.save(str(new / VECTORS))
        self.count += len(self.rows)
        self.number, self.rows = self.number + 1, []

    def _write(self, new, files, stamps, chains, states):
        pyarrow = _pyarrow()
        letters = [
            c.sequence if self.alphabet == "amino_acids" else c.structural_letters for c in chains
        ]
        columns = {
            "file": pyarrow.array(files).dictionary_encode(),
            "stamp": pyarrow.array(stamps).dictionary_encode(),
            "name": [c.name for c in chains],
            "length": [len(c) for c in chains],
            "sequence": [c.sequence for c in chains],
            "letters": letters,
        }
        table = pyarrow.table(columns)
        with (
            pyarrow.OSFile(str(new / TABLE), "wb") as sink,
            pyarrow.ipc.new_file(sink, table.schema) as writer,
        ):
            writer.write_table(table)
        np.save(new / STATES, np.concatenate(states).astype("float16"))
        background = np.load(self.folder / BACKGROUND).astype("float32")
        common = [self.scores.common(x, background) for x in states]
        np.save(new / COMMONS, np.concatenate(common).astype("float16"))
        ca = [np.full((len(c), 3), np.nan) if c.backbone is None else c.ca for c in chains]
        np.save(new / PLACES, np.concatenate(ca).astype("float32"))
        found = kmers.inverted([words_of(c, self.alphabet) for c in chains])
        for name, array in zip(WORDS, found, strict=True):
            np.save(new / name, array)


def background_chains():
    """Chains of the Protein Data Bank, each of another fold."""
    with np.load(Path(__file__).with_name("background.npz"), allow_pickle=False) as stored:
        sequences, places = stored["sequences"].tolist(), stored["backbones"]
    places = np.where(places == MISSING, np.nan, places / np.float32(100))
    parts = np.split(places, np.cumsum([len(x) for x in sequences])[:-1])
    return [Chain(x[:8], x, part) for x, part in zip(sequences, parts, strict=True)]


def words_of(chain, alphabet):
    """The words of the letters of a chain, see `kmers.words`."""
    ids = letter_ids(chain, (alphabet,))[:, 0] - 1
    return kmers.words(ids, len(ALPHABETS[alphabet]), WORD.get(alphabet, 4))


def model_digest(aligner):
    """What tells one model from another: its weights and the configuration of its encoder."""
    config = str(without_names(aligner.encoder.get_config()))
    return digest([digest_of_weights(aligner.model.weights), config])


def _space(means):
    """Mean and map `(1 + dim, dim)` that spread the mean states of chains in all directions."""
    mean = means.mean(axis=0)
    centred = means - mean
    variances, axes = np.linalg.eigh(centred.T @ centred / len(means))
    scale = np.maximum(variances, 0.01 * max(variances.max(), 1e-12)) ** FLATTENING
    return np.concatenate([mean[None], axes / scale]).astype("float32")


def _sample(states):
    """States of residues taken at random, always the same ones."""
    flat = np.concatenate(states)
    return flat[np.random.default_rng(0).choice(len(flat), min(RESIDUES, len(flat)), replace=False)]


def _stamp(file):
    status = Path(file).stat()
    return f"{status.st_size} {status.st_mtime_ns}"


def _head(folder):
    try:
        head = json.loads((folder / HEAD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"Expected the folder of an index. Received: {folder}: {error}") from error
    if not isinstance(head, dict) or head.get("version") != VERSION:
        raise ValueError(f"Expected an index of version {VERSION}. Received: {folder}")
    return head


def _pyarrow():
    try:
        import pyarrow.ipc
    except ImportError as error:
        raise ImportError("Expected pyarrow: pip install keras-struct-protein[index]") from error
    return pyarrow


def _usearch():
    try:
        import usearch.index
    except ImportError as error:
        raise ImportError("Expected usearch: pip install keras-struct-protein[index]") from error
    return usearch.index
