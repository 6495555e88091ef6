"""A query against many chains: encode once, align in batches, rank."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from keras_struct.layers.annotations import StrPath
from keras_struct.layers.whole_files import open_whole
from keras_struct.protein.alignment import Alignment
from keras_struct.protein.chain import Chain
from keras_struct.protein.protein_aligner import ProteinAligner
from keras_struct.protein.structure_files import is_protein_file, read_chains
from keras_struct.runs import digest_of_weights

BATCH_CHAINS, FIRST_CHAINS = 256, 16  # encoded and aligned together; before their pace is known
SECONDS = 5.0  # of encoding after which it is kept
DIGEST = 32  # bytes before an entry of the cache: what tells one that is damaged
FIELDS = ("name", "sequence", "backbone", "residue_ids", "states")  # of a chain in the cache


@dataclasses.dataclass(frozen=True, eq=False)
class Hit:
    """One chain that was searched: its file and its alignment with the query.

    From an index it has an E-value: how many of the chains would score as much were none related.
    """

    file: Path
    alignment: Alignment
    e_value: float | None = None


class EncodingCache:
    """Chains and states of files, kept in a folder; one file each, whole or not at all.

    Several processes may share a folder. A damaged entry is as good as none.

    Args:
        folder: Folder, made if need be; None to keep nothing.
        aligner: `ProteinAligner` whose states they are; those of another are not used.
        reading: How files are read, if not as by default.
    """

    def __init__(self, folder, aligner, reading=""):
        self.folder = None if folder is None else Path(folder)
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.model = f"{digest_of_weights(aligner.encoder.weights)} {reading}"

    def load(self, file):
        """Chains and states of a file, or None."""
        path = self._path(file)
        if path is None or not path.is_file():
            return None
        data = path.read_bytes()
        if hashlib.sha256(data[DIGEST:]).digest() != data[:DIGEST]:
            return None  # damaged: it is made again
        with np.load(io.BytesIO(data[DIGEST:]), allow_pickle=False) as stored:
            count = int(stored["count"])
            fields = [[stored[f"{name}_{k}"] for name in FIELDS] for k in range(count)]
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
        written = io.BytesIO()
        np.savez_compressed(written, allow_pickle=False, **arrays)
        data = written.getvalue()
        with open_whole(path, "wb") as stream:
            stream.write(hashlib.sha256(data).digest() + data)

    def _path(self, file):
        if self.folder is None:
            return None
        status = Path(file).stat()
        key = f"2 {Path(file).resolve()} {status.st_size} {status.st_mtime_ns} {self.model}"
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npz"


def protein_files(places: Iterable[StrPath]) -> list[Path]:
    """The protein files that paths name, in order; of a folder all that lie in it or below.

    Raises:
        FileNotFoundError: If a path does not exist, or there is no protein file.
    """
    files: list[Path] = []
    for place in map(Path, places):
        if not place.exists():
            raise FileNotFoundError(f"Expected an existing file or folder. Received: {place}")
        if place.is_dir():
            # A link that leads nowhere is a file that cannot be read; a folder is none.
            found = (path for path in place.rglob("*") if is_protein_file(path))
            files += sorted(path for path in found if not path.is_dir())
        else:
            files.append(place)
    if not files:
        raise FileNotFoundError(f"Expected protein files. Received: none in {list(places)}")
    return files


def search(
    aligner: ProteinAligner,
    query: Chain,
    files: Iterable[StrPath],
    cache: StrPath | None = None,
    skipped: Callable[[Path, Exception], object] | None = None,
    progress: Callable[[int], object] | None = None,
    model: int = 1,
    names: str = "author",
) -> list[Hit]:
    """The alignments of a query with every chain of many files, best first.

    Each file is read and encoded once; with a cache, once for all searches, and a search that was
    interrupted goes on there: what is encoded is kept every few seconds.

    Args:
        aligner: `ProteinAligner`.
        query: `Chain`.
        files: Paths of protein files, see `protein_files`.
        cache: Folder of what is encoded, made if need be; None for none.
        skipped: Called with file and error for a file, a chain or a record that cannot be read or
            encoded, such as a sequence for a model that needs coordinates, or a cache that cannot
            be written; it is left out. None raises.
        progress: Called with the number of files that are encoded, after each.
        model, names: As for `read_chains`; of FASTA files they mean nothing.

    Returns:
        List of `Hit`, by decreasing score.

    Raises:
        ValueError, OSError: If a file cannot be read and `skipped` is None, or the model needs
            coordinates that a chain does not have.

    Example:

    >>> import pathlib, tmtools
    >>> from keras_struct import protein
    >>> file = pathlib.Path(tmtools.__file__).parent / "data" / "2gtl.cif"
    >>> query, = protein.read_chains(file, ["A"])
    >>> hits = protein.search(protein.ProteinAligner.from_preset("structure"), query, [file])
    >>> hits[0].alignment.second.name, len(hits)
    ('2gtl:A', 15)
    """
    store = EncodingCache(cache, aligner, f"{model} {names}")
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

    read = functools.partial(read_chains, model=model, names=names)
    encoded = encoded_files(aligner, files, store, read, skipped)
    for done, (file, chains, states) in enumerate(encoded, 1):
        if chains:
            chunk.append((file, chains, states))
        if sum(len(chains) for _, chains, _ in chunk) >= BATCH_CHAINS:
            align()
        if progress is not None:
            progress(done)
    align()
    return sorted(hits, key=lambda hit: -hit.alignment.score)


def encoded_files(aligner, files, store, read, skipped):
    """File, chains and states of every file, in order; encoded some seconds' worth at a time."""
    waiting: list[list] = []
    most = FIRST_CHAINS

    def left_out(file, error):
        if skipped is None:
            raise error
        skipped(file, error)

    def encode():
        nonlocal most
        new = [entry for entry in waiting if entry[2] is None]
        start = time.monotonic()
        states = iter(aligner.encode([chain for _, chains, *_ in new for chain in chains]))
        for entry in new:
            entry[2] = [next(states) for _ in entry[1]]
        count = sum(len(entry[1]) for entry in new)
        if count:
            pace = count / max(time.monotonic() - start, 1e-9)
            most = int(min(max(pace * SECONDS, 1), BATCH_CHAINS))
        for *entry, whole in new:
            try:
                if whole:  # what is left out is to be told again
                    store.store(*entry)
            except OSError as error:
                left_out(store.folder, error)
                store.folder = None  # a full disk is told once
        yield from (entry[:3] for entry in waiting)
        waiting.clear()

    for file in files:
        errors: list[Exception] = []
        states = None
        try:
            known = store.load(file)
            chains, states = known or ([], None)
            if known is None:
                chains = _encodable(aligner, read(file, skipped=errors.append), errors)
        except (ValueError, OSError) as error:
            errors.append(error)
            chains = []
        for fault in errors:
            left_out(file, fault)
        waiting.append([file, chains, states, not errors])
        new = sum(len(chains) for _, chains, states, _ in waiting if states is None)
        if new >= most or sum(len(chains) for _, chains, *_ in waiting) >= BATCH_CHAINS:
            yield from encode()
    yield from encode()


def _encodable(aligner, chains, errors):
    """The chains that have what the model reads, without the atoms, which it does not need."""
    found = []
    for chain in chains:
        try:
            aligner.encoder.chain_inputs(chain)
        except ValueError as error:
            errors.append(error)
        else:
            found.append(Chain(chain.name, chain.sequence, chain.backbone, chain.residue_ids))
    return found
