"""Atoms of one model from PDB, mmCIF and BinaryCIF files as they come, through biotite.

Programs leave out columns that the standards ask for; what is missing has its plain meaning here:
one model, no insertion codes, full occupancy, elements by the names of atoms.
"""

import io
import re
import warnings

import numpy as np

LEAST_PDB_LINE = 54  # letters: up to the z coordinate
TEXT_WIDTH = 80
ATOMS = ("ATOM", "HETATM")
MODEL, END_OF_MODEL = "MODEL", "ENDMDL"
RESIDUE = slice(17, 21)
OCCUPANCY, TEMPERATURE = slice(54, 60), slice(60, 66)
COLUMNS = {"chain_id": "asym", "res_id": "seq", "res_name": "comp", "atom_name": "atom"}
NO_NUMBER = -1
UNCERTAINTY = re.compile(r"\(\d+\)$")  # in the last digits: 4.8(3)
X_TAG = "_atom_site.cartn_x"
NAMES = ("author", "label")  # who calls the chains of mmCIF files


class Unfit(Exception):
    """What a file lacks, to be told with its name."""


def pdb_atoms(data, model):
    """The atoms of one model, from 1, of the bytes of a PDB file."""
    from biotite.structure.io import pdb

    text = "\n".join(_lines_of_models(_lines(data)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one for each file whose elements are guessed
        file = pdb.PDBFile.read(io.StringIO(text))
        _check_model(model, file.get_model_count())
        atoms = file.get_structure(model=model, altloc="all", extra_fields=["occupancy"])
    names = _residue_names(text, model)
    if len(names) == len(atoms) and max(map(len, names)) > 3:
        atoms.set_annotation("res_name", np.array(names))
    return atoms


def _residue_names(text, model):
    """Those of a model, with the fourth letter that simulation packages write beside the three."""
    number, names = 0, []
    for line in text.split("\n"):
        if line.startswith(MODEL):
            number += 1
        elif line.startswith(ATOMS) and number == model:
            names.append(line[RESIDUE].strip())
    return names


def _lines(data):
    return data.decode("utf-8-sig", errors="replace").splitlines()


def _lines_of_models(lines):
    """Lines with all columns of atoms, and a MODEL before those that ENDMDL alone sets apart."""
    within = unnamed = False
    for number, line in enumerate(lines, 1):
        if line.startswith(ATOMS):
            if not within:
                yield MODEL
                within = unnamed = True
            yield _whole_line(number, line)
            continue
        if line.startswith(MODEL):
            if unnamed:
                raise Unfit(f"Expected {END_OF_MODEL} before {MODEL} in line {number}")
            within = True
        elif line.startswith(END_OF_MODEL):
            within = unnamed = False
        yield line


def _whole_line(number, line):
    """The line of an atom with all columns."""
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

    biotite would keep the last of several blocks, or tables of atoms, of one name.

    Args:
        data: Bytes of an mmCIF or BinaryCIF file.
        model: Which model, from 1.
        binary: Whether it is BinaryCIF.
        names: `"author"` or `"label"`: whose names of chains are read.
    """
    blocks = _binary_blocks(data) if binary else _text_blocks(_lines(data))
    tables = [(name, _by_small_name(block).get("atom_site")) for name, block in blocks]
    found = [(name, _by_small_name(table)) for name, table in tables if table is not None]
    found = [(name, columns) for name, columns in found if "cartn_x" in columns]
    if not found:
        raise Unfit("Expected a readable file with atoms, in a category atom_site")
    return [(name, _table_atoms(columns, model, names)) for name, columns in found]


def _binary_blocks(data):
    """Name and block of each data block of a BinaryCIF file."""
    import msgpack
    from biotite.structure.io import pdbx

    blocks = msgpack.unpackb(data, use_list=True, raw=False)["dataBlocks"]
    for block in blocks:
        tables = [category["name"].lower() for category in block["categories"]]
        if tables.count("_atom_site") > 1:
            raise Unfit(f"Expected one table of atoms in the data block {block['header']}")
    return [(block["header"], pdbx.BinaryCIFBlock.deserialize(block)) for block in blocks]


def _text_blocks(lines):
    """Name and block of each data block of an mmCIF file."""
    from biotite.structure.io import pdbx

    blocks: list[tuple[str, list[str]]] = []
    text_from = table_from = 0  # the lines, from 1, where a text and a table of atoms begin
    for number, line in enumerate(lines, 1):
        start = line[:5].lower()
        if line.startswith(";"):  # begins a text, and ends it
            text_from = 0 if text_from else number
        elif text_from:
            line = f" {line}"  # for biotite, which would take it for a block or table of its own
        elif start == "data_":
            blocks.append((line[5:].strip(), []))
            table_from = 0
        elif start == X_TAG[:5] and line.split()[0].lower() == X_TAG:
            if table_from:
                where = f"lines {table_from} and {number}"
                raise Unfit(f"Expected one table of atoms in a data block, not those of {where}")
            table_from = number
        if blocks:
            blocks[-1][1].append(line)
    if text_from:
        raise Unfit(f"Expected an end of the text that begins in line {text_from}")
    return [(name, pdbx.CIFBlock.deserialize("\n".join(part) + "\n")) for name, part in blocks]


def _by_small_name(parts):
    """Categories of a block or columns of a category; CIF names them in any case."""
    return {name.lower(): parts[name] for name in parts}


def _table_atoms(columns, model, names):
    from biotite import structure

    size = len(columns["cartn_x"].as_array(str))

    def column(name, default, dtype=str):
        if name.lower() not in columns:
            return np.full(size, default)
        values = columns[name.lower()]
        try:
            return values.as_array(dtype, default)
        except ValueError:  # perhaps numbers with their standard uncertainties
            texts = values.as_array(str, str(default)).tolist()
            return np.array([UNCERTAINTY.sub("", text) for text in texts]).astype(dtype)

    prefixes = ("auth", "label") if names == "author" else ("label", "auth")
    numbers = column("pdbx_PDB_model_num", "1")
    models = list(dict.fromkeys(numbers.tolist()))
    _check_model(model, len(models))
    chosen = numbers == models[model - 1]
    atoms = structure.AtomArray(int(chosen.sum()))
    with np.errstate(over="ignore"):  # a place that no number holds is none
        for axis, name in enumerate("xyz"):
            atoms.coord[:, axis] = column(f"Cartn_{name}", np.nan, np.float32)[chosen]
    for annotation, kind in COLUMNS.items():
        # Residues are numbered by their authors, who number ligands, too.
        order = ("auth", "label") if kind == "seq" else prefixes
        present = [name for prefix in order if (name := f"{prefix}_{kind}_id") in columns]
        if not present:
            raise Unfit(f"Expected a column {order[0]}_{kind}_id or {order[1]}_{kind}_id")
        first, *other = (column(name, "") for name in present)
        # Where one calls an atom nothing, the other may have a name for it.
        values = np.where(first == "", other[0], first) if other else first
        if kind == "seq":
            values = np.where(values == "", str(NO_NUMBER), values).astype(int)
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
