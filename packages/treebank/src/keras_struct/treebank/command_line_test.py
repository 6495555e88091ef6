"""The command, its files and its pictures, with a parser of random weights."""

import io
import json
import os
import re
import xml.etree.ElementTree as ElementTree

import keras
import pytest

from keras_struct import parsers, treebank
from keras_struct.ops.testing import BACKEND
from keras_struct.treebank import command_line, formats, parse_command
from keras_struct.treebank.tiny import tiny_parser, tiny_sentences

one_backend = pytest.mark.skipif(BACKEND != "torch", reason="files are the same on every backend")

CONSTITUENCY = treebank.ConstituencyParse(
    ["We", "left", "(", "early", ")"],
    ["PRP", "VBD", "(", "RB", ")"],
    [(0, 5, "S"), (0, 1, "NP"), (1, 5, "VP"), (3, 4, "ADVP")],
    [1.0, 0.75, 0.5, 0.25],
)
DEPENDENCY = treebank.DependencyParse(
    ["We", "left", "early"], ["PRON", "VERB", "ADV"], [2, 0, 2], ["nsubj", "root", "advmod"]
)


@pytest.fixture(scope="module")
def loaded():
    keras.utils.set_random_seed(1)
    return {kind: tiny_parser(kind, dropout=0.0) for kind in command_line.KINDS}


@pytest.fixture
def run(loaded, monkeypatch, capsys):
    """Runs the command: exit status, standard output, standard error."""
    monkeypatch.setattr(command_line, "load", lambda chosen, model=None: loaded[chosen.kind])

    def call(*words, stdin=""):
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        status = command_line.main([str(word) for word in words])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def test_average(run, tmp_path, loaded):
    status, out, _ = run("average", tmp_path / "a", tmp_path / "b", "--output", tmp_path / "mean")
    assert (status, out) == (0, f"{tmp_path / 'mean'}\n")
    again = treebank.ConstituencyParser.from_preset(str(tmp_path / "mean"))
    assert again([["we", "left"]]) == loaded["constituency"]([["we", "left"]])


def test_formats():
    assert formats.as_brackets(CONSTITUENCY) == (
        "(S (NP (PRP We)) (VP (VBD left) (-LRB- -LRB-) (ADVP (RB early)) (-RRB- -RRB-)))\n"
    )
    assert formats.as_conllu(DEPENDENCY).split("\n")[1].split("\t")[:8] == [
        *("2", "left", "_", "VERB", "_", "_", "0", "root")
    ]
    found = json.loads(formats.as_json_line(CONSTITUENCY))
    assert found["spans"][1] == {"start": 0, "end": 1, "label": "NP", "probability": 0.75}
    assert json.loads(formats.as_json_line(DEPENDENCY))["heads"] == [2, 0, 2]
    for write, parse in ((formats.as_brackets, DEPENDENCY), (formats.as_conllu, CONSTITUENCY)):
        with pytest.raises(ValueError, match="Expected"):
            write(parse)


@pytest.mark.parametrize("parse", [CONSTITUENCY, DEPENDENCY], ids=["spans", "arcs"])
def test_pictures_hold_every_word_and_label(parse):
    root = ElementTree.fromstring(treebank.draw(parse))
    texts = ["".join(node.itertext()) for node in root.iter() if node.tag.endswith("}text")]
    labels = parse.relations if parse is DEPENDENCY else [label for *_, label in parse.spans]
    words = ["-LRB-" if w == "(" else "-RRB-" if w == ")" else w for w in parse.words]
    for text in [*words, *labels]:
        assert text in texts
    if parse is DEPENDENCY:
        assert sum(node.tag.endswith("}path") for node in root.iter()) == len(parse.words)


def test_parse(run, tmp_path):
    (tmp_path / "1.txt").write_text("We left early. They saw it.\n\nWe left.\n")
    (tmp_path / "2.txt").write_text("They left.\n")
    status, out, _ = run("parse", tmp_path / "*.txt")
    assert status == 0
    trees = list(parsers.read_trees(out.splitlines()))
    sentences = [["We", "left", "early", "."], ["They", "saw", "it", "."]]
    sentences += [["We", "left", "."], ["They", "left", "."]]
    assert [tree.words() for tree in trees] == sentences
    status, out, _ = run("parse", "--kind", "dependency", "--words", stdin="We left .\nIt saw\n")
    found = list(parsers.read_conllu(out.splitlines()))
    assert [[w["form"] for w in s] for s in found] == [["We", "left", "."], ["It", "saw"]]
    target = tmp_path / "out.jsonl"
    options = ("--format", "json", "--probabilities", "--output", target)
    status, out, _ = run("parse", "-", *options, stdin="We left.")
    assert (status, out) == (0, "")
    assert all("probability" in s for s in json.loads(target.read_text())["spans"])
    (tmp_path / "svg").mkdir()
    status, out, _ = run(
        *("parse", tmp_path / "1.txt", "--format", "svg", "--output", tmp_path / "svg")
    )
    assert [f.name for f in sorted((tmp_path / "svg").iterdir())] == [
        *("00001.svg", "00002.svg", "00003.svg")
    ]


