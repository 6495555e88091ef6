"""Every reader of files, on files that are damaged in every way: what it says is a `ValueError`.

Few files in `make test`; with `make test-readers EXAMPLES=100000` that many for each, new ones.
"""

import io
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_struct import parsers
from keras_struct.protein import structure_files
from keras_struct.protein.chain import Chain
from keras_struct.protein.labelled_pairs import read_labelled_pairs
from keras_struct.protein.search import EncodingCache
from keras_struct.runs import claim, open_text
from keras_struct.treebank.gold_trees import read_dependency
from keras_struct.treebank.text import read_sentences

pytestmark = pytest.mark.fuzz

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
FASTA = b">lys first\nKVFGRCELAAAM\n>two\nMKV\nLL*\n"
PARAMETERS = b"# comment\nDELETE_LABEL TOP\nEQ_LABEL ADVP PRT\nLABELED 1\n"


def damaged(base: bytes) -> st.SearchStrategy[bytes]:
    """A file in which a few pieces are cut out, doubled, or replaced by others."""
    place = st.integers(0, len(base))
    ascii_bytes = st.text("()\t\n\r #>0123456789-_.|ABC\x00", max_size=8).map(str.encode)
    edit = st.tuples(place, st.integers(0, 40), st.binary(max_size=6) | ascii_bytes)

    def edited(edits):
        data = base
        for start, length, new in edits:
            data = data[:start] + new + data[start + length :]
        return data

    whole = st.binary(max_size=80)
    return st.lists(edit, max_size=5).map(edited) | whole


def readable(read, *known: type[Exception]) -> None:
    """Whatever comes, an error is a `ValueError` (or one of those known) that is not long."""
    errors: tuple[type[Exception], ...] = (ValueError, *known)
    try:
        read()
    except errors as error:
        assert len(str(error)) < 2000


def lines_of(data: bytes) -> list[str]:
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        with open_text(file.name) as lines:
            return list(lines)


@given(damaged(TREES))
def test_trees(data):
    lines = lines_of(data)
    readable(lambda: list(parsers.read_trees(lines)))
    for tree in parsers.read_trees(lines, skipped=lambda error: None):
        (again,) = parsers.read_trees([str(tree)])
        assert again == tree


@given(damaged(CONLLU))
def test_conllu(data):
    lines = lines_of(data)
    readable(lambda: list(parsers.read_conllu(lines)))
    for sentence in parsers.read_conllu(lines, skipped=lambda error: None, trees=True):
        again = list(parsers.read_conllu(sentence.serialize().split("\n"), trees=True))
        assert [parsers.arcs(s) for s in again] == [parsers.arcs(sentence)]


@given(damaged(PARAMETERS))
def test_evalb_parameters(data):
    readable(lambda: parsers.read_evalb_parameters(lines_of(data)))


@given(damaged(TEXT), st.sampled_from(["text", "words", "conllu"]))
def test_texts(data, format):
    lines = lines_of(data)
    text = "".join(lines)
    for sentence in read_sentences(lines, format, skipped=lambda error: None):
        assert sentence
        for word, (start, end) in zip(sentence, sentence.offsets or (), strict=False):
            assert text[start:end] == word


@pytest.mark.parametrize(
    ("name", "base"),
    [("a.pdb", PDB), ("a.cif", CIF), ("a.fasta", FASTA), ("a.bcif", b""), ("a.pdb.gz", b"")],
)
def test_protein_files(name, base, tmp_path):
    if name == "a.bcif":
        base = binary_cif()
    if name == "a.pdb.gz":
        import gzip

        base = gzip.compress(PDB)

    @given(damaged(base))
    def check(data):
        (tmp_path / name).write_bytes(data)
        readable(lambda: structure_files.read_chains(tmp_path / name))
        readable(lambda: structure_files.read_chains(tmp_path / name, skipped=lambda error: None))

    check()


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

    @given(damaged(head + row + row))
    def check(data):
        (tmp_path / "a.tsv").write_bytes(data)
        readable(lambda: read_labelled_pairs(tmp_path / "a.tsv"), OSError)

    check()


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

    @given(damaged(whole))
    def check(data):
        entry.write_bytes(data)
        assert (cache.load(file) is None) == (data != whole)

    check()


def test_what_decided_a_training(tmp_path):
    decisions = {"seed": 1, "files": ["a" * 64]}
    claim(tmp_path, decisions)
    path = tmp_path / "training.json"

    @given(damaged(json.dumps(decisions).encode()))
    def check(data):
        path.write_bytes(data)
        readable(lambda: claim(tmp_path, decisions))

    check()


@given(damaged(CONLLU))
def test_gold_trees(data):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "a.conllu"
        file.write_bytes(data)
        readable(lambda: read_dependency(file))
        for sentence in read_dependency(file, skipped=lambda error: None):
            parsers.check_arcs(sentence)
