"""Refined alignments: at least the TM-score of what was given, and near TM-align's."""

import dataclasses
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_struct import ops, protein
from keras_struct.protein.superposed import best_pairs

tmtools = pytest.importorskip("tmtools")
GLOBINS = Path(tmtools.__file__).parent / "data" / "2gtl.cif"


@pytest.fixture(scope="module")
def pairs():
    chains = protein.read_chains(GLOBINS, ["A", "B", "C", "N"])
    return [(chains[0], chains[1]), (chains[2], chains[0]), (chains[1], chains[3])]


def shifted(pair, by):
    first, second = pair
    n = min(len(first), len(second)) - abs(by)
    start = np.array([max(by, 0), max(-by, 0)])
    return protein.Alignment(first, second, start + np.arange(n)[:, None])


def score(alignment):
    shorter = min(len(alignment.first), len(alignment.second))
    return protein.tm_score(alignment.first, alignment.second, alignment.pairs, shorter)


def test_from_a_rough_start_to_what_tm_align_finds(pairs):
    rough = [shifted(pair, by=1) for pair in pairs[:2]]
    for old, new in zip(rough, protein.refine(rough, steps=8), strict=True):
        first, second = old.first, old.second
        found = tmtools.tm_align(first.ca, second.ca, first.sequence, second.sequence)
        best = max(found.tm_norm_chain1, found.tm_norm_chain2)
        assert score(old) < 0.9 * best < score(new)
        reference = protein.Alignment.from_rows(first, second, (found.seqxA, found.seqyA))
        assert protein.pair_scores(new.pairs, reference.pairs)["f1"] > 0.95


def test_together_as_alone_and_never_worse(pairs):
    given = [shifted(pair, by=k) for k, pair in enumerate(pairs)]
    together = protein.refine(given)
    for old, new in zip(given, together, strict=True):
        np.testing.assert_array_equal(protein.refine([old])[0].pairs, new.pairs)
    for old, new in zip(given[:2], together, strict=False):
        assert score(new) > score(old)


def test_a_chain_is_found_in_itself(pairs):
    chain = pairs[0][0]
    turned = dataclasses.replace(chain, backbone=chain.backbone[:, :, [1, 2, 0]] + [5.0, 0, -9])
    rough = protein.Alignment(chain, turned, np.stack([np.arange(40), np.arange(40) + 1], axis=1))
    (found,) = protein.refine([rough])
    np.testing.assert_array_equal(found.pairs, np.arange(len(chain))[:, None].repeat(2, 1))


def test_far_pairs_are_dropped_and_few_are_kept_as_they_are(pairs):
    first, second = pairs[0]
    (found,) = protein.refine([shifted(pairs[0], by=0)])
    rotation, shift = protein.superposition(first, second, found.pairs)
    moved = second.ca @ rotation.T + shift
    distance = np.linalg.norm(first.ca[found.pairs[:, 0]] - moved[found.pairs[:, 1]], axis=1)
    assert distance.max() < 1.5 * min(len(first), len(second)) ** 0.3 + 3.5 + 0.5
    few = protein.Alignment(first, second, np.array([[3, 4], [9, 9]]))
    assert protein.refine([few])[0] is few and protein.refine([]) == []


def test_the_aligner_refines_and_keeps_the_map(pairs):
    aligner = protein.ProteinAligner.from_preset("structure")
    (plain,), (refined,) = (aligner.align(pairs[:1], maps=True, refine=n) for n in (0, 3))
    assert score(refined) > score(plain) and refined.score == plain.score
    np.testing.assert_array_equal(
        refined.probabilities, np.asarray(plain.map)[tuple(refined.pairs.T)].astype("float64")
    )


@pytest.mark.parametrize("gap", [-0.6, -0.1, 0.0])
def test_the_alignment_of_superposed_chains_is_the_best(gap):
    rng = np.random.default_rng(0)
    for n, m in [(7, 9), (12, 5), (20, 21)]:
        first, second = (rng.normal(0, 2, (size, 3)).cumsum(axis=0) for size in (n, m))
        found = best_pairs(first, second, 3.0, gap)
        assert (np.diff(found, axis=0) >= 1).all()
        near = 1 / (1 + ((first[:, None] - second[None]) ** 2).sum(axis=2) / 9.0)
        skipped = np.diff(found, axis=0) > 1
        total = near[tuple(found.T)].sum() + gap * skipped.sum()
        best = ops.smith_waterman(near[None].astype("float32"), gap, 0.0, temperature=0).value()
        np.testing.assert_allclose(keras.ops.convert_to_numpy(best), [total], rtol=1e-5)


def test_user_errors(pairs):
    with pytest.raises(ValueError, match="steps=0"):
        protein.refine([], steps=0)
    bare = protein.Chain("x", "MKV")
    with pytest.raises(ValueError, match="x, a bare sequence"):
        protein.refine([protein.Alignment(bare, bare, np.array([[0, 0]]))])
