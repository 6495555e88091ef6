"""Panels answer with what the library says, and refuse in a sentence."""

import base64

import keras
import numpy as np
import pytest

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="the page is the same on every backend"
)
if keras.backend.backend() == "torch":
    from keras_struct.demo import panels


def helix(residues=24, shift=0.0):
    """A structure file of an alpha helix, as the browser sends it."""
    lines, number = [], 0
    for k in range(residues):
        for name, ahead, radius in (("N", -0.5, 1.55), ("CA", 0.0, 2.29), ("C", 0.5, 1.68)):
            angle, number = np.radians(100 * (k + ahead / 2)), number + 1
            x, y = radius * np.cos(angle) + shift, radius * np.sin(angle)
            z = 1.5 * k + ahead
            lines.append(
                f"ATOM  {number:5d} {name:^4s} {'ALA' if k % 3 else 'LEU'} A{k + 1:4d}    "
                f"{x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00           {name[0]:>2s}"
            )
    text = "\n".join([*lines, "END", ""])
    return {"name": "helix.pdb", "base64": base64.b64encode(text.encode()).decode()}


def test_sequences():
    found = panels.sequences("GATTACA", "GATCACCA", temperature=0)
    assert found["value"] == 2 * 6 - 1 - 3
    assert found["best"][0].replace("-", "") == "GATTACA"
    assert found["best"][1].replace("-", "") == "GATCACCA"
    assert found["path"][0] == [0, 0] and found["path"][-1] == [7, 8]
    warm = panels.sequences("GATTACA", "GATCACCA", temperature=4, structure="smith_waterman")
    assert np.shape(warm["map"]) == (7, 8) and 0 < np.max(warm["map"]) < 1
    assert len(warm["samples"]) == panels.SAMPLES


def test_spaces():
    cold = panels.spaces("The items are left", temperature=0)
    assert cold["best"] == "The items are left" and cold["entropy"] == 0
    assert set(cold["ends"]) == {0, 1} and np.flatnonzero(cold["ends"]).tolist() == [2, 7, 10, 14]
    warm = panels.spaces("theitemsareleft", temperature=16)
    assert warm["entropy"] > 1 and 0 < warm["ends"][7] < 1
    assert all("".join(x.split()) == "theitemsareleft" for x in warm["samples"])


def test_trees_at_two_temperatures():
    cold = panels.trees("We saw it.", temperature=0)
    warm = panels.trees("We saw it. It rains.", temperature=16)
    assert cold["constituency_entropy"] == cold["dependency_entropy"] == 0
    assert warm["dependency_entropy"] > 1 and warm["left_out"] == 1
    assert all("1.00" in cold[kind] for kind in ("constituency", "dependency"))
    assert "saw" in warm["dependency"] and warm["constituency"].startswith("<svg")


def test_structures():
    found = panels.structures(helix(), helix(shift=30.0), refine=False)
    assert found["names"] == ["helix:A", "helix:A"]
    assert found["measures"]["tm_score_first"] == 1 and found["measures"]["rmsd"] < 0.01
    assert np.allclose(found["first"], found["second"], atol=0.01)
    with pytest.raises(ValueError, match="chain"):
        panels.structures(helix(), helix(), second_chain="Q")


@pytest.mark.parametrize(
    ("panel", "arguments", "sentence"),
    [
        ("trees", {"sentence": " "}, "some text"),
        ("trees", {"sentence": "a " * 61}, "at most 60 words"),
        ("trees", {"sentence": "It rains.", "temperature": 17}, "from 0 to 16"),
        ("trees", {"sentence": "It rains.", "temperature": ""}, "from 0 to 16"),
        ("sequences", {"first": "A", "second": "B" * 61}, "at most 60 letters"),
        ("sequences", {"first": "A", "second": "B", "gap_open": 1}, "from -20 to 0"),
        ("sequences", {"first": "A", "second": "B", "structure": "dtw"}, "one of"),
        ("structures", {"first": None, "second": None}, "a structure file"),
        ("structures", {"first": {"base64": "!"}, "second": None}, "base64"),
        ("structures", {"first": {"name": "a.pdb", "base64": "aGE="}, "second": None}, "a.pdb"),
        ("spaces", {"text_without": "\t"}, "some text"),
    ],
)
def test_what_cannot_be_read_is_told_in_a_sentence(panel, arguments, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        getattr(panels, panel)(**arguments)
    assert "/tmp" not in str(error.value)