def test_a_sentence_of_2000_words_stops_nothing(run):
    text = "we saw it , they left early " * 300
    # Charts of 600 words take a minute where tests compile without optimization.
    options = ("--max-words", "60") if BACKEND in ("jax", "tensorflow") else ()
    status, out, _ = run("parse", "--words", *options, stdin=f"{text}\nwe left\n")
    trees = list(parsers.read_trees(out.splitlines()))
    assert status == 0
    assert [len(tree.words()) for tree in trees] == [2100, 2]


def test_evaluate(run, loaded, tmp_path):
    words = [["we", "left", "early"], ["they", "saw", "it"]]
    gold = [parse.tree for parse in loaded["constituency"](words)]
    gold = [tree if tree.label else parsers.Tree("S", tree.children) for tree in gold]
    (tmp_path / "gold.mrg").write_text("\n".join(map(str, gold)))
    status, out, _ = run("evaluate", tmp_path / "gold.mrg", "--json")
    scores = json.loads(out)
    assert status == 0
    assert scores["sentences"] == 2
    assert scores["tags"] == 1
    assert scores["bracket F1"] >= 0.5
    arcs = [parse.sentence for parse in loaded["dependency"](words)]
    (tmp_path / "gold.conllu").write_text("".join(s.serialize() for s in arcs))
    status, out, _ = run("evaluate", "--kind", "dependency", tmp_path / "gold.conllu", "--json")
    assert json.loads(out) == {"sentences": 2, "UAS": 1.0, "LAS": 1.0, "CLAS": 1.0, "tags": 1.0}
    status, out, _ = run("evaluate", "--kind", "dependency", tmp_path / "gold.conllu")
    assert "100.00" in out


def test_errors_come_before_work(run, tmp_path):
    for words, message in (
        (("parse", tmp_path / "none.txt"), "Expected existing files"),
        (("parse", "--format", "conllu"), "Expected another format"),
        (("parse", "--format", "svg"), "Expected an existing folder"),
        (("parse", "--output", tmp_path / "no" / "x"), "Expected an existing folder"),
        (("evaluate", tmp_path / "none.mrg"), "Expected existing files"),
    ):
        status, out, err = run(*words)
        assert (status, out) == (2, "")
        assert message in err
    (tmp_path / "bad.mrg").write_text("(S (NP (PRP We)")
    status, _, err = run("evaluate", tmp_path / "bad.mrg")
    assert status == 2
    assert "bad.mrg" in err
    before = (tmp_path / "bad.mrg").read_text()
    assert run("parse", tmp_path / "bad.mrg", "--output", tmp_path / "bad.mrg")[0] == 2
    assert (tmp_path / "bad.mrg").read_text() == before


@one_backend
def test_bad_input_is_named_and_left_out(run, tmp_path, monkeypatch):
    good, bad = tmp_path / "good.txt", tmp_path / "bad.txt"
    good.write_bytes(b"\xef\xbb\xbfWe left :) f(x) \n")
    bad.write_bytes("Caf\u00e9.\n\nIt saw.".encode("latin-1"))
    (tmp_path / "folder").mkdir()
    files = [tmp_path / "folder", bad, good, tmp_path / "none.txt"]
    status, out, err = run("parse", *files)
    assert status == 1
    trees = [tree.words() for tree in parsers.read_trees(out.splitlines())]
    smile = [":-RRB-", "f", "-LRB-", "x", "-RRB-"]
    assert trees == [["It", "saw", "."], ["We", "left", *smile]]
    for message in (f"{bad}:1: Expected text in", "none.txt", "Is a directory", "3 of the input"):
        assert message in err
    assert run("parse", bad, good, "--strict")[0] == 2
    assert run("parse", bad, good, "--encoding", "latin-1")[0] == 0
    assert run("parse", good, "--encoding", "no")[0] == 2


@one_backend
def test_json_tells_where_words_are(run, tmp_path):
    texts = {"1.txt": "We left.\r\n\r\nIt  saw.", "2.txt": "They left."}
    for name, text in texts.items():
        (tmp_path / name).write_bytes(text.encode())
    _, out, _ = run("parse", tmp_path / "*.txt", "--format", "json")
    for row in map(json.loads, out.splitlines()):
        with open(row["file"], newline="") as stream:
            text = stream.read()
        assert [text[start:end] for start, end in row["offsets"]] == row["words"]
    _, out, _ = run("parse", tmp_path / "1.txt", "--kind", "dependency")
    assert out.count("# text = ") == 2 and out.count("SpaceAfter=No") == 2
    again = run("parse", "--kind", "dependency", "--input-format", "conllu", stdin=out)
    assert again[:2] == (0, out)


