"""Two word taggers that differ in their last layer alone, and their training."""

import os
from pathlib import Path

import keras
import numpy as np
from keras import ops as K
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from spaces.characters import ALPHABET, LABELS

from keras_struct import layers


def make_tagger(head, width=64, dilations=(1, 1, 2, 4), dropout=0.1):
    """A convolutional tagger of characters, (B, N) integers, 0 in the padding.

    Args:
        head: `"crf"`, a linear-chain CRF that allows only tags that make words, or `"softmax"`,
            an independent choice for each character.
        width: Number of channels.
        dilations: Dilations of the residual convolutions; the defaults see 9 characters on
            either side.
        dropout: Rate between the convolutions; twice that before the head.
    """
    characters = keras.Input((None,), dtype="int32", name="characters")
    mask = K.not_equal(characters, 0)
    # Padding looks like what lies outside of the row, so it changes nothing.
    valid = K.cast(K.expand_dims(mask, -1), "float32")
    x = keras.layers.Embedding(1 + len(ALPHABET), 32)(characters) * valid
    x = keras.layers.Conv1D(width, 3, padding="same", activation="gelu")(x) * valid
    for dilation in dilations:
        y = keras.layers.Dropout(dropout)(x)
        y = keras.layers.Conv1D(
            width, 3, padding="same", dilation_rate=dilation, activation="gelu"
        )(y)
        x = keras.layers.LayerNormalization()(x + y) * valid
    x = keras.layers.Dropout(2 * dropout)(x)
    if head == "crf":
        constraints = layers.tag_constraints(LABELS, scheme="BMES")
        crf = layers.CRF(len(LABELS), constraints=constraints, name="crf")
        return keras.Model(characters, crf(layers.AttachMask()([x, mask])), name="crf_tagger")
    scores = keras.layers.Dense(len(LABELS), name="softmax")(x)
    return keras.Model(characters, scores, name="softmax_tagger")


def train(model, loss, characters, tags, epochs, folder: Path, batch_size=6):
    """Train a tagger; an interrupted training goes on from the last epoch saved in `folder`."""
    # Empty rows fill the last batch: another batch size would be compiled once more.
    filler = ((0, -len(characters) % batch_size), (0, 0))
    characters = np.pad(characters, filler)
    tags = np.pad(tags, filler, constant_values=-1)
    steps = epochs * len(characters) // batch_size
    rate = keras.optimizers.schedules.CosineDecay(8e-3, steps)
    model.compile(keras.optimizers.AdamW(rate, weight_decay=0.01), loss)
    first = resume(model, folder)
    if first == epochs:
        print(f"{model.name} had finished its {epochs} epochs")
        return
    if first:
        print(f"{model.name} goes on after epoch {first} of {epochs}")
    bar = Bar(model.name, epochs)
    with bar.progress:
        model.fit(
            characters,
            tags,
            batch_size=batch_size,
            epochs=epochs,
            initial_epoch=first,
            callbacks=[SaveEpochs(folder), bar],
            verbose=0,
        )


def resume(model, folder: Path) -> int:
    """Load weights and optimizer of the last saved epoch; its number, 0 if there is none."""
    saved = sorted(folder.glob("epoch-*.weights.h5"))
    if not saved:
        return 0
    model.optimizer.build(model.trainable_variables)
    model.load_weights(saved[-1])
    return int(saved[-1].name.removeprefix("epoch-").split(".")[0])


class SaveEpochs(keras.callbacks.Callback):
    """Saves weights and optimizer after each epoch, whole or not at all, and keeps the last."""

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder

    def on_epoch_end(self, epoch, logs=None):
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / "partial.weights.h5"
        self.model.save_weights(partial)
        path = self.folder / f"epoch-{epoch + 1:04d}.weights.h5"
        os.replace(partial, path)
        for old in self.folder.glob("epoch-*.weights.h5"):
            if old != path:
                old.unlink()


class Bar(keras.callbacks.Callback):
    """One progress bar for a whole training."""

    def __init__(self, name: str, epochs: int):
        super().__init__()
        self.progress = Progress(
            TextColumn("{task.description:15}"),
            BarColumn(),
            TextColumn("epoch {task.fields[epoch]:2}/{task.total}  loss {task.fields[loss]:7.4f}"),
            TimeRemainingColumn(elapsed_when_finished=True),
        )
        self.task = self.progress.add_task(name, total=epochs, epoch=0, loss=float("nan"))

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        self.progress.update(self.task, completed=self.epoch + (batch + 1) / self.params["steps"])

    def on_epoch_end(self, epoch, logs=None):
        self.progress.update(self.task, completed=epoch + 1, epoch=epoch + 1, loss=logs["loss"])


def best_tags(model, characters) -> np.ndarray:
    """The best tags (B, N): Viterbi of a CRF tagger, argmax of a softmax tagger."""
    crf = model.name == "crf_tagger"
    decoder = layers.decoding_model(model) if crf else model
    answer = decoder.predict(characters, batch_size=len(characters), verbose=0)
    return answer if crf else answer.argmax(-1)


def tags_and_boundaries(model, characters, temperatures) -> tuple[np.ndarray, list[np.ndarray]]:
    """The best tags of one sentence (N,), and at each temperature the probability (N - 1,) that a
    word ends at each character but the last."""
    decoders = [layers.decoding_model(model, "marginals", value) for value in temperatures]
    outputs = [layers.decoding_model(model).output, *(decoder.output for decoder in decoders)]
    tags, *marginals = keras.Model(model.input, outputs).predict(characters, verbose=0)
    end = [LABELS.index("E"), LABELS.index("S")]
    return tags[0], [x[0, :-1, end].sum(axis=0) for x in marginals]
