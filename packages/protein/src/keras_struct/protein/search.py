"""A query against many chains: encode once, align in batches, rank."""

import dataclasses
import hashlib
import zipfile
from pathlib import Path

import keras
import numpy as np

from keras_struct.layers.whole_files import open_whole
from keras_struct.protein.alignment import Alignment
from keras_struct.protein.chain import Chain
from keras_struct.protein.structure_files import is_protein_file, read_chains

BATCH_CHAINS = 256  # encoded and aligned together
FIELDS = ("name", "sequence", "backbone", "residue_ids", "states")  # of a chain in the cache


@dataclasses.dataclass(frozen=True, eq=False)
class Hit:
    """One chain that was searched: its file and its alignment with the query."""

    file: Path
    alignment: Alignment


class EncodingCache:
    """Chains and states of files, kept in a folder; one file each, whole or not at all.

    Args:
        folder: Folder, made if need be; None to keep nothing.
        aligner: `ProteinAligner` whose states they are; those of another are not used.
    """

    def __init__(self, folder, aligner):
        self.folder = None if folder is None else Path(folder)
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            digest = hashlib.sha256()
            for weight in aligner.encoder.weights:
                digest.update(keras.ops.convert_to_numpy(weight).tobytes())
            self.model = digest.hexdigest()

    def load(self, file):
        """Chains and states of a file, or None."""
        path = self._path(file)
        if path is None or not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as stored:
                count = int(stored["count"])
                fields = [[stored[f"{name}_{k}"] for name in FIELDS] for k in range(count)]
        except (ValueError, KeyError, OSError, zipfile.BadZipFile):
            return None  # of another version, or damaged: it is made again
        chains = [
            Chain(str(name), str(sequence), backbone, tuple(ids.tolist()))
            if backbone.size
            else Chain(str(name), str(sequence))
            for name, sequence, backbone, ids, _ in fields
        ]
        return chains, [states for *_, states in fields]

    def store(self, file, chains, states):
        """Keep the chains and states of a file."""
        path = self._path(file)
        if path is None:
            return
        arrays = {"count": np.array(len(chains))}
        for k, (chain, x) in enumerate(zip(chains, states, strict=True)):
            bare = chain.backbone is None
            backbone, ids = ((), ()) if bare else (chain.backbone, chain.residue_ids)
            values = (chain.name, chain.sequence, backbone, ids, x)
            arrays |= {f"{name}_{k}": np.array(v) for name, v in zip(FIELDS, values, strict=True)}
        with open_whole(path, "wb") as stream:
            np.savez_compressed(stream, allow_pickle=False, **arrays)

    def _path(self, file):
        if self.folder is None:
            return None
        status = Path(file).stat()
        key = f"{Path(file).resolve()} {status.st_size} {status.st_mtime_ns} {self.model}"
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npz"


def protein_files(places):
    """The protein files that paths name, in order; of a folder all that lie in it or below.

    Raises:
        FileNotFoundError: If a path does not exist, or there is no protein file.
    """
    files = []
    for place in map(Path, places):
        if not place.exists():
            raise FileNotFoundError(f"Expected an existing file or folder. Received: {place}")
        files += sorted(filter(is_protein_file, place.rglob("*"))) if place.is_dir() else [place]
    if not files:
        raise FileNotFoundError(f"Expected protein files. Received: none in {list(places)}")
    return files


def search(aligner, query, files, cache=None, skipped=None, progress=None):
    """The alignments of a query with every chain of many files, best first.

    Each file is read and encoded once; with a cache, once for all searches, and a search that was
    interrupted goes on there.

    Args:
        aligner: `ProteinAligner`.
        query: `Chain`.
        files: Paths of protein files, see `protein_files`.
        cache: Folder of what is encoded, made if need be; None for none.
        skipped: Called with file and error for a file that cannot be read; None raises.
        progress: Called with the number of files that are encoded, after each.

    Returns:
        List of `Hit`, by decreasing score.

    Raises:
        ValueError: If a file cannot be read and `skipped` is None, or the model needs coordinates
            that a chain does not have.

    Example:

    >>> import pathlib, tmtools
    >>> from keras_struct import protein
    >>> file = pathlib.Path(tmtools.__file__).parent / "data" / "2gtl.cif"
    >>> query, = protein.read_chains(file, ["A"])
    >>> hits = protein.search(protein.ProteinAligner.from_preset("structure"), query, [file])
    >>> hits[0].alignment.second.name, len(hits)
    ('2gtl:A', 15)
    """
    store = EncodingCache(cache, aligner)
    states_of_query = aligner.encode([query])[0]
    hits: list[Hit] = []
    chunk: list[tuple] = []

    def align():
        chains = [
            (file, chain, states)
            for file, *rest in chunk
            for chain, states in zip(*rest, strict=True)
        ]
        first = [states_of_query] * len(chains)
        for k, pairs, map, score in aligner.match(first, [states for *_, states in chains]):
            file, chain, _ = chains[k]
            probabilities = map[tuple(pairs.T)].astype("float64")
            hits.append(Hit(file, Alignment(query, chain, pairs, probabilities, score)))
        chunk.clear()

    for done, (file, chains, states) in enumerate(_encoded(aligner, files, store, skipped), 1):
        if chains:
            chunk.append((file, chains, states))
        if sum(len(chains) for _, chains, _ in chunk) >= BATCH_CHAINS:
            align()
        if progress is not None:
            progress(done)
    align()
    return sorted(hits, key=lambda hit: -hit.alignment.score)


def _encoded(aligner, files, store, skipped):
    """File, chains and states of every file, in order; encoded many at a time."""
    waiting: list[list] = []

    def encode():
        new = [entry for entry in waiting if entry[2] is None]
        states = iter(aligner.encode([chain for _, chains, _ in new for chain in chains]))
        for entry in new:
            entry[2] = [next(states) for _ in entry[1]]
            store.store(*entry)
        yield from waiting
        waiting.clear()

    for file in files:
        known = store.load(file)
        if known is None:
            try:
                # Only what alignments need is kept, not every atom.
                chains = [
                    Chain(c.name, c.sequence, c.backbone, c.residue_ids) for c in read_chains(file)
                ]
            except ValueError as error:
                if skipped is None:
                    raise
                skipped(file, error)
                waiting.append([file, [], []])
                continue
            waiting.append([file, chains, None])
        else:
            waiting.append([file, *known])
        if sum(len(chains) for _, chains, _ in waiting) >= BATCH_CHAINS:
            yield from encode()
    yield from encode()
