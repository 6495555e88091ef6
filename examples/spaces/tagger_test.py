"""An interrupted training goes on where it stopped."""

import keras
import numpy as np
import pytest
from spaces import characters, tagger

if keras.config.backend() == "numpy":
    pytest.skip("the NumPy backend has no gradients", allow_module_level=True)


def train(folder, epochs=3):
    model = tagger.make_tagger("softmax", width=4, dilations=(1,))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
    rows = characters.encode(["it is so", "we are here", "they are not"], 12)
    tagger.train(model, loss, *rows, epochs=epochs, folder=folder, batch_size=2)
    return model


def test_resumes_after_the_last_whole_epoch(tmp_path, monkeypatch, capsys):
    save = tagger.SaveEpochs.on_epoch_end

    def interrupt(self, epoch, logs=None):
        save(self, epoch, logs)
        if epoch == 1:
            interrupted.append(self.model.get_weights())
            raise KeyboardInterrupt

    interrupted: list = []
    monkeypatch.setattr(tagger.SaveEpochs, "on_epoch_end", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-0002.weights.h5"]

    (tmp_path / "partial.weights.h5").write_bytes(b"half of a file")
    goes_on = tagger.make_tagger("softmax", width=4, dilations=(1,))
    goes_on.compile(keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(1.0, 6)), "mse")
    assert tagger.resume(goes_on, tmp_path) == 2
    for found, expected in zip(goes_on.get_weights(), interrupted[0], strict=True):
        np.testing.assert_array_equal(found, expected)

    model = train(tmp_path)
    assert "goes on after epoch 2 of 3" in capsys.readouterr().out
    assert int(model.optimizer.iterations) == 3 * 2
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-0003.weights.h5"]

    again = train(tmp_path)
    for found, expected in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_padding_changes_nothing():
    model = tagger.make_tagger("crf", width=4, dilations=(2,))
    alone, _ = characters.encode(["we are here"], 9)
    padded, _ = characters.encode(["we are here", "they are not in the padding"], 23)
    expected, _ = tagger.tags_and_boundaries(model, alone, (1.0,))
    found = tagger.best_tags(model, padded)
    np.testing.assert_array_equal(found[0, :9], expected)
    assert (found[0, 9:] == -1).all()
