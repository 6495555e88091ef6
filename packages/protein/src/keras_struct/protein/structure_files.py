"""Chains from files of structures and sequences."""

from __future__ import annotations

import bz2
import gzip
import itertools
import lzma
import re
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from keras_struct.layers.annotations import StrPath
from keras_struct.protein.atom_tables import NAMES, Unfit, cif_atoms, pdb_atoms
from keras_struct.protein.chain import BACKBONE, Chain
from keras_struct.runs import shortened

PDB, CIF, BINARY, FASTA = (
    (".pdb", ".ent", ".brk"),
    (".cif", ".mmcif", ".mcif", ".pdbx"),
    (".bcif",),
    (".fasta", ".fa", ".faa", ".fas", ".fsa", ".fst", ".mpfa", ".mfa", ".pep", ".seq"),
)
SUFFIXES = (*PDB, *CIF, *BINARY, *FASTA)
COMPRESSED: dict[str, Any] = {".gz": gzip, ".bz2": bz2, ".xz": lzma}
_ASSEMBLY = re.compile(r"\.pdb\d+")  # of the Protein Data Bank's biological assemblies
JOIN = "+"  # between the names of chains that are read as one
# What simulation packages call amino acids by their protonation or bonds; the Chemical Component
# Dictionary has other compounds, or none, under these names.
SIMULATED = {
    **dict.fromkeys(("HID", "HIE", "HIP", "HSD", "HSE", "HSP", "HSC", "HISD", "HISE", "HISH"), "H"),
    **dict.fromkeys(("HISA", "HISB", "HIS1", "HIS2", "HIZ", "HIX", "HDE"), "H"),
    **dict.fromkeys(("CYX", "CYM", "CYSH", "CYS1", "CYS2", "CYN", "CSX"), "C"),
    **dict.fromkeys(("ASH", "ASPH", "ASPP", "AS4", "ASZ"), "D"),
    **dict.fromkeys(("GLH", "GLUH", "GLUP", "GL4", "GLZ"), "E"),
    **dict.fromkeys(("LYN", "LYSH", "LSN", "LYP"), "K"),
    **dict.fromkeys(("ARN", "ARGN"), "R"),
    **dict.fromkeys(("TYM", "TYD", "Y1P", "Y2P"), "Y"),
    **dict.fromkeys(("S1P", "S2P", "SP1", "SP2"), "S"),
    **dict.fromkeys(("T1P", "T2P", "THP1", "THP2", "THPB"), "T"),
    **dict.fromkeys(("H1D", "H2D", "H1E", "H2E"), "H"),
}
HOMOSERINE_ATOM = "OD"  # of the compound that the dictionary calls HSE


def is_protein_file(path):
    """Whether the name of a file ends as those that `read_chains` reads."""
    return suffix_of(Path(path)) in SUFFIXES


def suffix_of(path):
    """The ending of a file, small and without that of compression; `.pdb` for `.pdb1`."""
    suffix = Path(_uncompressed_name(path)).suffix.lower()
    return ".pdb" if _ASSEMBLY.fullmatch(suffix) else suffix


def _uncompressed_name(path):
    return path.stem if path.suffix.lower() in COMPRESSED else path.name


