"""The index on disk, its words and vectors, E-values, and a search of it."""

import json
import multiprocessing
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_struct import protein
from keras_struct.protein import command_line, index_search, kmers, structure_index
from keras_struct.protein.local_scores import LocalScores
from keras_struct.protein.null_scores import NullScores, shuffled
from keras_struct.runs.locks import lock

pytest.importorskip("pyarrow")
pytest.importorskip("usearch.index")
tmtools = pytest.importorskip("tmtools")
GLOBINS = Path(tmtools.__file__).parent / "data" / "2gtl.cif"
pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="an index is the same on every backend"
)


def test_scores_are_those_of_the_model(aligner):
    generator = np.random.default_rng(0)
    states = [generator.normal(0, 1.5, (n, 64)).astype("float32") for n in (40, 1, 25, 900)]
    ours = LocalScores(aligner)(states[0], states)
    for k, _, _, score in aligner.match([states[0]] * 4, states):
        assert ours[k] == pytest.approx(score, rel=1e-5)
    # Beyond the range of float64, unless it is scaled.
    steep = [1.3 * states[3][:300]] * 2
    ((_, _, _, score),) = aligner.match(steep[:1], steep[1:])
    assert score > 1000
    assert LocalScores(aligner)(steep[0], steep[1:])[0] == pytest.approx(score, rel=1e-5)
    with pytest.raises(ValueError, match="at most 80"):
        LocalScores(aligner)(20 * steep[0], steep[1:])
    encoder = protein.ResidueEncoder(("amino_acids",), dim=8, depth=0)
    for structure in ("sinkhorn", "overlap"):
        other = protein.ProteinAligner.create(encoder, structure=structure)
        with pytest.raises(ValueError, match="Expected a model of local alignments"):
            LocalScores(other)


