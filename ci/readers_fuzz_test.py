"""Every reader of files, on files that are damaged in every way: what it says is a `ValueError`.

Few files in `make test`; with `make test-readers EXAMPLES=100000` that many for each, new ones. An
example of Hypothesis is a hundred of them, since to draw each by itself takes longer than to read.
"""

import bz2
import contextlib
import gzip
import io
import itertools
import json
import lzma
import tempfile
from collections.abc import Callable, Iterator
from random import Random
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_struct import parsers
from keras_struct.protein import structure_files
from keras_struct.protein.chain import Chain
from keras_struct.protein.labelled_pairs import read_labelled_pairs
from keras_struct.protein.search import EncodingCache
from keras_struct.runs import claim, open_text, training
from keras_struct.treebank import gold_trees, parse_command
from keras_struct.treebank.corpus_files import read_corpus
from keras_struct.treebank.scoring import score_files
from keras_struct.treebank.text import read_sentences

pytestmark = pytest.mark.fuzz
EACH = 100  # files of an example

TREES = b"( (S (NP-SBJ (PRP We)) (VP (VBD left) (-LRB- -LRB-)) (. .)))\n(FRAG (RB so)\n  (X y))\n"
CONLLU = b"""# sent_id = 1
# text = don't go
1-2\tdon't\t_\t_\t_\t_\t_\t_\t_\tSpaceAfter=No
1\tdo\tdo\tAUX\tVB\tMood=Imp|X=Y\t3\taux\t3:aux\t_
2\tn't\tnot\tPART\t_\t_\t3\tadvmod\t_\t_
2.1\te\t_\t_\t_\t_\t_\t_\t_\t_
3\tgo\tgo\tVERB\tVB\t_\t0\troot\t0:root\t_

"""
TEXT = "A title without a stop \n\nMr. Doe's e-mail: me@x.com, f(x) :) \u00e9.\r\n".encode()
PDB = b"".join(
    b"ATOM  %5d  %-3s ALA A%4d    %8.3f%8.3f%8.3f  1.00  0.00           %s  \n"
    % (3 * k + j, name, k, 3.8 * k + j, j, 0.0, name[:1])
    for k in range(1, 4)
    for j, name in enumerate((b"N", b"CA", b"C"))
)
_COLUMNS = """
    group_PDB type_symbol label_atom_id label_alt_id label_comp_id label_asym_id label_seq_id
    pdbx_PDB_ins_code Cartn_x Cartn_y Cartn_z occupancy auth_seq_id auth_asym_id pdbx_PDB_model_num
"""
CIF_COLUMNS = _COLUMNS.split()
CIF_ROWS = [
    f"ATOM {name[0]} {name} . ALA A {k} ? {3.8 * k + j} {j} 0 1.0 {k} A 1"
    for k in range(1, 4)
    for j, name in enumerate(("N", "CA", "C"))
]
CIF_LINES = ["data_x", "loop_", *(f"_atom_site.{column}" for column in CIF_COLUMNS), *CIF_ROWS]
CIF = "\n".join([*CIF_LINES, "#", ""]).encode()
PIECES = [letter.encode() for letter in "\n\r\t ()#>_-.?'|01A\x00\x1a\u00a0\u2028\ufeff"]
PIECES += [b"", b"\r\n", b"\n\n", b"()", b"loop_\n", b"-1", b"1.5", b"nan", b"inf", b"1e999"]
PIECES += [b"9" * 30, b"\xff", b"\xff\xfe"]
FASTA = b">lys first\nKVFGRCELAAAM\n>two\nMKV\nLL*\n"
PARAMETERS = b"# comment\nDELETE_LABEL TOP\nEQ_LABEL ADVP PRT\nLABELED 1\n"


def damaged(base: bytes, random: Random) -> bytes:
    """A file in which a few pieces are cut out, moved, doubled or replaced; seldom any bytes."""
    if random.random() < 0.05:
        return random.randbytes(random.randrange(80))
    data = base
    for _ in range(random.choice((0, 1, 1, 2, 3, 5))):
        start, length = random.randrange(len(data) + 1), random.choice((0, 0, 1, 3, 8, 40))
        if random.random() < 0.2:  # by lines or columns
            start = max(data.rfind(random.choice((b"\n", b"\t", b" ")), 0, start), 0)
        new = random.choice(PIECES)
        if random.random() < 0.3:
            new = random.randbytes(random.randrange(7))
        elif random.random() < 0.3:
            place = random.randrange(len(data) + 1)
            new = data[place : place + random.choice((1, 4, 20, 80, 400))]
        data = data[:start] + new + data[start + length :]
    return data


