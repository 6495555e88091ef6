"""Structures and sequences as they come: missing, doubled, modified, zipped, broken."""

import gzip
import re
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_struct import protein
from keras_struct.protein.scores import d0

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="files are the same on every backend"
)
tmtools = pytest.importorskip("tmtools")
GLOBINS = Path(tmtools.__file__).parent / "data" / "2gtl.cif"

ATOM = "{kind:6s}{serial:5d} {name:^4s}{alt:1s}{residue:3s} {chain}{number:4d}{insertion:1s}   "
REST = "{x:8.3f}{y:8.3f}{z:8.3f}{occupancy:6.2f}  0.00           {element:>2s}"


def atom(name, residue, number, place, kind="ATOM", alt="", chain="A", insertion="", occupancy=1.0):
    x, y, z = place
    return (ATOM + REST).format(
        kind=kind, serial=1, name=name, alt=alt, residue=residue, chain=chain, number=number,
        insertion=insertion, x=x, y=y, z=z, occupancy=occupancy, element=name[0],
    )  # fmt: skip


def residue(name, number, **options):
    places = {"N": (0, 0, 0), "CA": (1.5, 0, 0), "C": (2, 1.4, 0), "O": (1.2, 2.4, 0)}
    return [
        atom(a, name, number, (x + 3.8 * number, y, z), **options)
        for a, (x, y, z) in places.items()
    ]


def write(path, lines):
    path.write_text("\n".join([*lines, "END", ""]))
    return path


def test_every_chain_of_a_file_that_is_there():
    chains = protein.read_chains(GLOBINS)
    assert [chain.name for chain in chains[:3]] == ["2gtl:A", "2gtl:B", "2gtl:C"]
    assert len(chains) == 15 and len(chains[0]) == 147
    # Letters are those of the residues with coordinates, not of the deposited sequence.
    assert all(np.isfinite(chain.ca).all() for chain in chains)


def test_pdb_mmcif_binary_cif_and_gzip_are_the_same(tmp_path):
    from biotite.structure.io import pdb, pdbx

    (chain,) = protein.read_chains(GLOBINS, ["B"])
    file = pdb.PDBFile()
    file.set_structure(chain.atoms)
    file.write(tmp_path / "b.pdb")
    binary = pdbx.BinaryCIFFile()
    pdbx.set_structure(binary, chain.atoms)
    binary.write(tmp_path / "b.bcif")
    (tmp_path / "b.cif.gz").write_bytes(gzip.compress(GLOBINS.read_bytes()))
    for name in ("b.pdb", "b.bcif", "b.cif.gz"):
        other = protein.read_chain(f"{tmp_path / name}:B")
        assert other.name == "b:B" and other.sequence == chain.sequence
        np.testing.assert_allclose(other.ca, chain.ca, atol=2e-3)
        assert other.structural_letters == chain.structural_letters


def test_modified_residues_belong_to_the_chain_and_ligands_do_not(tmp_path):
    lines = [
        *residue("GLY", 1),
        *residue("MSE", 2, kind="HETATM"),
        *residue("XYZ", 3, kind="HETATM"),
        *residue("ALA", 4),
        atom("O", "HOH", 5, (9, 9, 9), kind="HETATM"),
        atom("CA", "CA", 6, (8, 8, 8), kind="HETATM"),
        atom("P", "DA", 7, (7, 7, 7)),
    ]
    (chain,) = protein.read_chains(write(tmp_path / "a.pdb", lines))
    assert chain.sequence == "GMXA" and chain.residue_ids == ("1", "2", "3", "4")
    assert np.isnan(np.asarray(chain.backbone)[:, 4]).all()  # no CB was resolved
    assert np.isfinite(
        np.asarray(chain.backbone)[:, :4]
    ).all()  # also of the residue that nobody knows


def test_the_location_of_the_highest_occupancy_counts(tmp_path):
    lines = [
        *residue("GLY", 1),
        *residue("SER", 2, alt="A", occupancy=0.3),
        *[line.replace("   0.000", "   1.000", 1) for line in
          residue("SER", 2, alt="B", occupancy=0.7)],
        *residue("ALA", 3, insertion="B"),
    ]  # fmt: skip
    (chain,) = protein.read_chains(write(tmp_path / "a.pdb", lines))
    assert chain.sequence == "GSA" and chain.residue_ids == ("1", "2", "3B")
    (only_b,) = protein.read_chains(write(tmp_path / "b.pdb", lines[8:12]))
    np.testing.assert_array_equal(np.asarray(chain.backbone)[1], np.asarray(only_b.backbone)[0])


