"""Atoms of one model from PDB, mmCIF and BinaryCIF files as they come, through biotite.

Programs leave out columns that the standards ask for; what is missing has its plain meaning here:
one model, no insertion codes, full occupancy, elements by the names of atoms.
"""

import io
import warnings

import numpy as np

LEAST_PDB_LINE = 54  # letters: up to the z coordinate
TEXT_WIDTH = 80
OCCUPANCY, TEMPERATURE = slice(54, 60), slice(60, 66)
COLUMNS = {"chain_id": "asym", "res_id": "seq", "res_name": "comp", "atom_name": "atom"}
NAMES = ("author", "label")  # who calls the chains of mmCIF files


class Unfit(Exception):
    """What a file lacks, to be told with its name."""


def pdb_atoms(data, model):
    """The atoms of one model, from 1, of the bytes of a PDB file."""
    from biotite.structure.io import pdb

    text = "\n".join(map(_whole_line, enumerate(_lines(data), 1)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one for each file whose elements are guessed
        file = pdb.PDBFile.read(io.StringIO(text))
        _check_model(model, file.get_model_count())
        return file.get_structure(model=model, altloc="all", extra_fields=["occupancy"])


def _lines(data):
    return data.decode("utf-8", errors="replace").splitlines()


def _whole_line(numbered):
    """A line with all columns of an atom, if it is one."""
    number, line = numbered
    if not line.startswith(("ATOM", "HETATM")):
        return line
    if len(line.rstrip()) < LEAST_PDB_LINE - 3:  # a last coordinate of few letters
        raise Unfit(f"Expected coordinates in line {number}")
    line = line.ljust(TEXT_WIDTH)
    for place, default in ((OCCUPANCY, "  1.00"), (TEMPERATURE, "  0.00")):
        if not _is_number(line[place]):
            line = line[: place.start] + default + line[place.stop :]
    return line


def _is_number(text):
    try:
        return np.isfinite(float(text))
    except ValueError:
        return False


def _check_model(model, count):
    if count == 0:
        raise Unfit("Expected a readable file with atoms")
    if not 1 <= model <= count:
        raise Unfit(f"Expected a model from 1 to {count}, not model={model}")


def cif_atoms(data, model, binary, names="author"):
    """For each data block with atoms its name and the atoms of one model.

    Args:
        data: Bytes of an mmCIF or BinaryCIF file.
        model: Which model, from 1.
        binary: Whether it is BinaryCIF.
        names: `"author"` or `"label"`: whose names of chains are read.
    """
    from biotite.structure.io import pdbx

    if binary:
        file = pdbx.BinaryCIFFile.read(io.BytesIO(data))
    else:
        file = pdbx.CIFFile.read(io.StringIO("\n".join(_lines(data)) + "\n"))
    tables = [(name, block.get("atom_site")) for name, block in file.items()]
    found = [(name, table) for name, table in tables if table is not None and "Cartn_x" in table]
    if not found:
        raise Unfit("Expected a readable file with atoms, in a category atom_site")
    return [(name, _table_atoms(table, model, names)) for name, table in found]


def _table_atoms(table, model, names):
    from biotite import structure

    size = table.row_count

    def column(name, default, dtype=str):
        if name not in table:
            return np.full(size, default)
        return table[name].as_array(dtype, default)

    prefixes = ("auth", "label") if names == "author" else ("label", "auth")
    numbers = column("pdbx_PDB_model_num", "1")
    models = list(dict.fromkeys(numbers.tolist()))
    _check_model(model, len(models))
    chosen = numbers == models[model - 1]
    atoms = structure.AtomArray(int(chosen.sum()))
    for axis, name in enumerate("xyz"):
        atoms.coord[:, axis] = column(f"Cartn_{name}", np.nan, np.float32)[chosen]
    for annotation, kind in COLUMNS.items():
        # Residues are numbered by their authors, who number ligands, too.
        order = ("auth", "label") if kind == "seq" else prefixes
        present = [f"{prefix}_{kind}_id" for prefix in order if f"{prefix}_{kind}_id" in table]
        if not present:
            raise Unfit(f"Expected a column {order[0]}_{kind}_id or {order[1]}_{kind}_id")
        values = column(present[0], -1, int) if kind == "seq" else column(present[0], "")
        atoms.set_annotation(annotation, values[chosen])
    atoms.set_annotation("ins_code", column("pdbx_PDB_ins_code", "")[chosen])
    atoms.set_annotation("hetero", column("group_PDB", "ATOM")[chosen] == "HETATM")
    atoms.set_annotation("altloc_id", column("label_alt_id", "")[chosen])
    atoms.set_annotation("occupancy", column("occupancy", 1.0, float)[chosen])
    elements = column("type_symbol", "")[chosen]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        guessed = structure.infer_elements(atoms.atom_name)
    atoms.set_annotation("element", np.where(elements == "", guessed, elements))
    return atoms
