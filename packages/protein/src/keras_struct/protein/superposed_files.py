"""Superposed structures in files: two chains, or all that a file holds."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from keras_struct.layers.annotations import StrPath
from keras_struct.layers.whole_files import is_stream, open_whole
from keras_struct.protein.alignment import Alignment
from keras_struct.protein.atom_tables import Unfit
from keras_struct.protein.structure_files import (
    CIF,
    COMPRESSED,
    PDB,
    read_atoms,
    read_bytes,
    suffix_of,
)

# What the columns of a PDB file hold.
LEAST_PLACE, MOST_PLACE = -999.9994, 9999.9994  # angstrom
LEAST_NUMBER, MOST_NUMBER, MOST_ATOMS = -999, 9999, 99_999


def write_superposed(alignment: Alignment, path: StrPath) -> Any:
    """Write both chains of an alignment, the second moved onto the first.

    Args:
        alignment: `Alignment` of chains that were read from structures.
        path: File to write, whole or not at all: chain A is the first, chain B the second. mmCIF or
            PDB, by its ending, also with `.gz`, `.bz2` or `.xz`; PDB for a stream. Where PDB cannot
            hold them, mmCIF beside it.

    Returns:
        The path of what was written: that of the argument, or with `.cif` for its ending.

    Raises:
        ValueError: If a chain has no atoms, fewer than three pairs are aligned, or the file has
            another ending.
    """
    from biotite import structure

    for chain in (alignment.first, alignment.second):
        if chain.atoms is None:
            raise ValueError(f"Expected a chain from a structure. Received: {chain.name}")
    fixed, moved = alignment.first.atoms.copy(), _moved(alignment, alignment.second.atoms)
    fixed.chain_id, moved.chain_id = (np.full(len(x), n) for x, n in ((fixed, "A"), (moved, "B")))
    return _write(structure.concatenate([fixed, moved]), path)


def write_transformed(alignment: Alignment, source: StrPath, path: StrPath, model: int = 1) -> Any:
    """Write all that a file holds of one model, moved as the second chain is onto the first.

    Args:
        alignment: `Alignment` of chains with coordinates.
        source: Structure file of the second chain; of several data blocks the first.
        path: File to write, see `write_superposed`: every chain, ligand and water.
        model: Which model, from 1.

    Returns:
        The path of what was written.

    Raises:
        ValueError: If fewer than three pairs are aligned, or the file cannot be read.
    """
    try:
        atoms = next(iter(read_atoms(read_bytes(source), Path(source), model).values()))
    except Unfit as error:
        raise ValueError(f"{error}. Received: {source}") from None
    return _write(_moved(alignment, atoms), path)


def _moved(alignment, atoms):
    rotation, translation = alignment.transformation()
    moved = atoms.copy()
    # In double precision: far from the origin, half of the digits are the distance.
    moved.coord = (moved.coord.astype("float64") @ rotation.T + translation).astype("float32")
    return moved


def _write(atoms, path):
    from biotite.structure.io import pdb, pdbx

    check_structure_output(path)
    path, text = Path(path), io.StringIO()
    if suffix_of(path) in CIF or not _fits_pdb(atoms):
        if suffix_of(path) in PDB:
            packed = path.suffix if path.suffix.lower() in COMPRESSED else ""
            name = path.name.removesuffix(packed)
            path = path.with_name(f"{Path(name).stem}.cif{packed}")
        cif = pdbx.CIFFile()
        pdbx.set_structure(cif, atoms, data_block="superposed")
        cif.write(text)
    else:
        file = pdb.PDBFile()
        file.set_structure(atoms)
        file.write(text)
    codec = COMPRESSED.get(path.suffix.lower())
    data = text.getvalue().encode()
    with open_whole(path, "wb") as stream:
        stream.write(data if codec is None else codec.compress(data))
    return path


def check_structure_output(path):
    """Raise a `ValueError` unless a path ends as a file that can be written, or is a stream."""
    if suffix_of(path) not in (*PDB, *CIF) and not is_stream(path):
        raise ValueError(f"Expected a file ending in .pdb or .cif. Received: {path}")


def _fits_pdb(atoms):
    """Whether every number and name of atoms has place in the columns of a PDB file."""
    places, numbers = atoms.coord[np.isfinite(atoms.coord)], atoms.res_id
    return (
        len(atoms) <= MOST_ATOMS
        and (places > LEAST_PLACE).all()
        and (places < MOST_PLACE).all()
        and (numbers >= LEAST_NUMBER).all()
        and (numbers <= MOST_NUMBER).all()
        and max(map(len, atoms.res_name.tolist())) <= 3
        and max(map(len, atoms.atom_name.tolist())) <= 4
        and max(map(len, atoms.chain_id.tolist())) <= 1
    )