def test_of_two_amino_acids_at_one_place_the_likelier_counts(tmp_path):
    """Microheterogeneity, as in crambin; atoms of both follow each other or alternate."""
    serine = residue("SER", 2, alt="A", occupancy=0.4)
    threonine = residue("THR", 2, alt="B", occupancy=0.6)
    alternating = [line for pair in zip(serine, threonine, strict=True) for line in pair]
    for middle in (serine + threonine, alternating):
        lines = [*residue("GLY", 1), *middle, *residue("ALA", 3)]
        (chain,) = protein.read_chains(write(tmp_path / "a.pdb", lines))
        assert chain.sequence == "GTA" and chain.residue_ids == ("1", "2", "3")
        assert set(chain.atoms.res_name) == {"GLY", "THR", "ALA"}


def test_models_are_chosen(tmp_path):
    one, two = (["MODEL        1"], ["ENDMDL", "MODEL        2"])
    moved = [line.replace("   0.000", "   5.000") for line in residue("GLY", 1)]
    file = write(tmp_path / "a.pdb", [*one, *residue("GLY", 1), *two, *moved, "ENDMDL"])
    first, second = (protein.read_chains(file, model=k)[0] for k in (1, 2))
    assert np.abs(first.ca - second.ca).max() == 5
    with pytest.raises(ValueError, match=r"model from 1 to 2.*a\.pdb"):
        protein.read_chains(file, model=3)


def test_models_that_endmdl_alone_sets_apart(tmp_path):
    moved = [line.replace("   0.000", "   5.000") for line in residue("GLY", 1)]
    lines = [*residue("GLY", 1), "ENDMDL", *moved, "ENDMDL"]
    file = write(tmp_path / "a.pdb", lines)
    first, second = (protein.read_chains(file, model=k)[0] for k in (1, 2))
    assert np.abs(first.ca - second.ca).max() == 5
    with pytest.raises(ValueError, match=r"model from 1 to 2.*a\.pdb"):
        protein.read_chains(file, model=3)
    write(file, ["MODEL        7", *residue("GLY", 1), "ENDMDL", *residue("SER", 2)])
    assert [protein.read_chain(file, k).sequence for k in (1, 2)] == ["G", "S"]
    write(file, [*residue("GLY", 1), "MODEL        1", *moved, "ENDMDL"])
    with pytest.raises(ValueError, match=r"ENDMDL before MODEL in line 5.*a\.pdb"):
        protein.read_chains(file)


def test_fasta(tmp_path):
    (tmp_path / "a.fa").write_text(">one first\nMKV\nLLA*\n>two\nmkx\n")
    chains = protein.read_chains(tmp_path / "a.fa")
    assert [(c.name, c.sequence) for c in chains] == [("one", "MKVLLA"), ("two", "MKX")]
    with pytest.raises(ValueError, match=r"one, a bare sequence"):
        chains[0].structural_letters  # noqa: B018


def test_what_does_not_fit_is_named(tmp_path):
    cases = {
        "twice.pdb": ([*residue("GLY", 1), *residue("SER", 2), *residue("GLY", 1)], "GLY 1 of"),
        "at_once.pdb": ([*residue("SER", 2), *residue("SER", 2)], "SER 2 of at_once:A twice"),
        "water.pdb": ([atom("O", "HOH", 5, (9, 9, 9), kind="HETATM")], "a protein chain"),
        "broken.cif": (["data_x", "loop_"], "a readable file"),
        "odd.fasta": ([">a", "MK1"], "letters of amino acids in a"),
        "notes.txt": (["x"], "a file ending in"),
    }
    for name, (lines, text) in cases.items():
        with pytest.raises(ValueError, match=text) as error:
            protein.read_chains(write(tmp_path / name, lines) if lines[0][0] != ">" else
                                _bare(tmp_path / name, lines))  # fmt: skip
        assert name in str(error.value)
    with pytest.raises(FileNotFoundError, match=r"none"):
        protein.read_chains(tmp_path / "none.pdb")
    with pytest.raises(ValueError, match=r"chains among \['A', 'B'.*\['Z'\]"):
        protein.read_chains(GLOBINS, ["Z"])


