"""Structures and sequences as they come: missing, doubled, modified, zipped, broken."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from keras_struct import protein
from keras_struct.protein.scores import d0

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
    assert np.isnan(chain.backbone[:, 4]).all()  # no CB was resolved
    assert np.isfinite(chain.backbone[:, :4]).all()  # also of the residue that nobody knows


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
    np.testing.assert_array_equal(chain.backbone[1], only_b.backbone[0])


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