def check_damaged(base: bytes, check: Callable[[bytes], None]) -> None:
    """Run a check on a file and damaged ones; an error has a note of the bytes that led to it."""

    wanted = settings().max_examples

    @settings(max_examples=-(-wanted // EACH))
    @given(st.integers(0, 2**64 - 1))
    def check_some(seed):
        random = Random(seed)
        for number in range(min(EACH, wanted)):
            data = damaged(base, random) if number else base
            try:
                check(data)
            except BaseException as error:
                error.add_note(f"on the file {data!r}")
                raise

    check_some()


def readable(read, *known: type[Exception]) -> None:
    """Whatever comes, an error is a `ValueError` (or one of those known) that is not long."""
    errors: tuple[type[Exception], ...] = (ValueError, *known)
    try:
        read()
    except errors as error:
        assert len(str(error)) < 2000


@contextlib.contextmanager
def file_of(data: bytes) -> Iterator[str]:
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        yield file.name


def lines_of(data: bytes, encoding: str | None = None) -> list[str]:
    with file_of(data) as name, open_text(name, encoding) as lines:
        return list(lines)


def test_trees():
    def check(data):
        lines = lines_of(data)
        readable(lambda: list(parsers.read_trees(lines)))
        for tree in parsers.read_trees(lines, skipped=lambda error: None):
            (again,) = parsers.read_trees([str(tree)])
            assert again == tree

    check_damaged(TREES, check)


def test_conllu():
    def check(data):
        lines = lines_of(data)
        readable(lambda: list(parsers.read_conllu(lines)))
        for sentence in parsers.read_conllu(lines, skipped=lambda error: None, trees=True):
            again = list(parsers.read_conllu(sentence.serialize().split("\n"), trees=True))
            assert [parsers.arcs(s) for s in again] == [parsers.arcs(sentence)]

    check_damaged(CONLLU, check)


def test_evalb_parameters():
    check_damaged(
        PARAMETERS, lambda data: readable(lambda: parsers.read_evalb_parameters(lines_of(data)))
    )


@pytest.mark.parametrize("encoding", [None, "utf-16", "shift_jis", "utf-7"])
def test_texts(encoding):
    formats = itertools.cycle(["text", "words", "conllu"])

    def check(data):
        lines = lines_of(data, encoding)
        text = "".join(lines)
        for sentence in read_sentences(lines, next(formats), skipped=lambda error: None):
            assert sentence
            for word, (start, end) in zip(sentence, sentence.offsets or (), strict=False):
                assert text[start:end] == word

    check_damaged(TEXT.decode().encode(encoding or "utf-8", "replace"), check)


JSON_LINES = b'{"text": "We left. They saw it."}\n\n{"text": ["We", "left"], "id": 1}\n'


def parquet() -> bytes:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"text": ["We left.", None, "It rains."], "id": [1, 2, 3]})
    stream = io.BytesIO()
    pyarrow.parquet.write_table(table, stream)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "base"), [("a.jsonl", lambda: JSON_LINES), ("a.parquet", parquet)]
)
def test_records(name, base, tmp_path):
    """What cannot be read of a file is left out, and the next file is read."""
    other = tmp_path / "other.txt"
    other.write_text("We saw it.\n")

    def check(data):
        (tmp_path / name).write_bytes(data)
        errors: list[Exception] = []
        files = [str(tmp_path / name), str(other)]
        *found, last = read_corpus(files, None, None, "text", errors.append)
        assert list(last) == ["We", "saw", "it", "."] and all(found)
        assert all(isinstance(error, ValueError) and name in str(error) for error in errors)
        assert all(len(str(error)) < 2000 for error in errors)

    check_damaged(base(), check)


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("a.pdb", lambda: PDB),
        ("a.cif", lambda: CIF),
        ("a.fasta", lambda: FASTA),
        ("a.bcif", lambda: binary_cif()),
        ("a.pdb.gz", lambda: gzip.compress(PDB)),
        ("a.ent.bz2", lambda: bz2.compress(PDB)),
        ("a.cif.xz", lambda: lzma.compress(CIF)),
    ],
)
def test_protein_files(name, base, tmp_path):
    def check(data):
        (tmp_path / name).write_bytes(data)
        readable(lambda: structure_files.read_chains(tmp_path / name))
        readable(lambda: structure_files.read_chains(tmp_path / name, skipped=lambda error: None))

    check_damaged(base(), check)