def _bare(path, lines):
    path.write_text("\n".join(lines))
    return path


def test_a_residue_without_ca_is_no_residue(tmp_path):
    lines = [*residue("GLY", 1), residue("SER", 2)[0], *residue("ALA", 3)]
    (chain,) = protein.read_chains(write(tmp_path / "a.pdb", lines))
    assert chain.sequence == "GA"
    with pytest.raises(ValueError, match=r"residue G1 without"):
        protein.Chain("x", "G", np.full((1, 5, 3), np.nan), ("1",))


def test_superposed_file(tmp_path):
    first, second = protein.read_chains(GLOBINS, ["A", "B"])
    found = tmtools.tm_align(first.ca, second.ca, first.sequence, second.sequence)
    alignment = protein.Alignment.from_rows(first, second, (found.seqxA, found.seqyA))
    protein.write_superposed(alignment, tmp_path / "both.pdb")
    a, b = protein.read_chains(tmp_path / "both.pdb")
    assert (a.name, b.name) == ("both:A", "both:B")
    assert (a.sequence, b.sequence) == (first.sequence, second.sequence)
    np.testing.assert_allclose(a.ca, first.ca, atol=2e-3)
    distance = np.linalg.norm(a.ca[alignment.pairs[:, 0]] - b.ca[alignment.pairs[:, 1]], axis=1)
    score = (1 / (1 + (distance / d0(len(first))) ** 2)).sum() / len(first)
    assert abs(score - found.tm_norm_chain1) < 2e-3
    bare = protein.Chain("x", first.sequence)
    with pytest.raises(ValueError, match=r"a chain from a structure.*x"):
        protein.write_superposed(
            protein.Alignment(bare, second, alignment.pairs), tmp_path / "no.pdb"
        )
    assert not (tmp_path / "no.pdb").exists()


def cif(columns, rows, name="x"):
    """Lines of an mmCIF file with a category atom_site."""
    return [f"data_{name}", "loop_", *(f"_atom_site.{c}" for c in columns), *rows, "#"]


CIF_COLUMNS = {
    "group_PDB": "ATOM", "type_symbol": "{element}", "label_atom_id": "{atom}",
    "label_alt_id": ".", "label_comp_id": "GLY", "label_asym_id": "B", "auth_asym_id": "A",
    "label_seq_id": "{k}", "auth_seq_id": "{k}", "pdbx_PDB_ins_code": "?", "Cartn_x": "{x}",
    "Cartn_y": "{y}", "Cartn_z": "0", "occupancy": "1.0", "pdbx_PDB_model_num": "1",
}  # fmt: skip
PLACES = {"N": (0, 0), "CA": (1.5, 0), "C": (2, 1.4), "O": (1.2, 2.4)}


def cif_lines(*without, name="x", size=3):
    columns = [column for column in CIF_COLUMNS if column not in without]
    rows = [
        " ".join(CIF_COLUMNS[c] for c in columns).format(
            atom=atom, element=atom[0], k=k, x=x + 3.8 * k, y=y
        )
        for k in range(1, size + 1)
        for atom, (x, y) in PLACES.items()
    ]
    return cif(columns, rows, name)


@pytest.mark.parametrize(
    "without",
    [
        (),
        ("pdbx_PDB_ins_code", "pdbx_PDB_model_num", "type_symbol", "occupancy", "group_PDB"),
        ("label_alt_id", "auth_seq_id", "auth_asym_id"),
        ("label_seq_id", "label_asym_id"),
    ],
)
def test_mmcif_with_few_columns(tmp_path, without):
    (chain,) = protein.read_chains(_bare(tmp_path / "a.cif", cif_lines(*without)))
    assert (chain.sequence, chain.residue_ids) == ("GGG", ("1", "2", "3"))
    np.testing.assert_allclose(chain.ca[:, 0], [5.3, 9.1, 12.9], atol=1e-3)