@one_backend
def test_parse_goes_on_where_it_stopped(run, tmp_path, monkeypatch, loaded):
    text, out = tmp_path / "a.txt", tmp_path / "a.jsonl"
    text.write_text("\n".join(" ".join(words) for words in tiny_sentences(30, 5)))
    command = ["parse", text, "--words", "--format", "json", "--lookahead", "4"]
    assert run(*command, "--output", tmp_path / "whole.jsonl")[0] == 0
    wanted = (tmp_path / "whole.jsonl").read_text()
    monkeypatch.setattr(parse_command, "SECONDS", 0.0)
    original, count = formats.as_json_line, 0

    def interrupted(parse):
        nonlocal count
        count += 1
        if count == 15:
            raise KeyboardInterrupt
        return original(parse)

    monkeypatch.setitem(formats.FORMATS, "json", interrupted)
    assert run(*command, "--output", out)[0] == 130
    assert sorted(f.name for f in tmp_path.iterdir()) == [
        *(".a.jsonl.part", ".a.jsonl.part.json", "a.txt", "whole.jsonl")
    ]
    count = 100
    assert run(*command, "--output", out)[0] == 0
    assert count - 100 == 30 - 12  # the three whole chunks are not parsed again
    assert out.read_text() == wanted
    assert sorted(f.name for f in tmp_path.iterdir()) == ["a.jsonl", "a.txt", "whole.jsonl"]
    # What another input has left is not gone on with.
    count = 0
    assert run(*command, "--output", out)[0] == 130
    text.write_text(text.read_text() + "\nwe left")
    count = 100
    assert run(*command, "--output", out)[0] == 0
    assert count - 100 == 31
    assert out.read_text().startswith(wanted)


@one_backend
def test_outputs_that_are_streams(run):
    for target in ("-", "/dev/stdout"):
        status, out, _ = run("parse", "--output", target, stdin="We left.")
        assert status == 0 and out.startswith("(")
    assert run("parse", "--output", "/dev/null", stdin="We left.")[:2] == (0, "")
    assert not os.path.isfile("/dev/null")


@one_backend
def test_score_of_two_files(run, tmp_path):
    gold, other = tmp_path / "gold.mrg", tmp_path / "other.mrg"
    gold.write_text("(S (NP (PRP We)) (VP (VB go)))\n(S (NP (PRP I)) (VP (VB go)))\n")
    other.write_text("(S (PRP We) (VP (VB go)))\n(S (NP (PRP He)) (VP (VB go)))\n")
    status, out, err = run("score", gold, other, "--json")
    assert (status, json.loads(out)["recall"]) == (1, 2 / 3)
    assert "sentence 2: Expected the words ['I', 'go']. Received: words=['He', 'go']" in err
    assert run("score", gold, other, "--strict")[0] == 2
    status, out, _ = run("score", gold, gold)
    assert status == 0 and "100.00" in out
    other.write_text("(S (PRP We) (VP (VB go)))\n")
    status, _, err = run("score", gold, other)
    assert status == 2 and "Expected as many sentences" in err
    arcs = tmp_path / "a.conllu"
    arcs.write_text("1\ta\t_\t_\t_\t_\t2\tx\t_\t_\n2\tb\t_\t_\t_\t_\t1\tx\t_\t_\n")
    status, _, err = run("score", "--kind", "dependency", arcs, arcs)
    assert status == 2 and "a.conllu:1: Expected one root" in err
    # Of the file that is scored only the sentence is lost, and told once.
    good = tmp_path / "b.conllu"
    good.write_text(arcs.read_text().replace("\t2\tx", "\t0\troot"))
    arcs.write_text(f"{arcs.read_text()}\n{good.read_text()}")
    good.write_text("\n".join([good.read_text()] * 2))
    status, out, err = run("score", "--kind", "dependency", good, arcs, "--json")
    assert (status, json.loads(out)["sentences"], err.count("left out:")) == (1, 1, 1)
    other.write_text("(S (X\n(S (NP (PRP I)) (VP (VB go)))\n")
    status, out, err = run("score", gold, other, "--json")
    assert (status, json.loads(out)["sentences"], err.count("left out:")) == (1, 1, 1)


@one_backend
def test_evaluate_names_bad_gold_trees(run, tmp_path):
    line = "1\twe\t_\tX\t_\t_\t{}\troot\t_\t_\n\n"
    heads = ("0", "_", "1", "0", "7", "x")
    (tmp_path / "a.conllu").write_text("".join(line.format(head) for head in heads))
    command = ["evaluate", "--kind", "dependency", tmp_path / "a.conllu", "--json"]
    status, out, err = run(*command)
    assert (status, json.loads(out)["sentences"]) == (1, 2)
    for number, message in ((3, "heads from"), (5, "one root"), (9, "heads from"), (11, "'x' is")):
        assert re.search(rf"a\.conllu:{number}: .*{message}", err), number
    assert run(*command, "--strict")[0] == 2
    (tmp_path / "a.mrg").write_text("(S (X we))\n(S (-NONE- *))\n(S+VP (X we))\n(@ (X we))\n")
    status, out, err = run("evaluate", tmp_path / "a.mrg", "--json")
    assert (status, json.loads(out)["sentences"]) == (1, 1)
    for number, message in ((2, "none but traces"), (3, "label='S"), (4, "label='@'")):
        assert re.search(rf"a\.mrg:{number}: .*{message}", err), number


def test_a_model_that_does_not_exist(capsys):
    assert command_line.main(["export", "--model", "nowhere", "out"]) == 2
    assert "Expected a folder, or one of" in capsys.readouterr().err
