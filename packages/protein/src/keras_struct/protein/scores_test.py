"""TM-score, RMSD and lDDT against TM-align and by their definitions."""

from pathlib import Path

import numpy as np
import pytest

from keras_struct import protein

tmtools = pytest.importorskip("tmtools")
GLOBINS = Path(tmtools.__file__).parent / "data" / "2gtl.cif"


@pytest.fixture(scope="module")
def chains():
    return protein.read_chains(GLOBINS, ["A", "B", "C", "N"])


@pytest.mark.parametrize("other", [1, 2, 3])
def test_tm_score_is_that_of_tm_align(chains, other):
    first, second = chains[0], chains[other]
    found = tmtools.tm_align(first.ca, second.ca, first.sequence, second.sequence)
    pairs = protein.Alignment.from_rows(first, second, (found.seqxA, found.seqyA)).pairs
    assert abs(protein.tm_score(first, second, pairs) - found.tm_norm_chain1) < 2e-3
    by_second = protein.tm_score(first, second, pairs, len(second))
    assert abs(by_second - found.tm_norm_chain2) < 2e-3
    # Of TM-align, the RMSD is that of the pairs of the printed alignment.
    assert abs(protein.rmsd(first, second, pairs) - found.rmsd) < 1e-3


def test_scores_do_not_see_where_a_chain_lies(chains):
    first = chains[0]
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    rotation *= np.sign(np.linalg.det(rotation))
    moved = first.ca @ rotation.T + [10.0, -20.0, 30.0]
    pairs = np.stack([np.arange(len(first))] * 2, 1)
    assert protein.tm_score(first, moved, pairs) > 1 - 1e-6
    assert protein.rmsd(first, moved, pairs) < 1e-3
    assert protein.lddt(first, moved, pairs) == 1
    found, shift = protein.superposition(first, moved, pairs)
    np.testing.assert_allclose(moved @ found.T + shift, first.ca, atol=1e-4)


def test_lddt_by_its_definition(chains):
    first, second = chains[0].ca[:40], chains[1].ca[:40]
    pairs = np.stack([np.arange(30), np.arange(30) + 3], 1)
    x, y = first[pairs[:, 0]], second[pairs[:, 1]]
    d, e = (np.linalg.norm(z[:, None] - z[None], axis=-1) for z in (x, y))
    near = (d < 15) & ~np.eye(30, dtype=bool)
    kept = np.mean([np.abs(d - e) < limit for limit in (0.5, 1, 2, 4)], axis=0)
    expected = ((kept * near).sum(1) / near.sum(1)).mean()
    assert abs(protein.lddt(first, second, pairs) - expected) < 1e-6


def test_few_pairs(chains):
    first, second = chains[:2]
    none = np.zeros((0, 2), int)
    assert protein.tm_score(first, second, none) == protein.lddt(first, second, none) == 0
    assert protein.pair_scores(none, none) == {"precision": 0.0, "recall": 0.0, "f1": 0.0}
    measures = protein.Alignment(first, second, np.array([[0, 0], [1, 2]])).measures()
    assert measures["rmsd"] is None and measures["aligned"] == 2


def test_bad_pairs_are_named(chains):
    first, second = chains[:2]
    for pairs, text in (
        ([[0, 0]], "at least 3 pairs. Received: 1"),
        ([[0, 0], [1, 1], [2, 999]], "indices below 147 and 145"),
        ([[0.5, 1], [1, 2], [2, 3]], "dtype=float64"),
        ([1, 2, 3], r"shape=\(3,\)"),
    ):
        with pytest.raises(ValueError, match=text):
            protein.rmsd(first, second, pairs)
    with pytest.raises(ValueError, match="increase"):
        protein.Alignment(first, second, np.array([[1, 1], [0, 2]]))
    with pytest.raises(ValueError, match="residues of 2gtl:A"):
        protein.Alignment.from_rows(first, second, ("AAA", "A-A"))


def test_rows_cigar_and_json_tell_the_same(chains):
    first, second = chains[:2]
    found = tmtools.tm_align(first.ca, second.ca, first.sequence, second.sequence)
    alignment = protein.Alignment.from_rows(first, second, (found.seqxA, found.seqyA))
    again = protein.Alignment.from_rows(first, second, alignment.rows())
    np.testing.assert_array_equal(again.pairs, alignment.pairs)
    moves = alignment.moves()
    assert moves.count("M") == len(alignment.pairs)
    assert moves.count("M") + moves.count("D") == len(first)
    assert moves.count("M") + moves.count("I") == len(second)
    assert alignment.as_json()["score"] is None
    assert alignment.as_fasta().splitlines()[::2] == [">2gtl:A", ">2gtl:B"]