def test_chains_by_the_name_of_the_author_or_the_label_and_of_several_blocks(tmp_path):
    file = _bare(tmp_path / "a.cif", cif_lines())
    assert protein.read_chain(f"{file}:A").name == "a:A"
    assert protein.read_chain(f"{file}:B", names="label").name == "a:B"
    with pytest.raises(ValueError, match=r"chains among \['A'\]"):
        protein.read_chain(f"{file}:B")
    two = [*cif_lines(name="one"), "data_empty", "_x.y 1", *cif_lines(name="two", size=2)]
    chains = protein.read_chains(_bare(tmp_path / "b.cif", two))
    assert [(c.name, len(c)) for c in chains] == [("b:one.A", 3), ("b:two.A", 2)]
    assert len(protein.read_chain(f"{tmp_path / 'b.cif'}:two.A")) == 2
    (only,) = protein.read_chains(_bare(tmp_path / "c.cif", ["data_empty", "_x.y 1", *cif_lines()]))
    assert only.name == "c:A"


def test_blocks_of_one_name_are_all_read(tmp_path):
    two = [*cif_lines(size=3), *cif_lines(size=2)]
    chains = protein.read_chains(_bare(tmp_path / "a.cif", two))
    assert [(c.name, len(c)) for c in chains] == [("a:x.A", 3), ("a:x_2.A", 2)]
    # What looks like a block or a table within a text is none.
    within = ["_a.b", ";", "data_x", "_atom_site.Cartn_x", ";"]
    (chain,) = protein.read_chains(_bare(tmp_path / "b.cif", [*cif_lines(), *within]))
    assert chain.name == "b:A" and len(chain) == 3
    with pytest.raises(ValueError, match=r"the text that begins in line 32.*c\.cif"):
        protein.read_chains(_bare(tmp_path / "c.cif", [*cif_lines(), *within[:-1]]))
    # Of two tables of atoms in a block nobody knows which one counts.
    with pytest.raises(ValueError, match=r"not those of lines 13 and 42.*d\.cif"):
        protein.read_chains(_bare(tmp_path / "d.cif", [*cif_lines(), *cif_lines()[1:]]))


def test_binary_blocks_of_one_name_are_all_read(tmp_path):
    import msgpack
    from biotite.structure.io import pdbx

    (chain,) = protein.read_chains(_bare(tmp_path / "a.cif", cif_lines()))
    binary, file = pdbx.BinaryCIFFile(), tmp_path / "a.bcif"
    pdbx.set_structure(binary, chain.atoms, data_block="x")
    binary.write(file)
    (block,) = msgpack.unpackb(file.read_bytes())["dataBlocks"]
    file.write_bytes(msgpack.packb({"dataBlocks": [block, block]}))
    assert [c.name for c in protein.read_chains(file)] == ["a:x.A", "a:x_2.A"]
    block["categories"] *= 2
    file.write_bytes(msgpack.packb({"dataBlocks": [block]}))
    with pytest.raises(ValueError, match=r"one table of atoms in the data block x.*a\.bcif"):
        protein.read_chains(file)


def test_numbers_with_an_uncertainty(tmp_path):
    lines = [line.replace(" 0 1.0 1", " 4.8(3) 0.50(12) 1") for line in cif_lines()]
    lines[-2] = lines[-2].replace("4.8(3)", "-0.25")
    file = _bare(tmp_path / "a.cif", lines)
    (chain,) = protein.read_chains(file)
    np.testing.assert_allclose(chain.ca[:, 2], 4.8, rtol=1e-6)
    assert chain.atoms.coord[-1, 2] == -0.25 and set(chain.atoms.occupancy) == {0.5}
    for wrong in ("4.8(x)", "4.8(3)1", "(3)"):
        _bare(file, [line.replace("4.8(3)", wrong) for line in lines])
        with pytest.raises(ValueError, match=r"readable file.*a\.cif"):
            protein.read_chains(file)


def test_mmcif_in_capitals_with_a_mark_and_without_numbers_of_the_author(tmp_path):
    lines = [line.replace("_atom_site.", "_Atom_Site.").upper() for line in cif_lines()]
    lines = [line.replace("DATA_", "\ufeffdata_").replace("LOOP_", "loop_") for line in lines]
    (chain,) = protein.read_chains(_bare(tmp_path / "a.cif", lines))
    assert (chain.sequence, chain.residue_ids) == ("GGG", ("1", "2", "3"))