def read_chains(
    path: StrPath,
    chains: Iterable[str] | None = None,
    model: int = 1,
    names: str = "author",
    skipped: Callable[[Exception], object] | None = None,
) -> list[Chain]:
    """The protein chains of a file, in its order.

    Residues are those that are there, with a CA atom: what was not resolved is no residue. Of
    alternative locations the one of the highest occupancy is read; modified residues that belong to
    the chain, such as selenomethionine, get the letter of their parent and others `X`; water,
    ligands, ions and nucleic acids are left out.

    Args:
        path: PDB (`.pdb`, `.ent`, `.brk`, `.pdb1`), mmCIF (`.cif`, `.mmcif`, `.mcif`, `.pdbx`),
            BinaryCIF (`.bcif`) or FASTA (`.fasta`, `.fa`, `.faa`, `.fas` and others), each also
            with `.gz`, `.bz2` or `.xz`, in small or capital letters.
        chains: Names of the chains to read; None for all. A name such as `"A+B"` is a complex: its
            chains as one, one after the other.
        model: Which model of a structure, from 1.
        names: Whose names of chains mmCIF files are read by, `"author"` or `"label"`.
        skipped: Called with the error of a FASTA record that cannot be read, which is left out;
            None raises.

    Returns:
        List of `Chain`, named `stem:chain`; in a file with several data blocks `stem:block.chain`;
        of a FASTA file by the first word of the header. A block or header whose name is there again
        gets a number, `name_2`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, has no protein, or not the chain or model; or for a
            residue that is there twice. The message names file and residue.

    Example:

    >>> import pathlib, tmtools
    >>> from keras_struct import protein
    >>> file = pathlib.Path(tmtools.__file__).parent / "data" / "2gtl.cif"
    >>> chain, = protein.read_chains(file, ["A"])
    >>> chain.name, len(chain), chain.sequence[:10], chain.structural_letters[:10]
    ('2gtl:A', 147, 'DCCSYEDRRE', 'DAQDPVLLVL')
    >>> both, = protein.read_chains(file, ["A+B"])
    >>> both.name, len(both), both.residue_ids[:2]
    ('2gtl:A+B', 292, ('A:5', 'A:6'))
    """
    path = Path(path)
    if names not in NAMES:
        raise ValueError(f"Expected one of {NAMES}. Received: names={names!r}")
    data = read_bytes(path)
    suffix = suffix_of(path)

    def left_out(message):
        error = ValueError(f"{message}. Received: {path}")
        if skipped is None:
            raise error
        skipped(error)

    try:
        if suffix in FASTA:
            found = _fasta(data, path, left_out)
        else:
            found = _structure(read_atoms(data, path, model, names), path)
    except Unfit as error:
        raise ValueError(f"{error}. Received: {path}") from None
    if not found:
        raise ValueError(f"Expected a file with a protein chain. Received: {path}")
    if chains is None:
        return list(found.values())
    missing = [
        name for name in chains if name not in found and not _is_complex(name.split(JOIN), found)
    ]
    if missing:
        raise ValueError(f"Expected chains among {list(found)} of {path}. Received: {missing}")
    return [
        found[name] if name in found else _joined([found[n] for n in name.split(JOIN)], path, name)
        for name in chains
    ]


def read_chain(
    place: StrPath,
    model: int = 1,
    names: str = "author",
    skipped: Callable[[Exception], object] | None = None,
) -> Chain:
    """The chain that `file` or `file:chain` names; of a file with several, the first.

    Args:
        place: Path, or a path, a colon and the name of a chain, see `read_chains`.
        model, names, skipped: As for `read_chains`; records of a FASTA file that are not asked for
            may be as they are.

    Raises:
        FileNotFoundError, ValueError: As `read_chains`.
    """
    file, name = file_and_chain(place)
    if name is None:
        return read_chains(file, None, model, names, skipped)[0]
    errors: list[Exception] = []
    try:
        return read_chains(file, [name], model, names, errors.append)[0]
    except ValueError as error:
        told = "; ".join(str(e) for e in [error, *errors])
        raise ValueError(told) from error


def file_and_chain(place):
    """The file and the name of the chain, or None, that `file:chain` stands for.

    Both may hold colons: the file is the longest beginning that exists.
    """
    text = str(place)
    if Path(text).is_file():
        return text, None
    colons = [k for k, letter in enumerate(text) if letter == ":"]
    for k in reversed(colons):
        if Path(text[:k]).is_file():
            return text[:k], text[k + 1 :]
    return (text, None) if not colons else (text[: colons[-1]], text[colons[-1] + 1 :])


