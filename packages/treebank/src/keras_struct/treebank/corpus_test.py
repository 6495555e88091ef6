"""A corpus into parts: every sentence once, also after an interruption."""

import json

import keras
import pytest

from keras_struct.ops.testing import BACKEND
from keras_struct.treebank import command_line, corpus
from keras_struct.treebank.tiny import tiny_parser

pyarrow = pytest.importorskip("pyarrow")
pytest.importorskip("pyarrow.parquet")

pytestmark = pytest.mark.skipif(BACKEND != "torch", reason="files are the same on every backend")

TEXT = "We left early. They saw it.\n\nWe left. It saw (early).\n"


@pytest.fixture(scope="module")
def loaded():
    keras.utils.set_random_seed(1)
    return {kind: tiny_parser(kind, dropout=0.0) for kind in command_line.KINDS}


@pytest.fixture
def run(loaded, monkeypatch, capsys):
    """Runs `parse`: exit status, standard output, standard error."""
    monkeypatch.setattr(command_line, "load", lambda chosen, model=None: loaded[chosen.kind])

    def call(*words):
        status = command_line.main(["parse", *map(str, words)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.fixture
def files(tmp_path):
    """A folder of a text, JSON lines and Parquet, with records that are none."""
    folder = tmp_path / "in"
    (folder / "more").mkdir(parents=True)
    (folder / "1.txt").write_text(TEXT)
    lines = ['{"text": "We left. They left."}', '{"text": 5}', "broken", '{"other": "We left."}']
    lines += ['{"text": ["we", "saw", "it"]}', '{"text": ["we", ""]}', '{"text": "We \\udcff"}', ""]
    (folder / "2.jsonl").write_text("\n".join(lines))
    table = pyarrow.table({"text": ["They saw.", None, "It left early."], "id": [1, 2, 3]})
    pyarrow.parquet.write_table(table, folder / "more" / "3.parquet")
    pyarrow.parquet.write_table(table.select(["id"]), folder / "more" / "4.parquet")
    (folder / ".hidden").write_text("We left.")
    return folder


def parts(folder):
    return {path.name: path.read_text() for path in sorted(folder.glob("part-*"))}


def test_parts_hold_what_one_file_holds(run, files, tmp_path):
    status, out, _ = run(files / "1.txt", files / "1.txt", "--lookahead", 6)
    found = run(
        *(files / "1.txt", files / "1.txt", "--engine", "local", "--output", tmp_path / "out"),
        *("--lookahead", 3, "--part-sentences", 3),
    )
    assert (status, found[0], found[1]) == (0, 0, "")
    written = parts(tmp_path / "out")
    assert list(written) == [f"part-00000{n}.mrg" for n in range(3)]
    assert [text.count("\n") for text in written.values()] == [3, 3, 2]
    assert "".join(written.values()) == out
    assert (tmp_path / "out" / "_SUCCESS").exists()


@pytest.mark.parametrize("kind", command_line.KINDS)
def test_records_that_are_none_are_reported_and_stop_nothing(run, files, tmp_path, kind):
    options = ("--kind", kind, "--engine", "local", "--probabilities", "--format")
    status, _, err = run(files, *options, "json", "--output", tmp_path / "json")
    assert status == 1
    for place in ("2.jsonl:2", "2.jsonl:3", "2.jsonl:4", "2.jsonl:6", "2.jsonl:7", "3.parquet:2"):
        assert f"{place}: " in err
    assert "4.parquet with id" in err
    assert "7 of the input left out" in err
    rows = [
        json.loads(line) for text in parts(tmp_path / "json").values() for line in text.splitlines()
    ]
    assert [row["text"] for row in rows if "text" in row] == [
        *("We left early.", "They saw it.", "We left.", "It saw (early).", "We left."),
        *("They left.", "They saw.", "It left early."),
    ]
    assert rows[6]["words"] == ["we", "saw", "it"]
    assert rows[6]["file"] == f"{files / '2.jsonl'}:5"
    run(files, *options, "parquet", "--output", tmp_path / "table")
    table = pyarrow.parquet.read_table(tmp_path / "table")
    kept = [{k: v for k, v in row.items() if v is not None} for row in table.to_pylist()]
    assert kept == rows


def test_a_sentence_that_fails_costs_itself(run, files, tmp_path, loaded, monkeypatch):
    parser = loaded["constituency"]
    whole = type(parser)._parse_batch

    def fails(self, sentences, probabilities):
        if any("saw" in words and "it" in words for words in sentences):
            raise RuntimeError("it")
        return whole(self, sentences, probabilities)

    monkeypatch.setattr(type(parser), "_parse_batch", fails)
    options = (files / "1.txt", "--engine", "local")
    status, _, err = run(*options, "--output", tmp_path / "out")
    assert status == 1
    assert "part-000000.mrg, sentence 2, 'They saw it .': RuntimeError: it" in err
    (text,) = parts(tmp_path / "out").values()
    assert text.count("\n") == 3
    with pytest.raises(RuntimeError, match="it"):
        run(*options, "--strict", "--output", tmp_path / "strict")
    assert not parts(tmp_path / "strict")
    with pytest.raises(RuntimeError, match="it"):
        corpus.parse_each(parser, [["saw", "it"], ["it", "saw"]])


def test_resume_makes_the_parts_that_are_missing(run, files, tmp_path, monkeypatch):
    out = tmp_path / "out"
    command = (files / "1.txt", "--engine", "local", "--part-sentences", 1, "--output", out)
    assert run(*command)[0] == 0
    whole, times = parts(out), {path: path.stat().st_mtime_ns for path in out.glob("part-*")}
    status, _, err = run(*command)
    assert status == 2
    assert "Expected a new folder, or --resume" in err
    (out / "part-000001.mrg").unlink()
    (out / "_SUCCESS").unlink()
    assert run(*command, "--resume")[0] == 0
    assert parts(out) == whole
    assert (out / "_SUCCESS").exists()
    made = [path.name for path, time in times.items() if path.stat().st_mtime_ns != time]
    assert made == ["part-000001.mrg"]
    status, _, err = run(*command, "--resume", "--max-words", 50)
    assert status == 2
    assert "Received: other options" in err
    (files / "1.txt").write_text(TEXT + "We left.")
    status, _, err = run(*command, "--resume")
    assert status == 2
    assert "Received: other input" in err
    (out / "_parse.json").unlink()
    assert "with parts of another run" in run(*command, "--resume")[2]


def test_urls_are_read_by_fsspec(run, files, tmp_path):
    fsspec = pytest.importorskip("fsspec")
    system = fsspec.filesystem("memory")
    for file in ("1.txt", "more/3.parquet"):
        system.pipe(f"/corpus/{file}", (files / file).read_bytes())
    for name, source in (("a", "memory://corpus"), ("b", "memory://corpus/**")):
        status, _, err = run(source, "--engine", "local", "--output", tmp_path / name)
        assert status == 1
        assert "3.parquet:2: Expected a text" in err
        (text,) = parts(tmp_path / name).values()
        assert text.count("\n") == 6


def test_errors_come_before_work(run, files, tmp_path):
    text, out = files / "1.txt", tmp_path / "out"
    for words, message in (
        ([text, "--resume"], "Expected --engine"),
        ([text, "--format", "parquet"], "Expected --engine"),
        ([text, "--engine", "local"], "Expected files to read, --output FOLDER"),
        (["--engine", "local", "--output", out], "Expected files to read"),
        ([text, "--engine", "local", "--output", text], "Expected a folder"),
        ([text, "--engine", "local", "--output", "s3://bucket/out"], "a folder of this machine"),
        ([files, "--engine", "local", "--output", files / "out"], "Expected files outside"),
        ([text, "--engine", "local", "--output", out, "--part-sentences", 0], "part_sentences=0"),
        ([files / "9", "--engine", "local", "--output", out], "Expected existing files"),
    ):
        if message == "Expected files outside":
            (files / "out").mkdir()
            (files / "out" / "part-000000.mrg").write_text("")
        status, _, err = run(*words)
        assert (status, message in err) == (2, True), err
    assert not out.exists()