def test_a_complex_as_one_chain(tmp_path):
    lines = [*residue("GLY", 1), *residue("ALA", 2), *residue("SER", 1, chain="B")]
    (both,) = protein.read_chains(write(tmp_path / "a.pdb", lines), ["B+A"])
    assert (both.name, both.sequence) == ("a:B+A", "SGA")
    assert both.residue_ids == ("B:1", "A:1", "A:2") and len(both.structural_letters) == 3
    for wrong in ("A+C", "A+A"):
        with pytest.raises(ValueError, match=rf"Received: \['{re.escape(wrong)}'\]"):
            protein.read_chains(tmp_path / "a.pdb", [wrong])


@pytest.mark.parametrize("width", [52, 54, 60, 66, 80])
def test_pdb_lines_that_end_early(tmp_path, width):
    lines = [line[:width] for line in residue("GLY", 1) + residue("SER", 2)]
    lines += [line[:54] + "******" + line[60:] for line in residue("ALA", 3)]
    if width == 52:
        with pytest.raises(ValueError, match=r"readable file.*a\.pdb|coordinates in line 1"):
            protein.read_chains(write(tmp_path / "a.pdb", [line[:45] for line in lines]))
        return
    (chain,) = protein.read_chains(write(tmp_path / "a.pdb", lines))
    assert chain.sequence == "GSA"
    assert np.isfinite(np.asarray(chain.backbone)[:, :4]).all()


def test_residues_of_simulation_packages(tmp_path):
    names = [
        "HSE",
        "HSD",
        "HSP",
        "HID",
        "HIE",
        "HIP",
        "CYX",
        "CYM",
        "ASH",
        "GLH",
        "LYN",
        "TYM",
        "MSE",
    ]
    lines = [line for k, name in enumerate(names, 1) for line in residue(name, k)]
    lines += [atom("CB", "HID", 14, (0, 0, 0)), *residue("HID", 15)]
    lines += [*residue("HSE", 16), atom("OD", "HSE", 16, (5, 5, 5))]
    (chain,) = protein.read_chains(write(tmp_path / "a.pdb", lines))
    assert chain.sequence == "HHHHHHCCDEKYM" + "H" + "S"
    assert len(chain.atoms) == 13 * 4 + 4 + 5  # side chains that nobody knows are kept
    # The fourth letter stands where PDB has a blank.
    four = ["NALA", "CASP", "CALA", "NHIE", "HISA", "S1P", "CYSD", "QQQ"]
    lines = [
        x.replace("GLY ", f"{name:4s}") for k, name in enumerate(four) for x in residue("GLY", k)
    ]
    (chain,) = protein.read_chains(write(tmp_path / "b.pdb", lines))
    assert chain.sequence == "ADAHHSCX" and chain.atoms.res_name[0] == "NALA"
    four = [line.replace(" GLY ", " NALA ") for line in cif_lines()]
    assert protein.read_chains(_bare(tmp_path / "a.cif", four))[0].sequence == "AAA"


def test_an_atom_with_and_without_a_location(tmp_path, recwarn):
    lines = [*residue("SER", 1), atom("OG", "SER", 1, (1, 1, 1), occupancy=0.4)]
    lines.append(atom("OG", "SER", 1, (2, 2, 2), alt="B", occupancy=0.6))
    lines = [line[:76] for line in lines]  # no elements, which biotite warns of
    (chain,) = protein.read_chains(write(tmp_path / "a.pdb", lines))
    assert chain.atoms.atom_name.tolist().count("OG") == 1
    assert chain.atoms.coord[-1].tolist() == [2, 2, 2]
    assert not recwarn.list


@pytest.mark.parametrize("name", ["A.PDB", "a.ent", "a.pdb1", "a.Cif.GZ", "a.mcif.xz", "a.brk.bz2"])
def test_endings(tmp_path, name):
    import bz2
    import lzma

    lines = (
        cif_lines() if "cif" in name.lower() else [x for k in (1, 2, 3) for x in residue("GLY", k)]
    )
    data = "\n".join([*lines, ""]).encode()
    for ending, compress in (
        (".gz", gzip.compress),
        (".xz", lzma.compress),
        (".bz2", bz2.compress),
    ):
        data = compress(data) if name.lower().endswith(ending) else data
    (tmp_path / name).write_bytes(data)
    (chain,) = protein.read_chains(tmp_path / name)
    assert (chain.sequence, chain.name.lower()) == ("GGG", "a:a")
    assert protein.protein_files([tmp_path]) == [tmp_path / name]
    (tmp_path / "cut.pdb.gz").write_bytes(gzip.compress(b"x" * 1000)[:20])
    with pytest.raises(ValueError, match=r"readable file.*cut"):
        protein.read_chains(tmp_path / "cut.pdb.gz")