def read_bytes(path):
    """What a file holds, decompressed.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it has another ending, or cannot be decompressed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Expected an existing file. Received: {path}")
    if not is_protein_file(path):
        endings = (*SUFFIXES, *COMPRESSED)
        raise ValueError(f"Expected a file ending in one of {endings}. Received: {path}")
    data = path.read_bytes()
    codec = COMPRESSED.get(path.suffix.lower())
    if codec is None:
        return data
    try:
        return codec.decompress(data)
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        told = shortened(error)
        raise ValueError(f"Expected a readable file. Received: {path}: {told}") from error


def read_atoms(data, path, model=1, names="author"):
    """Every atom of one model of a structure: an `AtomArray` by the name of its data block."""
    suffix = suffix_of(Path(path))
    try:
        if suffix in PDB:
            return {"": pdb_atoms(data, model)}
        found = cif_atoms(data, model, suffix in BINARY, names)
        if len(found) == 1:
            return {"": found[0][1]}
        blocks: dict[str, Any] = {}
        for name, atoms in found:
            blocks[_new_name(name, blocks)] = atoms
        return blocks
    except Unfit:
        raise
    except Exception as error:
        # biotite raises whatever a broken line leads to.
        told = shortened(repr(error))  # it may hold the file
        raise ValueError(f"Expected a readable file. Received: {path}: {told}") from error


def _fasta(data, path, left_out):
    """Chains by name."""
    records: list[tuple[str, list[str]]] = []
    for line in data.decode("utf-8-sig", errors="replace").splitlines():
        if line.startswith(">"):
            records.append(((line[1:].split() or [""])[0], []))
        elif line.startswith(";"):  # a comment
            continue
        elif records:
            records[-1][1].append(line)
        elif line.strip():
            raise Unfit("Expected a header that begins with > before the first sequence")
    found: dict[str, Chain] = {}
    for number, (header, lines) in enumerate(records, 1):
        name = header or (path.stem if len(records) == 1 else f"{path.stem}_{number}")
        letters = "".join("".join(lines).split()).rstrip("*")
        odd = sorted({letter for letter in letters if not (letter.isascii() and letter.isalpha())})
        if odd:
            left_out(f"Expected letters of amino acids in {name}, not {odd[:10]}")
        elif not letters:
            left_out(f"Expected a sequence under the header {name}")
        else:
            name = _new_name(name, found)
            found[name] = Chain(name, letters.upper())
    if records and not found:
        raise Unfit("Expected at least one sequence")
    return found


def _new_name(name, known):
    """The name, with a number from 2 if it is known."""
    names = itertools.chain([name], (f"{name}_{k}" for k in itertools.count(2)))
    return next(n for n in names if n not in known)


def _structure(blocks, path):
    """Chains by name."""
    from biotite import structure

    suffix = Path(_uncompressed_name(path)).suffix
    stem = _uncompressed_name(path).removesuffix(suffix)
    found: dict[str, Chain] = {}
    for block, atoms in blocks.items():
        for name in dict.fromkeys(atoms.chain_id.tolist()):
            called = _new_name(f"{block}.{name}" if block else name, found)
            chain = _chain(atoms[atoms.chain_id == name], f"{stem}:{called}", structure)
            if chain is not None:
                found[called] = chain
    return found


def _is_complex(names, known):
    return len(set(names)) == len(names) and set(names) <= set(known)


def _joined(chains, path, name):
    """One chain of several, and what its letters are."""
    from biotite import structure

    stem = chains[0].name.partition(":")[0]
    bare = any(chain.backbone is None for chain in chains)
    parts = zip(name.split(JOIN), chains, strict=True)
    joined = Chain(
        name if bare else f"{stem}:{name}",
        "".join(chain.sequence for chain in chains),
        None if bare else np.concatenate([chain.backbone for chain in chains]),
        None if bare else tuple(f"{part}:{k}" for part, chain in parts for k in chain.residue_ids),
        None if bare else structure.concatenate([chain.atoms for chain in chains]),
    )
    if not bare:
        # Structural letters look at neighbours along the chain, which end with it.
        letters = "".join(chain.structural_letters for chain in chains)
        joined.__dict__["structural_letters"] = letters
    return joined


def _letter(residue):
    """The letter of a residue, `X` if nobody knows it."""
    from biotite.structure import info

    name = str(residue.res_name[0]).upper()
    if name == "HSE" and HOMOSERINE_ATOM in residue.atom_name:
        return "S"
    if name in SIMULATED:
        return SIMULATED[name]
    letter = info.one_letter_code(name)
    if letter is None and len(name) == 4 and name[0] in "NC":
        # Ends of chains, as AMBER calls them.
        letter = SIMULATED.get(name[1:]) or info.one_letter_code(name[1:])
    if letter is None and len(name) == 4:
        letter = SIMULATED.get(name[:3]) or info.one_letter_code(name[:3])
    return letter if letter is not None and len(letter) == 1 else "X"


def _chain(atoms, name, structure):
    # By number alone: two amino acids may share a place.
    new = (np.diff(atoms.res_id) != 0) | (atoms.ins_code[1:] != atoms.ins_code[:-1])
    starts = [0, *(np.flatnonzero(new) + 1).tolist(), len(atoms)]
    kept, backbone, letters = [], [], []
    ids: dict[str, None] = {}  # in order
    for start, end in itertools.pairwise(starts):
        residue = _best_locations(atoms[start:end])
        names = residue.atom_name.tolist()
        label = f"{residue.res_id[0]}{residue.ins_code[0]}".strip()
        if not _is_residue(residue, names):
            continue
        if label in ids or len(set(names)) < len(names):
            twice = f"{residue.res_name[0]} {label} of {name}"
            raise Unfit(f"Expected every residue once, not {twice} twice")
        places = {atom: k for k, atom in enumerate(names)}
        rows = [residue.coord[places[a]] if a in places else [np.nan] * 3 for a in BACKBONE]
        if not np.isfinite(rows[BACKBONE.index("CA")]).all():
            continue
        backbone.append(rows)
        kept.append(residue)
        letters.append(_letter(residue))
        ids[label] = None
    if not kept:
        return None
    return Chain(
        name,
        "".join(letters),
        np.asarray(backbone, "float64"),
        tuple(ids),
        structure.concatenate(kept),
    )


def _is_residue(residue, names):
    """Whether atoms are those of an amino acid: a CA that is no calcium, in a peptide backbone.

    A chain of CA atoms alone is one, too, unless they are marked as ligands.
    """
    if "CA" not in names:
        return False
    element = residue.element[names.index("CA")].upper()
    peptide = {"N", "C"} <= set(names)
    calcium = residue.res_name[0] in ("CA", "CAL") or element not in ("C", "")
    return peptide or not (calcium or residue.hetero[0])


def _best_locations(residue):
    """The atoms of a residue, of each only the first location of the highest occupancy sum."""
    locations = residue.altloc_id
    marked = sorted({x for x in locations.tolist() if x.strip(". ?")})
    if not marked:
        return residue
    sums = {x: residue.occupancy[locations == x].sum() for x in marked}
    best = max(marked, key=lambda x: sums[x])
    residue = residue[~np.isin(locations, [x for x in marked if x != best])]
    carbons = residue.res_name[residue.atom_name == "CA"]
    # Two residues may share a place (microheterogeneity); only one has the best location.
    residue = residue[residue.res_name == carbons[0]] if len(carbons) else residue
    return residue[_once(residue, best)]


def _once(residue, best):
    """Which atoms stay: one that is there with and without a mark, where it is likelier."""
    stays = np.ones(len(residue), bool)
    names, is_best = residue.atom_name, residue.altloc_id == best
    for k in np.flatnonzero(is_best):
        for other in np.flatnonzero((names == names[k]) & ~is_best):
            stays[k if residue.occupancy[other] >= residue.occupancy[k] else other] = False
    return stays
