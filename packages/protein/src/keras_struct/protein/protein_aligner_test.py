"""The model from letters to alignments: shapes, padding, training, files, search, export."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_struct import protein
from keras_struct.layers.check_layer import CHECKS, check_layer
from keras_struct.ops.testing import EXPORTS, PLAIN_TENSORFLOW, tried
from keras_struct.protein.batches import batches_by_shape
from keras_struct.protein.command_line import main
from keras_struct.protein.paths import matched_pairs, path_of_pairs

tmtools = pytest.importorskip("tmtools")
GLOBINS = Path(tmtools.__file__).parent / "data" / "2gtl.cif"
BACKEND = keras.backend.backend()
trains = pytest.mark.skipif(BACKEND == "numpy", reason="numpy does not train")


@pytest.fixture(scope="module")
def chains():
    return protein.read_chains(GLOBINS, ["A", "B", "C"])


@pytest.fixture(scope="module")
def shipped():
    return protein.ProteinAligner.from_preset("structure")


SIZES = {"dim": 8, "depth": 1, "kernel_size": 3}


def small(encoder="letters", structure="smith_waterman", frozen=True):
    keras.utils.set_random_seed(0)
    if encoder == "letters":
        made = protein.ResidueEncoder(**SIZES)
    else:
        trunk = protein.ProteinMPNNEncoder(hidden_dim=8, num_layers=1, num_neighbors=6)
        trunk.trainable = not frozen
        made = protein.PretrainedEncoder(trunk, **SIZES)
    return protein.ProteinAligner.create(made, structure=structure, learn_temperature=True)


def test_the_encoder_keeps_the_contract_of_layers():
    letters = np.array([[[3, 4], [5, 20], [1, 21], [2, 2]], [[7, 8], [9, 1], [0, 0], [0, 0]]])
    layer = protein.ResidueEncoder(dim=6, depth=1, kernel_size=3, dropout=0.0)
    # TensorFlow writes the SavedModel for every backend, from the same `.keras` file.
    check_layer(layer, {"inputs": letters.astype("int32")}, checks=tried(CHECKS))
    for wrong in ({"dropout": 1.0}, {"dropout": float("nan")}, {"kernel_size": 2}):
        with pytest.raises(ValueError, match=f"Expected .*{next(iter(wrong))}="):
            protein.ResidueEncoder(**wrong)


@pytest.mark.parametrize(
    ("encoder", "structure"), [("letters", "smith_waterman"), ("proteinmpnn", "sinkhorn")]
)
def test_padding_and_batch_mates_change_nothing(chains, encoder, structure):
    aligner = small(encoder, structure)
    together = aligner.encode(chains)
    for chain, states in zip(chains, together, strict=True):
        np.testing.assert_allclose(aligner.encode([chain])[0], states, atol=1e-5)
    pairs = [(chains[0], chains[1]), (chains[2], chains[0])]
    for pair, batched in zip(pairs, aligner.align(pairs, maps=True), strict=True):
        (alone,) = aligner.align([pair], maps=True)
        np.testing.assert_array_equal(alone.pairs, batched.pairs)
        np.testing.assert_allclose(alone.map, batched.map, atol=1e-5)
        assert batched.first is pair[0] and abs(alone.score - batched.score) < 1e-3


def test_map_and_probabilities_agree(shipped, chains):
    (alignment,) = shipped.align([(chains[0], chains[1])], maps=True)
    i, j = alignment.pairs.T
    np.testing.assert_array_equal(alignment.probabilities, alignment.map[i, j])
    assert alignment.map.sum(axis=1).max() < 1 + 1e-4


def test_the_shipped_models_find_what_tm_align_finds(shipped, chains):
    first, second = chains[:2]
    found = tmtools.tm_align(first.ca, second.ca, first.sequence, second.sequence)
    reference = protein.Alignment.from_rows(first, second, (found.seqxA, found.seqyA))
    (ours,) = shipped.align([(first, second)])
    assert protein.pair_scores(ours.pairs, reference.pairs)["f1"] > 0.9
    assert ours.measures()["tm_score_first"] > 0.97 * found.tm_norm_chain1
    if BACKEND == "torch":  # the layers are tested on every backend
        by_backbone = protein.ProteinAligner.from_preset("proteinmpnn")
        (ours,) = by_backbone.align([(first, second)])
        assert protein.pair_scores(ours.pairs, reference.pairs)["f1"] > 0.9
    by_letters = protein.ProteinAligner.from_preset("sequence")
    bare = [protein.Chain(c.name, c.sequence) for c in (first, second)]
    (ours,) = by_letters.align([(bare[0], bare[1])])
    assert protein.pair_scores(ours.pairs, reference.pairs)["f1"] > 0.8


def test_batches_have_one_shape_and_stay_in_the_budget():
    rng = np.random.default_rng(0)
    lengths = [tuple(pair) for pair in rng.integers(1, 150, (60, 2)).tolist()]
    batches = batches_by_shape(lengths, 30_000, most=3, order=lambda x: x[::-1])
    assert sorted(k for _, batch in batches for k in batch) == list(range(60))
    for shape, batch in batches:
        assert {tuple(-(-n // 32) * 32 for n in lengths[k]) for k in batch} == {shape}
        assert len(batch) == 1 or len(batch) * shape[0] * shape[1] <= 30_000
        assert len(batch) <= 3 and batch == sorted(batch, reverse=True)


def test_pairs_and_paths_are_the_same_thing():
    pairs = np.array([[2, 0], [3, 1], [6, 2], [7, 5]])
    path = path_of_pairs(pairs)
    np.testing.assert_array_equal(matched_pairs(path), pairs)
    steps = np.diff(path, axis=0)
    assert (steps.sum(axis=1) >= 1).all() and steps.max() == 1
    assert matched_pairs(np.full((5, 2), -1)).shape == (0, 2)


def test_a_sequence_has_no_structural_letters(shipped):
    with pytest.raises(ValueError, match=r"x, a bare sequence"):
        shipped.align([(protein.Chain("x", "MKV"), protein.Chain("y", "MKV"))])
    with pytest.raises(ValueError, match=r"one of .*'structure'.*preset='none'"):
        protein.ProteinAligner.from_preset("none")


@pytest.fixture(scope="module")
def table(tmp_path_factory, chains):
    folder = tmp_path_factory.mktemp("pairs")
    shutil.copy(GLOBINS, folder / "2gtl.cif")
    lines = ["first\tsecond\tfirst_row\tsecond_row"]
    for k in (1, 2):
        found = tmtools.tm_align(chains[0].ca, chains[k].ca, chains[0].sequence, chains[k].sequence)
        lines.append(f"2gtl.cif:A\t2gtl.cif:{'ABC'[k]}\t{found.seqxA}\t{found.seqyA}")
    (folder / "pairs.tsv").write_text("\n".join(lines) + "\n")
    return folder / "pairs.tsv"


MODELS: dict[str, tuple[str, dict]] = {
    "letters": ("path", {}),
    "f1": ("f1", {}),
    "frozen trunk": ("path", {"encoder": "proteinmpnn"}),
    "fine-tuned trunk": ("path", {"encoder": "proteinmpnn", "frozen": False}),
    "transport": ("path", {"structure": "sinkhorn"}),
    "transport f1": ("f1", {"structure": "sinkhorn"}),
}


# TensorFlow compiles for ten seconds what PyTorch tries in one.
@pytest.mark.compiles_long
@trains
@pytest.mark.parametrize("name", MODELS if BACKEND == "torch" else ["letters"])
def test_training_learns_and_goes_on_where_it_stopped(table, tmp_path, name):
    lines: list[str] = []
    loss, model = MODELS[name]
    options = {"loss": loss, "learning_rate": 0.03, "progress": lines.append}
    epochs = 3 if name == "letters" else 2
    start = small(**model)
    trunk = getattr(start.encoder, "trunk", None)
    before = [] if trunk is None else [keras.ops.convert_to_numpy(w) for w in trunk.weights]

    def interrupt(line):
        lines.append(line)
        if line.startswith(f"epoch {epochs} "):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        protein.train(
            [table], [table], tmp_path, start, epochs + 1, **{**options, "progress": interrupt}
        )
    if trunk is not None:
        moved = [
            np.abs(keras.ops.convert_to_numpy(w) - old).max() > 0
            for w, old in zip(trunk.weights, before, strict=True)
        ]
        assert any(moved) == trunk.trainable
        assert ("2 chains" in lines[0] or "3 chains" in lines[0]) != trunk.trainable
    protein.train([table], [table], tmp_path, small(**model), epochs + 1, **options)
    with pytest.raises(ValueError, match=r"Received: loss=.*, seed=1, not 0$"):
        other = {"path": "f1", "f1": "path"}[loss]
        more = {**options, "loss": other, "seed": 1}
        protein.train([table], [table], tmp_path, small(**model), epochs + 1, **more)
    history = [json.loads(x) for x in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in history] == list(range(1, epochs + 2))
    assert history[-1]["loss"] < history[0]["loss"]
    trained = protein.ProteinAligner.from_preset(tmp_path / "model.keras")
    scores = protein.evaluate(trained, protein.read_labelled_pairs(table))
    assert abs(scores["f1"] - max(row["f1"] for row in history)) < 1e-6
    assert 0 < scores["reference_lddt"] <= 1


def test_bad_tables_are_named(tmp_path, table):
    with pytest.raises(ValueError, match=r"Expected one of.*loss='l1'"):
        protein.train([table], [], tmp_path / "x", loss="l1")
    with pytest.raises(FileNotFoundError, match=r"none.tsv"):
        protein.train(["none.tsv"], [], tmp_path / "x")
    bad = tmp_path / "bad.tsv"
    bad.write_text("first\tsecond\n")
    with pytest.raises(ValueError, match=r"without .'first_row', 'second_row'"):
        protein.read_labelled_pairs(bad)
    bad.write_text(table.read_text().replace("2gtl.cif", str(GLOBINS)).replace("DCC", "DCA"))
    with pytest.raises(ValueError, match=r"bad.tsv, line 2: Expected the residues of 2gtl:A"):
        protein.read_labelled_pairs(bad)
    # Each bad row is named and left out.
    head, good, other = table.read_text().replace("2gtl.cif", str(GLOBINS)).splitlines()
    wrong = [f"{good}\t{weight}" for weight in ("0", "nan", "-1", "x", "inf")]
    rows = [f"\ufeff{head}\tweight", *wrong, good[:-9], "a\tb", good.replace(":B", ":Q"), other]
    bad.write_text("\n".join(rows))
    errors: list[Exception] = []
    (pair,) = protein.read_labelled_pairs(bad, errors.append)
    assert pair.alignment.second.name == "2gtl:C" and pair.weight == 1
    assert [str(e).partition(":")[0][-6:] for e in errors] == [f"line {k}" for k in range(2, 10)]
    # A quotation mark that nobody closes takes no other row with it; those in pairs mean nothing.
    quoted = '"' + other.replace("\t", '"\t', 1)
    bad.write_text("\n".join([head, good, '"' + good, f'{other}"', quoted, other]))
    errors.clear()
    pairs = protein.read_labelled_pairs(bad, errors.append)
    assert [pair.alignment.second.name for pair in pairs] == ["2gtl:B", "2gtl:C", "2gtl:C"]
    assert "bad.tsv, line 3: Expected cells between tabs, quotation marks" in str(errors[0])
    assert "bad.tsv, line 4: " in str(errors[1]) and len(errors) == 2
    bad.write_text(f'first\t"{head}')
    with pytest.raises(ValueError, match=r"bad.tsv, line 1: Expected cells between tabs"):
        protein.read_labelled_pairs(bad)
    # A loss that means nothing for a structure.
    for structure in ("needleman_wunsch", "overlap"):
        with pytest.raises(ValueError, match=f"loss='f1'.*{structure}"):
            protein.train([table], [], tmp_path / "x", small(structure=structure))
    for name in ("epochs", "limit", "longest", "learning_rate"):
        with pytest.raises(ValueError, match=f"{name}=0"):
            protein.train([table], [], tmp_path / "x", **{name: 0})
    assert not (tmp_path / "x").exists()


@pytest.mark.compiles_long
def test_search_ranks_caches_and_leaves_out_what_is_broken(shipped, chains, tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    shutil.copy(GLOBINS, tmp_path / "in" / "2gtl.cif")
    (tmp_path / "in" / "broken.pdb").write_text("nothing\n")
    (tmp_path / "in" / "notes.txt").write_text("not a protein\n")
    files = protein.protein_files([tmp_path / "in"])
    assert [file.name for file in files] == ["2gtl.cif", "broken.pdb"]
    bad: list[str] = []
    done: list[int] = []
    hits = protein.search(
        shipped,
        chains[0],
        files,
        cache=tmp_path / "cache",
        skipped=lambda file, error: bad.append(file.name),
        progress=done.append,
    )
    assert bad == ["broken.pdb"] and done[-1] == 2
    scores = [hit.alignment.score for hit in hits]
    assert len(hits) == 15 and scores == sorted(scores, reverse=True)
    assert hits[0].alignment.second.name == "2gtl:A"
    with pytest.raises(ValueError, match=r"broken\.pdb"):
        protein.search(shipped, chains[0], files)
    # What is cached is neither read nor encoded again.
    encode = shipped.encode
    calls: list[int] = []

    def counted(chains):
        calls.append(len(chains))
        return encode(chains)

    monkeypatch.setattr(shipped, "encode", counted)
    again = protein.search(shipped, chains[0], files[:1], cache=tmp_path / "cache")
    assert sum(calls) == 1  # the query
    np.testing.assert_allclose([hit.alignment.score for hit in again], scores, rtol=1e-5)
    by_name = {hit.alignment.second.name: hit.alignment.second for hit in hits}
    for hit in again:
        chain, other = hit.alignment.second, by_name[hit.alignment.second.name]
        assert (chain.sequence, chain.residue_ids) == (other.sequence, other.residue_ids)
        np.testing.assert_array_equal(chain.backbone, other.backbone)
    # A damaged entry is made again.
    (entry,) = (tmp_path / "cache").iterdir()
    whole = entry.read_bytes()
    for damaged in (b"damaged", b"", whole[:-1], whole[:500] + b"x" + whole[501:], whole[32:]):
        entry.write_bytes(damaged)
        assert len(protein.search(shipped, chains[0], files[:1], cache=tmp_path / "cache")) == 15
    assert entry.read_bytes()[32:36] == b"PK\x03\x04"


@pytest.mark.skipif(BACKEND != "torch", reason="files are the same on every backend")
def test_a_search_goes_through_whatever_a_folder_holds(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "in"
    (folder / "dir.cif").mkdir(parents=True)
    shutil.copy(GLOBINS, folder / "dir.cif" / "2gtl.cif")
    (folder / "q.fasta").write_text(">lys\nKVFGRCELAAAM\n>bad\nM-K\n")
    (folder / "link.pdb").symlink_to("/nowhere")
    (folder / "none.cif").write_text("data_x\n_a.b 1\n")
    cache = ["--cache", str(tmp_path / "cache")]
    command = ["search", f"{GLOBINS}:A", str(folder), *cache]
    named = ("lys, a bare sequence", "bad, not ['-']", "link.pdb", "none.cif", "4 of the input")
    for _ in range(2):  # what is left out is named again where the rest is in the cache
        assert main([*command, "--refine"]) == 1
        found = capsys.readouterr()
        assert found.out.count("2gtl:") > 15
        assert all(name in found.err for name in named)
    assert main([*command, "--strict"]) == 2
    assert main(["search", f"{GLOBINS}:A", str(folder / "q.fasta")]) == 2
    assert "Expected chains to align" in capsys.readouterr().err
    # Letters alone are enough for the other model; only what has coordinates is refined.
    assert main([*command[:3], "--model", "sequence", "--refine"]) == 1
    assert "lys" in capsys.readouterr().out
    # A cache that cannot be written costs nothing but itself.
    (tmp_path / "full").mkdir()
    aligner = protein.ProteinAligner.from_preset("structure")
    query = protein.read_chain(f"{GLOBINS}:A")
    errors: list[Exception] = []

    def full(*arguments):
        raise OSError(28, "No space left")

    module = sys.modules["keras_struct.protein.search"]
    monkeypatch.setattr(module.EncodingCache, "store", full)
    hits = protein.search(
        *(aligner, query, [GLOBINS], tmp_path / "full"),
        skipped=lambda file, error: errors.append(error),
    )
    assert len(hits) == 15 and [str(e) for e in errors] == ["[Errno 28] No space left"]


@pytest.mark.skipif(BACKEND != "torch", reason="files are the same on every backend")
def test_encoding_is_kept_every_few_seconds(shipped, chains, tmp_path, monkeypatch):
    """With an encoder of a chain a second, chunks are of five."""
    now = [0.0]
    sizes: list[int] = []
    module = sys.modules["keras_struct.protein.search"]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    encode = shipped.encode

    def slow(chains):
        now[0] += len(chains)
        sizes.append(len(chains))
        return encode(chains)

    monkeypatch.setattr(shipped, "encode", slow)
    (tmp_path / "in").mkdir()
    from biotite.structure.io import pdb

    for k in range(30):
        file = pdb.PDBFile()
        file.set_structure(chains[0].atoms[:80])
        file.write(tmp_path / "in" / f"{k}.pdb")
    protein.search(shipped, chains[0], protein.protein_files([tmp_path / "in"]), tmp_path / "c")
    assert sizes == [1, 16, 5, 5, 4]


@pytest.mark.compiles_long
def test_the_command_aligns_and_searches(tmp_path, capsys):
    pair = [f"{GLOBINS}:A", f"{GLOBINS}:B"]
    outputs = ["--superposed", str(tmp_path / "s.pdb"), "--picture", str(tmp_path / "m.png")]
    assert main(["align", *pair, *outputs]) == 0
    text = capsys.readouterr().out
    assert "2gtl:A (147), 2gtl:B (145)" in text and "tm score first 0.8" in text
    assert (tmp_path / "s.pdb").stat().st_size and (tmp_path / "m.png").stat().st_size
    assert main(["align", *pair, "--format", "json", "--output", str(tmp_path / "a.json")]) == 0
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["aligned"] == len(found["pairs"]) == len(found["probabilities"]) > 130
    assert main(["align", *pair, "--refine"]) == 0
    assert "tm score first 0.88" in capsys.readouterr().out
    search = ["search", pair[0], str(GLOBINS), "--top", "3", "--output", str(tmp_path / "h.tsv")]
    search += ["--refine"]
    assert main(search) == 0
    assert capsys.readouterr().out.count("2gtl:") == 4  # the query and three hits
    rows = (tmp_path / "h.tsv").read_text().splitlines()
    assert len(rows) == 16 and rows[0].startswith("chain\tscore")
    tm_scores = [float(row.split("\t")[4]) for row in rows[1:]]
    assert tm_scores[0] == 1 and tm_scores == sorted(tm_scores, reverse=True)
    assert main(["align", "none.pdb", pair[1]]) == 2
    assert main([*search, "--top", "-1"]) == 2
    capsys.readouterr()
    assert main(["search", pair[0], pair[0].removesuffix(":A"), "--output", "-"]) == 0
    assert capsys.readouterr().out.startswith("chain\tscore")  # nothing but the table
    whole = ["--transformed", str(tmp_path / "w.cif"), "--output", "-", "--format", "json"]
    capsys.readouterr()
    assert main(["align", f"{GLOBINS}:A+B", f"{GLOBINS}:B+A", *whole]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["first"], len(found["rotation"])) == ("2gtl:A+B", 3)
    assert len(protein.read_chains(tmp_path / "w.cif")) == 15
    atoms = (tmp_path / "s.pdb").read_text()
    models = [f"MODEL {number:8d}\n{atoms}ENDMDL\n" for number in (1, 2)]
    (tmp_path / "nmr.pdb").write_text("".join(models))
    nmr = ["align", str(tmp_path / "nmr.pdb"), pair[1], "--format", "cigar", "--model-number"]
    assert [main([*nmr, number]) for number in ("2,1", "2", "3,1")] == [0, 2, 2]
    told = capsys.readouterr().err
    assert "from 1 to 1, not model=2" in told and "from 1 to 2, not model=3" in told
    before = (tmp_path / "nmr.pdb").read_bytes()
    for output in ("--superposed", "--output"):
        assert main([*nmr, "2,1", output, nmr[1]]) == 2
    assert (tmp_path / "nmr.pdb").read_bytes() == before
    for wrong in (["--superposed", "s.xyz"], ["--picture", "m.gif"]):
        assert main(["align", *pair, *wrong]) == 2
    assert capsys.readouterr().out == ""
    assert main(["align", *pair, "--output", str(tmp_path / "none" / "a.json")]) == 2
    assert "Expected an existing folder" in capsys.readouterr().err


@pytest.mark.skipif(BACKEND != "torch", reason="the training itself is tested on every backend")
def test_the_command_trains_and_evaluates(table, tmp_path, capsys):
    sizes = ["--dim", "8", "--depth", "0", "--alphabets", "3di", "--epochs", "1"]
    assert main(["train", "--train", str(table), "--output", str(tmp_path), *sizes]) == 0
    model = capsys.readouterr().out.strip().splitlines()[-1]
    assert main(["evaluate", str(table), "--model", model, "--json"]) == 0
    scores = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    again = ["train", "--train", str(table), "--output", str(tmp_path / "more"), "--epochs", "1"]
    assert main([*again, "--start", model]) == 0
    assert main([*again, "--start", model, "--fine-tune"]) == 2
    assert "Expected a model with a trunk" in capsys.readouterr().err
    assert scores["pairs"] == 2 and set(scores) >= {"precision", "recall", "f1", "lddt"}


@pytest.mark.skipif(
    not EXPORTS, reason="TensorFlow exports from a .keras file, as it does its own, see export_test"
)
def test_exported_models_align_in_plain_tensorflow(shipped, chains, tmp_path):
    shipped.export(tmp_path / "exported")
    letters = [protein.letter_ids(chain, shipped.encoder.alphabets) for chain in chains[:2]]
    np.savez(tmp_path / "letters.npz", first=letters[0], second=letters[1])
    program = (
        "import sys, numpy as np, tensorflow as tf\n"
        "x = np.load('letters.npz')\n"
        "encode = tf.saved_model.load('exported/encode')\n"
        "align = tf.saved_model.load('exported/align')\n"
        "states = {k: encode.serve(x[k][None]) for k in ('first', 'second')}\n"
        "masks = {k + '_mask': np.ones((1, len(x[k])), bool) for k in states}\n"
        "found = align.serve({**states, **masks})\n"
        "assert 'keras_struct' not in sys.modules\n"
        "np.savez('found.npz', **{k: v.numpy() for k, v in found.items()})\n"
    )
    command = [sys.executable, "-c", program]
    subprocess.run(command, cwd=tmp_path, env=PLAIN_TENSORFLOW, check=True)
    (ours,) = shipped.align([tuple(chains[:2])], maps=True)
    with np.load(tmp_path / "found.npz") as found:
        np.testing.assert_array_equal(matched_pairs(found["path"][0]), ours.pairs)
        np.testing.assert_allclose(found["map"][0], ours.map, atol=1e-4)
    assert set(json.loads((tmp_path / "exported" / "alphabets.json").read_text())) == {
        "3di",
        "amino_acids",
    }
    with pytest.raises(FileExistsError, match=r"overwrite"):
        shipped.export(tmp_path / "exported")