def test_fasta_as_it_comes(tmp_path):
    file = tmp_path / "a.fa"
    text = "\ufeff;comment\r\n>sp|P1:x one\r\nMK V\r\n;more\r\nLL*\r\n>gap\nM-K\n"
    text += ">digit\nM1\n>empty\n>lys\nKV\n"
    file.write_bytes(f"{text}>lys\nKVF\n>\nAC\n".encode())
    errors: list[Exception] = []
    chains = protein.read_chains(file, skipped=errors.append)
    assert [(c.name, c.sequence) for c in chains] == [
        *(("sp|P1:x", "MKVLL"), ("lys", "KV"), ("lys_2", "KVF"), ("a_7", "AC"))
    ]
    assert [str(e).split(" in ")[-1][:8] for e in errors[:2]] == ["gap, not", "digit, n"]
    assert "the header empty" in str(errors[2])
    # A record that is asked for by its name, colon and all, whatever the others are.
    assert protein.read_chain(f"{file}:sp|P1:x").sequence == "MKVLL"
    assert protein.read_chain(f"{file}:lys_2").sequence == "KVF"
    with pytest.raises(ValueError, match=r"Received: \['gap'\].*letters of amino acids in gap"):
        protein.read_chain(f"{file}:gap")
    with pytest.raises(ValueError, match="letters of amino acids in gap"):
        protein.read_chains(file)
    _bare(file, [">a", "M\u00df"])  # two letters, if it is made large
    with pytest.raises(ValueError, match="letters of amino acids in a, not"):
        protein.read_chains(file)
    _bare(file, ["MKV"])
    with pytest.raises(ValueError, match=r"begins with >.*a\.fa"):
        protein.read_chains(file)


def test_what_pdb_cannot_hold_is_written_as_mmcif(tmp_path):
    lines = [x for k in range(1, 6) for x in residue("GLY", k)]
    near = protein.read_chains(write(tmp_path / "near.pdb", lines))[0]
    far = cif_lines(size=5)
    far = [line.replace(" 0 1.0 1", " 20000.5 1.0 1") for line in far]
    (other,) = protein.read_chains(_bare(tmp_path / "far.cif", far))
    pairs = np.stack([np.arange(5)] * 2, axis=1)
    for alignment, wanted in (
        (protein.Alignment(near, near, pairs), "s.pdb"),
        (protein.Alignment(other, near, pairs), "s.cif"),
    ):
        path = protein.write_superposed(alignment, tmp_path / "s.pdb")
        assert path == tmp_path / wanted
        a, b = protein.read_chains(path)
        np.testing.assert_allclose(a.ca, b.ca, atol=5e-3)
        assert [c.name[-1] for c in (a, b)] == ["A", "B"]
    assert protein.write_superposed(alignment, tmp_path / "t.cif") == tmp_path / "t.cif"
    packed = protein.write_superposed(alignment, tmp_path / "s.pdb.gz")
    assert packed == tmp_path / "s.cif.gz" and len(protein.read_chains(packed)) == 2
    for name in ("s.xyz", "s.bcif", "s"):
        with pytest.raises(ValueError, match=r"ending in \.pdb or \.cif"):
            protein.write_superposed(alignment, tmp_path / name)
    # All of a file, moved by what JSON tells.
    whole = protein.write_transformed(alignment, tmp_path / "near.pdb", tmp_path / "w.pdb")
    (moved,) = protein.read_chains(whole)
    np.testing.assert_allclose(moved.ca, other.ca, atol=5e-3)
    found = alignment.as_json()
    by_hand = near.ca @ np.array(found["rotation"]).T + found["translation"]
    np.testing.assert_allclose(by_hand, other.ca, atol=5e-3)
    few = protein.Alignment(near, near, pairs[:2]).as_json()
    assert few["rotation"] is None and few["translation"] is None
