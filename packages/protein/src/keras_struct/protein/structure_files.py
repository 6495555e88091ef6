"""Chains from files of structures and sequences, and superposed structures into files."""

import gzip
import io
import itertools
from pathlib import Path

import numpy as np

from keras_struct.layers.whole_files import open_whole
from keras_struct.protein.chain import BACKBONE, Chain

PDB, CIF, BINARY, FASTA = (
    (".pdb", ".ent"),
    (".cif", ".mmcif"),
    (".bcif",),
    (".fasta", ".fa", ".faa"),
)
SUFFIXES = (*PDB, *CIF, *BINARY, *FASTA)


def is_protein_file(path):
    """Whether the name of a file ends as those that `read_chains` reads."""
    return _suffix(Path(path)) in SUFFIXES


def _suffix(path):
    return Path(path.name.removesuffix(".gz")).suffix.lower()


def read_chains(path, chains=None, model=1):
    """The protein chains of a file, in its order.

    Residues are those that are there, with a CA atom: what was not resolved is no residue. Of
    alternative locations the one of the highest occupancy is read; modified residues that belong to
    the chain, such as selenomethionine, get the letter of their parent and others `X`; water,
    ligands, ions and nucleic acids are left out.

    Args:
        path: PDB (`.pdb`, `.ent`), mmCIF (`.cif`, `.mmcif`), BinaryCIF (`.bcif`) or FASTA
            (`.fasta`, `.fa`, `.faa`), each also with `.gz`.
        chains: Names of the chains to read, as the authors call them; None for all.
        model: Which model of a structure, from 1.

    Returns:
        List of `Chain`, named `stem:chain`, of a FASTA file by the first word of the header.

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
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Expected an existing file. Received: {path}")
    suffix = _suffix(path)
    if suffix not in SUFFIXES:
        raise ValueError(f"Expected a file ending in one of {SUFFIXES}, or .gz. Received: {path}")
    read = _fasta if suffix in FASTA else _structure
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        found = read(data, path, suffix, model)
    except _Unfit as error:
        raise ValueError(f"{error}. Received: {path}") from None
    except Exception as error:
        # biotite raises whatever a broken line leads to.
        raise ValueError(f"Expected a readable file. Received: {path}: {error!r}") from error
    if not found:
        raise ValueError(f"Expected a file with a protein chain. Received: {path}")
    if chains is None:
        return found
    names = {chain.name.rpartition(":")[2]: chain for chain in found}
    missing = [name for name in chains if name not in names]
    if missing:
        raise ValueError(f"Expected chains among {list(names)} of {path}. Received: {missing}")
    return [names[name] for name in chains]


def read_chain(place):
    """The chain that `file` or `file:chain` names; of a file with several, the first.

    Args:
        place: Path, or a path, a colon and the name of a chain.

    Raises:
        FileNotFoundError, ValueError: As `read_chains`.
    """
    text = str(place)
    file, colon, name = text.rpartition(":")
    if colon and not Path(text).is_file():
        return read_chains(file, [name])[0]
    return read_chains(text)[0]


class _Unfit(Exception):
    """What a file lacks, to be told with its name."""


def _fasta(data, path, suffix, model):
    from biotite.sequence.io import fasta

    file = fasta.FastaFile.read(io.StringIO(data.decode("utf-8")))
    chains = []
    for header, text in file.items():
        name = (header.split() or [path.stem])[0]
        letters = text.upper().replace(" ", "").rstrip("*")
        odd = sorted({letter for letter in letters if not ("A" <= letter <= "Z")})
        if odd:
            raise _Unfit(f"Expected letters of amino acids in {name}, not {odd}")
        if not letters:
            raise _Unfit(f"Expected a sequence under the header {name}")
        chains.append(Chain(name, letters))
    return chains


def _atoms(data, suffix, model):
    from biotite.structure.io import pdb, pdbx

    if suffix in PDB:
        file = pdb.PDBFile.read(io.StringIO(data.decode("utf-8", errors="replace")))
        module = pdb
    else:
        binary = suffix in BINARY
        reader = pdbx.BinaryCIFFile if binary else pdbx.CIFFile
        file = reader.read(io.BytesIO(data) if binary else io.StringIO(data.decode("utf-8")))
        module = pdbx
    models = module.get_model_count(file)
    if not 1 <= model <= models:
        raise _Unfit(f"Expected a model from 1 to {models}, not model={model}")
    # Every location is read; _best_locations then chooses among those of a residue.
    return module.get_structure(file, model=model, altloc="all", extra_fields=["occupancy"])


def _structure(data, path, suffix, model):
    from biotite import structure

    atoms = _atoms(data, suffix, model)
    atoms = atoms[structure.filter_amino_acids(atoms) | np.isin(atoms.atom_name, BACKBONE)]
    stem = path.name.removesuffix(".gz")
    stem = stem[: len(stem) - len(_suffix(path))]
    chains = []
    for name in dict.fromkeys(atoms.chain_id.tolist()):
        chain = _chain(atoms[atoms.chain_id == name], f"{stem}:{name}", structure)
        if chain is not None:
            chains.append(chain)
    return chains


def _chain(atoms, name, structure):
    from biotite.structure import info

    # By number alone: two amino acids may share a place.
    new = (np.diff(atoms.res_id) != 0) | (atoms.ins_code[1:] != atoms.ins_code[:-1])
    starts = [0, *(np.flatnonzero(new) + 1).tolist(), len(atoms)]
    kept, backbone, letters = [], [], []
    ids: dict[str, None] = {}  # in order
    for start, end in itertools.pairwise(starts):
        residue = _best_locations(atoms[start:end])
        names = residue.atom_name.tolist()
        label = f"{residue.res_id[0]}{residue.ins_code[0]}".strip()
        # A residue of the chain has a peptide backbone; a lone CA is a trace, or calcium.
        carbon = "CA" in names and residue.element[names.index("CA")].upper() in ("C", "")
        if not carbon or (bool(residue.hetero[0]) and not {"N", "C"} <= set(names)):
            continue
        if label in ids or len(set(names)) < len(names):
            twice = f"{residue.res_name[0]} {label} of {name}"
            raise _Unfit(f"Expected every residue once, not {twice} twice")
        places = {atom: k for k, atom in reversed(list(enumerate(names)))}
        backbone.append(
            [residue.coord[places[a]] if a in places else [np.nan] * 3 for a in BACKBONE]
        )
        kept.append(residue)
        letters.append(info.one_letter_code(residue.res_name[0]) or "X")
        ids[label] = None
    if not kept:
        return None
    sequence = "".join(letter if len(letter) == 1 else "X" for letter in letters)
    return Chain(
        name,
        sequence,
        np.asarray(backbone, "float64"),
        tuple(ids),
        structure.concatenate(kept),
    )


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
    return residue[residue.res_name == carbons[0]] if len(carbons) else residue


def write_superposed(alignment, path):
    """Write both chains of an alignment as PDB, the second moved onto the first.

    Args:
        alignment: `Alignment` of chains that were read from structures.
        path: File to write, whole or not at all: chain A is the first, chain B the second.

    Raises:
        ValueError: If a chain has no atoms, or fewer than three pairs are aligned.
    """
    from biotite import structure
    from biotite.structure.io import pdb

    from keras_struct.protein.scores import superposition

    for chain in (alignment.first, alignment.second):
        if chain.atoms is None:
            raise ValueError(f"Expected a chain from a structure. Received: {chain.name}")
    rotation, translation = superposition(alignment.first, alignment.second, alignment.pairs)
    fixed, moved = alignment.first.atoms.copy(), alignment.second.atoms.copy()
    moved.coord = moved.coord @ rotation.T.astype("float32") + translation.astype("float32")
    fixed.chain_id[:], moved.chain_id[:] = "A", "B"
    file = pdb.PDBFile()
    file.set_structure(structure.concatenate([fixed, moved]))
    with open_whole(path) as stream:
        file.write(stream)