def binary_cif() -> bytes:
    from biotite.structure.io import pdb, pdbx

    file = pdbx.BinaryCIFFile()
    atoms = pdb.PDBFile.read(io.StringIO(PDB.decode())).get_structure(model=1)
    pdbx.set_structure(file, atoms)
    stream = io.BytesIO()
    file.write(stream)
    return stream.getvalue()


def test_tables_of_pairs(tmp_path):
    (tmp_path / "a.fasta").write_bytes(FASTA)
    head = b"first\tsecond\tfirst_row\tsecond_row\tweight\n"
    row = b"a.fasta:lys\ta.fasta:two\tKVFGRCELAAAM\tMKVLL-------\t0.5\n"

    def check(data):
        (tmp_path / "a.tsv").write_bytes(data)
        readable(lambda: read_labelled_pairs(tmp_path / "a.tsv"), OSError)

    check_damaged(head + row + row, check)


class Encoder:
    weights: tuple = ()


class Aligner:
    encoder = Encoder()


def test_entries_of_a_cache(tmp_path):
    file = tmp_path / "a.pdb"
    file.write_bytes(PDB)
    cache = EncodingCache(tmp_path / "cache", Aligner())
    chain = Chain("a", "AAA", np.ones((3, 5, 3)), ("1", "2", "3"))
    cache.store(file, [chain], [np.zeros((3, 2), "float32")])
    (entry,) = (tmp_path / "cache").iterdir()
    whole = entry.read_bytes()
    assert cache.load(file) is not None

    def check(data):
        entry.write_bytes(data)
        assert (cache.load(file) is None) == (data != whole)

    check_damaged(whole, check)


def test_what_decided_a_training(tmp_path):
    decisions = {"seed": 1, "files": ["a" * 64]}
    claim(tmp_path, decisions)
    path = tmp_path / "training.json"

    def check(data):
        path.write_bytes(data)
        readable(lambda: claim(tmp_path, decisions))

    check_damaged(json.dumps(decisions).encode(), check)


@pytest.mark.parametrize("name", [training.STATE, training.ROWS])
def test_checkpoints(name, tmp_path):
    model = SimpleNamespace(
        trainable_variables=[keras.Variable(np.arange(3.0))],
        non_trainable_variables=[],
        optimizer=SimpleNamespace(variables=[keras.Variable(7)]),
    )
    rows = [{"epoch": 1, "loss": 0.5}]
    training.store(model, tmp_path, rows)
    file = tmp_path / "000001" / name
    whole = file.read_bytes()

    def restored():
        assert training.restore(model, tmp_path, lambda line: None) == rows

    def check(data):
        file.write_bytes(data)
        readable(restored)

    restored()
    check_damaged(whole, check)


def test_how_far_a_run_is(tmp_path):
    path, decisions = tmp_path / "notes.json", {"format": "json"}
    parse_command.write_notes(path, decisions, 3, 100)
    whole = path.read_bytes()

    def check(data):
        path.write_bytes(data)
        found = parse_command.read_notes(path, decisions)
        assert all(isinstance(number, int) and number >= 0 for number in found)

    check_damaged(whole, check)


@pytest.mark.parametrize("kind", sorted(gold_trees.KINDS))
def test_gold_trees(kind):
    trees = gold_trees.KINDS[kind]

    def check(data):
        with file_of(data) as name:
            readable(lambda: trees.read(name))
            found = trees.read(name, skipped=lambda error: None)
        for tree in found:
            targets = trees.target(tree, trees.labels(found))
            assert len(targets) and len(trees.words(tree)) == len(trees.tags(tree)) > 0

    check_damaged(CONLLU if kind == "dependency" else TREES, check)


@pytest.mark.parametrize("kind", sorted(gold_trees.KINDS))
def test_scores_of_files(kind, tmp_path):
    gold = CONLLU if kind == "dependency" else TREES
    (tmp_path / "gold").write_bytes(gold)

    def check(data):
        with file_of(data) as name:
            readable(lambda: score_files(kind, tmp_path / "gold", name, lambda error: None))

    check_damaged(gold, check)
