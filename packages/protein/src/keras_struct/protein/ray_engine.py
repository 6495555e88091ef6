"""Searches on the processes of Ray: many queries, or the many parts of an index."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_struct.layers.annotations import StrPath
from keras_struct.protein.index_search import CANDIDATES, IndexSearch, prefilter
from keras_struct.protein.protein_aligner import ProteinAligner
from keras_struct.protein.structure_files import read_chain
from keras_struct.protein.structure_index import StructureIndex
from keras_struct.runs.checks import check_count
from keras_struct.runs.cluster import (
    check_dataset,
    connected,
    count_of_workers,
    import_ray,
    in_actors,
    inputs_of,
    map_tables,
)

DISTRIBUTION = "keras-struct-protein"
ROWS = 8  # queries of a dataset that are searched one after the other
MEASURES = ("identity", "coverage_first", "coverage_second")
COORDINATES = ("tm_score_first", "tm_score_second", "rmsd", "lddt")


def search_dataset(
    dataset: Any,
    aligner: ProteinAligner,
    index: StrPath,
    column: str = "path",
    top: int = 20,
    candidates: int = CANDIDATES,
    concurrency: int | tuple[int, int] | None = None,
    batch_rows: int = ROWS,
) -> Any:
    """Search an index for the chains of a dataset of Ray Data, by actors that hold the model each.

    The result is as lazy as every dataset of Ray. All machines need the files of the queries and of
    the index, under the same names.

    Args:
        dataset: `ray.data.Dataset`. A row holds, under `column`, the file of a query, or file and
            chain as `file:chain`, see `read_chain`.
        aligner: `ProteinAligner` that made the index; it is sent to every actor.
        index: Folder that `build_index` wrote.
        column: Name of the column of files.
        top: Most hits of a query.
        candidates: Chains that are aligned for a query.
        concurrency: How many actors, or at least and at most how many; None for one and as many as
            the cluster has processors.
        batch_rows: Queries that an actor is given together.

    Returns:
        `ray.data.Dataset` with a row for each hit, the best first: all columns of the row of its
        query, `query` and `target` (names of chains), `file` (of the target), `e_value`, `score`,
        `aligned`, what else `Alignment.measures` has, `cigar`, and `error`, null. A query that
        cannot be read or aligned has one row, in which `error` says why.

    Raises:
        ImportError: If ray, pyarrow or usearch is not installed.
        ValueError: For arguments that do not fit, an index of another model, or a dataset without
            the column.

    Example:

    >>> import ray  # doctest: +SKIP
    >>> from keras_struct import protein  # doctest: +SKIP
    >>> aligner = protein.ProteinAligner.from_preset("structure")  # doctest: +SKIP
    >>> queries = ray.data.from_items([{"path": "a.pdb"}, {"path": "b.cif:C"}])  # doctest: +SKIP
    >>> protein.search_dataset(queries, aligner, "index/").write_parquet("hits/")  # doctest: +SKIP
    """
    ray = import_ray(DISTRIBUTION)
    for name, value in (("top", top), ("candidates", candidates)):
        check_count(name, value)
    check_dataset(dataset, column, batch_rows)
    IndexSearch(aligner, StructureIndex(Path(index)))  # it fits
    arguments = (packed(aligner, ray), str(Path(index).resolve()), column, top, candidates)
    maker = f"{__name__}:hits_maker"
    return map_tables(ray, dataset, maker, arguments, concurrency, batch_rows)


class RaySearch(IndexSearch):
    """A search whose look at all parts of an index is shared by processes of Ray.

    Args:
        aligner: See `IndexSearch`.
        index: See `IndexSearch`; all machines of the cluster need its folder.
        workers: Processes; None for one for each processor of the cluster.
    """

    def __init__(
        self, aligner: ProteinAligner, index: StructureIndex, workers: int | None = None
    ) -> None:
        super().__init__(aligner, index)
        self.workers = workers

    def prefiltered(self, query, states, most):
        """What `prefilter` finds in every part, in their order."""
        with connected(DISTRIBUTION) as ray:
            count = min(count_of_workers(ray, self.workers), len(self.index.parts))
            shares = np.array_split(np.arange(len(self.index.parts)), 4 * count)
            names = [part.folder.name for part in self.index.parts]
            units: Iterator[tuple[int, Any]] = (
                (share[0], (share.tolist(), query, states, most)) for share in shares if len(share)
            )
            arguments = (str(self.index.folder.resolve()), names)
            maker = f"{__name__}:prefilter_maker"
            found = dict(in_actors(ray, maker, arguments, units, count))
        return [part for first in sorted(found) for part in found[first]]


def packed(aligner: ProteinAligner, ray: Any) -> Any:
    """A reference to the file of a model."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        aligner.save(path)
        return ray.put(path.read_bytes())


# In the process of an actor --------------------------------------------------------------------


def prefilter_maker(folder: str, names: Sequence[str]) -> Callable[[Any], Any]:
    """What looks at parts of an index, of which the driver knew such parts."""
    index = StructureIndex(folder, names)

    def look(unit: Any) -> list[Any]:
        numbers, query, states, most = unit
        return [prefilter(index, index.parts[k], query, states, most) for k in numbers]

    return look


def hits_maker(
    model: bytes, folder: str, column: str, top: int, candidates: int
) -> Callable[[Any], Any]:
    """What makes a table of hits of one of queries."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "model.keras"
        path.write_bytes(model)
        aligner = ProteinAligner.from_preset(path)
    search = IndexSearch(aligner, StructureIndex(folder))
    return functools.partial(_table, search, column, top, candidates)


def _table(search, column, top, candidates, table):
    import pyarrow

    numbers, rows = [], []
    for number, place in enumerate(table.column(column).to_pylist()):
        try:
            query = read_chain(place)
            hits = search(query, top, candidates)
        except (ValueError, OSError, TypeError) as error:
            numbers.append(number)
            rows.append({"error": f"{type(error).__name__}: {error}"})
            continue
        for hit in hits:
            numbers.append(number)
            rows.append(_row(hit))
    text, real = pyarrow.string(), pyarrow.float64()
    kinds = {"query": text, "target": text, "file": text, "e_value": real, "score": real}
    kinds |= {"aligned": pyarrow.int64(), **dict.fromkeys((*MEASURES, *COORDINATES), real)}
    kinds |= {"cigar": text, "error": text}
    result = inputs_of(table, numbers, list(kinds))
    for name, kind in kinds.items():
        values = pyarrow.array([row.get(name) for row in rows], kind)
        result = result.append_column(name, values)
    return result


def _row(hit):
    found = hit.alignment
    return {
        "query": found.first.name,
        "target": found.second.name,
        "file": str(hit.file),
        "e_value": hit.e_value,
        "score": float(found.score),
        **found.measures(),
        "cigar": found.cigar(),
    }