def test_words_are_counted_on_their_best_diagonals():
    generator = np.random.default_rng(0)
    chains = [generator.integers(0, 20, n) for n in (50, 80, 3, 60)]
    query = np.concatenate([generator.integers(0, 20, 7), chains[1][20:60]])
    words = [kmers.words(x, 20, 4) for x in chains]
    residues = sum(map(len, chains))
    numbers, owners, places = kmers.inverted(words)
    query_words = kmers.words(query, 20, 4)
    found = kmers.shared(query_words, numbers, owners, places, len(chains), residues)
    assert found.argmax() == 1 and found[2] == 0
    # Each of the 37 words on the diagonal stands once; by chance others may lie on it.
    assert found[1] == pytest.approx(37 * np.log(residues), rel=0.05)
    slow = np.zeros(len(chains))
    for c, chain in enumerate(words):
        for shift in (0, kmers.BAND // 2):
            sums: dict = {}
            for i, word in enumerate(kmers.words(query, 20, 4)):
                weight = np.log(residues / max(1, sum((w == word).sum() for w in words)))
                for j in np.flatnonzero(chain == word):
                    band = (i - int(j) + shift) // kmers.BAND
                    sums[band] = sums.get(band, 0.0) + weight
            slow[c] = max([slow[c], *sums.values()])
    assert np.allclose(found, slow, rtol=1e-5)


def test_e_values_count_what_chance_gives():
    generator = np.random.default_rng(0)
    lengths = generator.integers(30, 900, 4000)
    scores = np.sqrt(lengths) * generator.gumbel(3.0, 0.7, 4000)
    null = NullScores.fitted(scores[:2000], lengths[:2000])
    assert (null.mode, null.width) == pytest.approx((3.0, 0.7), rel=0.05)
    for expected in (20, 200):
        values = null.e_values(scores[2000:], lengths[2000:], 2000)
        assert (values <= expected).sum() == pytest.approx(expected, rel=0.4)
    # A tenth of what is searched may be related.
    mixed = np.concatenate([scores[:1900], 10 * scores[1900:2000]])
    robust = NullScores.fitted(mixed, lengths[:2000], related=0.1)
    assert (robust.mode, robust.width) == pytest.approx((3.0, 0.7), rel=0.15)
    assert NullScores.fitted(mixed, lengths[:2000]).width > 1.0
    with pytest.raises(ValueError, match="at least 20 scores"):
        NullScores.fitted([1.0] * 30, [10] * 30)
    (order,) = shuffled(generator, np.arange(95), block=10)
    assert sorted(order) == list(range(95)) and (order != np.arange(95)).any()


def test_e_values_of_many_chains_are_those_of_chains_of_the_index(aligner, folder, monkeypatch):
    """By their own scores, whose highest tenth may be the family, and not by shuffled ones."""
    monkeypatch.setattr(index_search, "MANY", 25)
    monkeypatch.setattr(index_search, "SAMPLED", 25)
    search = protein.IndexSearch(aligner, protein.StructureIndex(folder))
    (query, *_) = protein.read_chains(GLOBINS, ["A"])
    (states,) = aligner.encode([query])
    null = search.null(states)
    monkeypatch.setattr(index_search, "MANY", 1000)
    shuffles = search.null(states)
    assert null.mode > 2 * shuffles.mode  # a family: what is usual here scores high


def test_a_chain_of_an_index_is_the_one_of_its_file(aligner, folder):
    index = protein.StructureIndex(folder)
    chains = protein.read_chains(GLOBINS)
    assert len(index) == 30 and [len(part) for part in index.parts] == [15, 15]
    for k in (0, 14, 15, 29):
        part, place = index.place(k)
        chain, wanted = part.chain(place), chains[k % 15]
        assert (chain.name[-1], chain.sequence) == (wanted.name[-1], wanted.sequence)
        assert np.allclose(chain.ca, wanted.ca, atol=1e-3)
        (states,) = aligner.encode([wanted])
        assert np.allclose(part.states_of(place)[0], states, atol=2e-3)


def test_a_search_finds_the_family_first(aligner, folder):
    search = protein.IndexSearch(aligner, protein.StructureIndex(folder))
    chains = protein.read_chains(GLOBINS)
    hits = search(chains[0], top=30)
    assert {hit.alignment.second.name[-1] for hit in hits[:6]} == set("AEI")
    assert {hit.alignment.second.name[-1] for hit in hits[-6:]} == set("MNO")
    values = [hit.e_value for hit in hits if hit.e_value is not None]
    assert len(values) == 30
    assert values == sorted(values)
    assert values[0] < 1e-3 < values[-1]
    assert (hits[0].alignment.measures()["tm_score_first"] or 0.0) > 0.99
    # The few that are asked for are those that all would show.
    few = search(chains[0], top=3, candidates=6)
    assert [hit.alignment.second.name for hit in few] == [
        hit.alignment.second.name for hit in hits[:3]
    ]


def test_what_does_not_fit_is_named(aligner, folder, tmp_path):
    other = protein.ProteinAligner.from_preset("sequence")
    with pytest.raises(ValueError, match="by the same model"):
        protein.build_index(other, [GLOBINS], folder)
    with pytest.raises(ValueError, match="Expected the model that the index was made by"):
        protein.IndexSearch(other, protein.StructureIndex(folder))
    with pytest.raises(ValueError, match="Expected the folder of an index"):
        protein.StructureIndex(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    with (copy / "parts" / "000001" / "states.npy").open("r+b") as stream:
        stream.truncate(1000)
    with pytest.raises(ValueError, match="000001"):
        protein.StructureIndex(copy)
    head = json.loads((copy / "index.json").read_text())
    (copy / "index.json").write_text(json.dumps({**head, "version": 99}))
    with pytest.raises(ValueError, match="of version 1"):
        protein.StructureIndex(copy)


def test_an_index_is_read_while_it_grows_and_extended_by_one(aligner, folder, tmp_path):
    copy, file = tmp_path / "index", tmp_path / "one.cif"
    shutil.copytree(folder, copy)
    shutil.copy(GLOBINS, file)
    (copy / "parts" / ".000002.abc.part").mkdir()  # what a killed process left
    before = protein.StructureIndex(copy)
    assert protein.build_index(aligner, [file], copy) == 15
    assert (len(before), len(protein.StructureIndex(copy))) == (30, 45)
    assert len(protein.IndexSearch(aligner, before)(protein.read_chains(file)[0], top=99)) == 30
    told: list = []
    file.write_text(file.read_text() + "\n#\n")
    assert protein.build_index(aligner, [file], copy, skipped=lambda *x: told.append(x)) == 0
    assert "changed" in str(told[0][1])
    with open(copy / ".lock", "a") as stream:
        lock(stream, copy)
        child = multiprocessing.get_context("fork").Process(target=_extend, args=(aligner, copy))
        child.start()
        child.join()
    assert child.exitcode == 7


def _extend(aligner, folder):
    try:
        protein.build_index(aligner, [], folder)
    except ValueError as error:
        raise SystemExit(7 if "no other process" in str(error) else 1) from None


def test_an_interrupted_beginning_goes_on_and_an_empty_index_is_named(
    aligner, tmp_path, monkeypatch
):
    folder = tmp_path / "index"
    chains = protein.read_chains(GLOBINS)
    with monkeypatch.context() as patch:
        patch.setattr(structure_index, "_space", lambda means: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            protein.build_index(aligner, [], folder, background=chains)
    assert protein.build_index(aligner, [], folder, background=chains) == 0
    with pytest.raises(ValueError, match="Expected an index of chains"):
        protein.IndexSearch(aligner, protein.StructureIndex(folder))
    assert protein.build_index(aligner, [GLOBINS], folder) == 15
    assert len(protein.StructureIndex(folder).parts) == 1
    with pytest.raises(ValueError, match="Expected the background"):
        protein.build_index(aligner, [GLOBINS], folder, background=chains[:3])
    assert protein.build_index(aligner, [GLOBINS], folder, background=chains) == 0


def test_the_command_indexes_and_searches(tmp_path, capsys):
    folder, table = tmp_path / "index", tmp_path / "hits.tsv"
    (tmp_path / "broken.pdb").write_text("nothing")
    places = [str(GLOBINS), str(tmp_path / "broken.pdb")]
    assert command_line.main(["index", *places, "--output", str(folder)]) == 1
    found = capsys.readouterr()
    assert "15 chains added" in found.out and "broken.pdb" in found.err
    query = f"{GLOBINS}:A"
    words = ["search", query, "--index", str(folder), "--output", str(table), "--top", "3"]
    assert command_line.main([*words, "--refine"]) == 0
    rows = [line.split("\t") for line in table.read_text().splitlines()]
    assert rows[0][:3] == ["chain", "E-value", "score"] and len(rows) == 4
    assert rows[1][0] == "2gtl:A" and float(rows[1][1]) < 1e-3
    assert "best of 15 chains" in capsys.readouterr().out
    assert command_line.main(["search", query]) == 2
    assert "both, or neither" in capsys.readouterr().err
