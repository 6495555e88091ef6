"""Encoders over trunks that were trained elsewhere: ESM and ProteinMPNN."""

import keras
import numpy as np
import pytest

from keras_struct import protein

keras_hub = pytest.importorskip("keras_hub")
numpy = keras.ops.convert_to_numpy
SEQUENCES = ("MKVLAAGW", "PAWHE", "MKBZX")


@pytest.fixture(params=["rotary", "absolute"])
def backbone(request):
    made = keras_hub.models.ESMBackbone(
        vocabulary_size=33,
        num_layers=2,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=12,
        pad_token_id=1,
        use_pre_layer_norm=request.param == "absolute",
        position_embedding_type=request.param,
    )
    rng = np.random.default_rng(0)
    for weight in made.weights:
        weight.assign(rng.normal(0, 0.5, weight.shape))
    return made


def tokens(encoder, sequences):
    length = max(map(len, sequences))
    out = np.zeros((len(sequences), length), "int32")
    for row, sequence in zip(out, sequences, strict=True):
        row[: len(sequence)] = encoder.chain_inputs(protein.Chain("x", sequence))["tokens"]
    return out


def test_esm_is_the_backbone_and_padding_changes_nothing(backbone):
    encoder = protein.ESMEncoder(backbone)
    together = numpy(encoder(tokens(encoder, SEQUENCES)))
    for row, sequence in enumerate(SEQUENCES):
        ids = tokens(encoder, [sequence])
        marked = np.concatenate([[[0]], ids, [[2]]], axis=1)
        expected = numpy(backbone({"token_ids": marked}))[:, 1:-1]
        np.testing.assert_allclose(numpy(encoder(ids)), expected, atol=1e-5)
        np.testing.assert_allclose(together[row, : len(sequence)], expected[0], atol=1e-5)
        assert (together[row, len(sequence) :] == 0).all()
    # <cls>, <eos> and the letters have the numbers of ESM's vocabulary.
    assert tokens(encoder, ["LAGX-"]).tolist() == [[4, 5, 6, 24, 3]]


@pytest.mark.parametrize("backbone", ["rotary"], indirect=True)
def test_the_contract_of_layers(backbone):
    trunk = protein.ESMEncoder(backbone)
    trunk.trainable = False
    encoder = protein.PretrainedEncoder(
        trunk, ["amino_acids"], dim=4, hidden_dim=6, depth=1, kernel_size=3, dropout=0.0
    )
    chain = protein.Chain("x", "MKVLA")
    inputs = {name: x[None].repeat(2, 0) for name, x in encoder.chain_inputs(chain).items()}
    for x in inputs.values():
        x[1, 3:] = 0
    states = numpy(encoder(inputs))
    assert (states[1, 3:] == 0).all() and np.abs(states[1, :3]).min() > 0
    given = {"letters": inputs["letters"], "states": trunk(inputs["tokens"])}
    np.testing.assert_allclose(numpy(encoder(given)), states, atol=1e-6)
    assert len(encoder.trainable_weights) == len(encoder.weights) - len(backbone.weights)
    copied = protein.PretrainedEncoder.from_config(encoder.get_config())
    assert not copied.trunk.trainable and copied.alphabets == ("amino_acids",)


@pytest.mark.parametrize("backbone", ["rotary"], indirect=True)
def test_an_aligner_over_esm_is_saved_and_read(backbone, tmp_path):
    trunk = protein.ESMEncoder(backbone)
    encoder = protein.PretrainedEncoder(trunk, ["amino_acids"], dim=4, hidden_dim=6, depth=0)
    aligner = protein.ProteinAligner.create(encoder)
    chains = [protein.Chain(x, x) for x in SEQUENCES]
    aligner.save(tmp_path / "esm.keras")
    again = protein.ProteinAligner.from_preset(tmp_path / "esm.keras")
    for ours, theirs in zip(aligner.encode(chains), again.encode(chains), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_the_trunk_is_checked():
    with pytest.raises(ValueError, match=r"ESMBackbone.*Received"):
        protein.ESMEncoder(keras.layers.Dense(3))
    encoder = protein.PretrainedEncoder(protein.ProteinMPNNEncoder(hidden_dim=4, num_layers=1))
    with pytest.raises(ValueError, match="x, a bare sequence"):
        encoder.chain_inputs(protein.Chain("x", "MKV"))
