"""A corpus and datasets on two real processes of Ray: what one process makes of them."""

import keras
import pytest

from keras_struct import treebank
from keras_struct.ops.testing import BACKEND
from keras_struct.treebank import command_line, ray_engine
from keras_struct.treebank.tiny import tiny_parser

ray = pytest.importorskip("ray")
pyarrow = pytest.importorskip("pyarrow")
pytestmark = [
    pytest.mark.skipif(BACKEND != "torch", reason="files are the same on every backend"),
    pytest.mark.usefixtures("two_workers"),
]

TEXT = "We left early. They saw it.\n\nWe left. It saw (early).\n"


@pytest.fixture(scope="module")
def parser():
    keras.utils.set_random_seed(1)
    return tiny_parser("dependency", dropout=0.0)


@pytest.fixture
def run(parser, monkeypatch, capsys):
    monkeypatch.setattr(command_line, "load", lambda chosen, model=None: parser)

    def call(*words):
        status = command_line.main(["parse", "--kind", "dependency", *map(str, words)])
        return status, capsys.readouterr().err

    return call


def parts(folder):
    return {path.name: path.read_text() for path in sorted(folder.glob("part-*"))}


def test_parts_are_those_of_one_process(run, tmp_path):
    (tmp_path / "a.txt").write_text(TEXT * 3)
    (tmp_path / "b.jsonl").write_text('{"text": 5}\n{"text": ["we", "saw", "it"]}\n')
    command = [tmp_path / "a.txt", tmp_path / "b.jsonl", "--format", "json", "--probabilities"]
    command += ["--part-sentences", 2]
    assert run(*command, "--engine", "local", "--output", tmp_path / "local")[0] == 1
    found = run(*command, "--engine", "ray", "--output", tmp_path / "ray")
    assert found[0] == 1
    assert "b.jsonl:1: Expected a text" in found[1]
    assert parts(tmp_path / "ray") == parts(tmp_path / "local")
    assert len(parts(tmp_path / "ray")) == 7
    assert (tmp_path / "ray" / "_SUCCESS").exists()
    # A folder may be begun by one engine and ended by the other.
    for name in ("part-000001.jsonl", "part-000004.jsonl", "_SUCCESS"):
        (tmp_path / "local" / name).unlink()
    kept = (tmp_path / "local" / "part-000000.jsonl").stat().st_mtime_ns
    resume = ("--engine", "ray", "--workers", 1, "--output", tmp_path / "local", "--resume")
    assert run(*command, *resume)[0] == 1
    assert parts(tmp_path / "local") == parts(tmp_path / "ray")
    assert (tmp_path / "local" / "part-000000.jsonl").stat().st_mtime_ns == kept


def test_errors_come_before_work(run, tmp_path):
    (tmp_path / "a.txt").write_text(TEXT)
    for words, message in (
        (["--engine", "local", "--workers", 2], "Expected --engine ray with --workers"),
        (["--engine", "ray", "--workers", 0], "workers=0"),
        (["--engine", "ray", "--workers", 9], "processors of the cluster, 2. Received: workers=9"),
        (["--workers", 2], "Expected --engine with --resume, --workers"),
    ):
        status, err = run(tmp_path / "a.txt", "--output", tmp_path / "out", *words)
        assert (status, message in err) == (2, True), err
        assert not (tmp_path / "out").exists()


def test_datasets_keep_every_row(parser):
    ray.data.DataContext.get_current().enable_progress_bars = False
    ray.data.DataContext.get_current().execution_options.preserve_order = True
    texts = ["We left early. They saw it.", "", "It saw (early)."]
    table = pyarrow.table({"text": texts, "id": [3, 1, 2], "words": ["x", "y", "z"]})
    table = table.append_column("input_words", pyarrow.array(["u", "v", "w"]))
    trees = treebank.parse_dataset(
        ray.data.from_arrow(table), parser, concurrency=1, probabilities=True
    )
    rows = trees.take_all()
    assert [row["id"] for row in rows] == [3, 3, 2]
    assert [row["input_words"] for row in rows] == ["x", "x", "z"]
    assert [row["input_input_words"] for row in rows] == ["u", "u", "w"]
    assert [row["error"] for row in rows] == [None] * 3
    for row, parse in zip(rows, parser(texts, probabilities=True), strict=True):
        expected = parse.as_json()
        assert {name: row[name] for name in expected if name != "offsets"} == {
            name: value for name, value in expected.items() if name != "offsets"
        }
    lists = pyarrow.table({"words": [["we", "saw"], ["we", ""]]})
    with pytest.raises(ValueError, match=r"Expected a column 'text'\. Received: a dataset with"):
        treebank.parse_dataset(ray.data.from_arrow(lists), parser)
    good, bad = ray_engine._table(parser, "words", {}, lists).to_pylist()
    assert good["words"] == ["we", "saw"]
    assert good["error"] is None
    assert bad["words"] is None
    assert "ValueError: Expected" in bad["error"]
