"""Searches on two real processes of Ray: what one process finds."""

from pathlib import Path

import keras
import pytest

from keras_struct import protein
from keras_struct.protein import command_line, ray_engine

ray = pytest.importorskip("ray")
pytest.importorskip("usearch.index")
tmtools = pytest.importorskip("tmtools")
GLOBINS = Path(tmtools.__file__).parent / "data" / "2gtl.cif"
pytestmark = [
    pytest.mark.skipif(
        keras.backend.backend() != "torch", reason="an index is the same on every backend"
    ),
    pytest.mark.usefixtures("two_workers"),
]


def test_parts_in_processes(folder, tmp_path, capsys):
    tables = []
    for engine in (["local"], ["ray", "--workers", "2"]):
        output = tmp_path / f"{engine[0]}.tsv"
        words = ["search", f"{GLOBINS}:A", "--index", str(folder), "--output", str(output)]
        assert command_line.main([*words, "--engine", *engine]) == 0
        tables.append(output.read_text())
    assert tables[0] == tables[1]
    assert tables[0].count("\n") > 20
    for words, message in (
        (["--engine", "ray"], "Expected an index with --engine ray"),
        (["--workers", "2"], "Expected --engine ray with --workers"),
    ):
        capsys.readouterr()
        assert command_line.main(["search", f"{GLOBINS}:A", str(GLOBINS), *words]) == 2
        assert message in capsys.readouterr().err


def test_datasets_keep_every_query(aligner, folder):
    ray.data.DataContext.get_current().enable_progress_bars = False
    first = f"{GLOBINS}:A"
    paths = [first, "nowhere.pdb", None]
    queries = ray.data.from_items(
        [{"path": path, "id": k, "score": 0.5} for k, path in enumerate(paths)]
    )
    rows = protein.search_dataset(queries, aligner, folder, top=2, concurrency=1).take_all()
    rows.sort(key=lambda row: row["id"])
    assert [row["id"] for row in rows] == [0, 0, 1, 2]
    assert "FileNotFoundError" in rows[2]["error"] and rows[2]["target"] is None
    assert rows[3]["error"]
    index = protein.StructureIndex(folder)
    hits = protein.IndexSearch(aligner, index)(protein.read_chain(first), top=2)
    for row, hit in zip(rows, hits, strict=False):
        assert row["error"] is None
        assert row["input_score"] == 0.5
        assert row["target"] == hit.alignment.second.name
        assert row["cigar"] == hit.alignment.cigar()
        assert row["e_value"] == pytest.approx(hit.e_value, rel=1e-5)
        assert row["tm_score_first"] == pytest.approx(hit.alignment.measures()["tm_score_first"])
    with pytest.raises(ValueError, match=r"Expected a column 'file'\. Received: a dataset with"):
        protein.search_dataset(queries, aligner, folder, column="file")
    other = protein.ProteinAligner.create()
    with pytest.raises(ValueError, match="Expected the model that the index was made by"):
        ray_engine.search_dataset(queries, other, folder)
