"""Learn to align members of Pfam families by transport, and measure it on other families.

    cd examples && python -m pfam_sinkhorn FOLDER [--only band ...] [--output DIR]
    cd examples && python -m pfam_sinkhorn --smoke

FOLDER holds one aligned FASTA file for each family. Every fourth family is held out. With
`--output`, a run that was cut off goes on from its last epoch, and trained weights stay there.
"""

import argparse
import os
from pathlib import Path

import keras
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

from pfam_sinkhorn.aligner import CONFIGURATIONS, ESMResidues, PairAligner, losses
from pfam_sinkhorn.families import generated_families, pairs, read_families
from pfam_sinkhorn.measures import diagonal_map, measures

EPOCHS = 10


def train(name, families, longest, steps, batch, output, esm):
    """A trained model of a configuration: loaded, or trained on from its last epoch."""
    import numpy as np

    settings = CONFIGURATIONS[name]
    keras.utils.set_random_seed(0)
    model = PairAligner(settings, None if esm is None else ESMResidues(esm))
    inputs, targets = pairs(families, steps * batch // EPOCHS, longest, seed=1)
    if settings.objective == "reconstruction":
        targets = np.concatenate([targets, inputs["key"]], axis=1)
    rate = keras.optimizers.schedules.CosineDecay(2e-3, steps, warmup_steps=steps // 10)
    model.compile(keras.optimizers.AdamW(rate, clipnorm=1.0), losses(settings.objective))
    model({key: x[:1] for key, x in inputs.items()})
    callbacks = []
    if output is not None:
        folder = output / name
        if (folder / "model.weights.h5").exists():
            model.load_weights(folder / "model.weights.h5")
            return model
        folder.mkdir(parents=True, exist_ok=True)
        callbacks.append(keras.callbacks.BackupAndRestore(str(folder / "backup")))
    model.fit(inputs, targets, batch_size=batch, epochs=EPOCHS, callbacks=callbacks, verbose=2)
    if output is not None:
        partial = output / name / "partial.weights.h5"
        model.save_weights(partial)
        os.replace(partial, output / name / "model.weights.h5")
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--smoke", action="store_true", help="a short run on generated families")
    parser.add_argument("--only", nargs="+", choices=CONFIGURATIONS, default=list(CONFIGURATIONS))
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--longest", type=int, default=128, help="columns of a family")
    parser.add_argument("--test-pairs", type=int, default=800)
    parser.add_argument("--esm", metavar="PRESET", help="an ESMBackbone in place of the encoder")
    parser.add_argument("--output", type=Path, metavar="DIR")
    chosen = parser.parse_args()
    if keras.config.backend() == "numpy":
        parser.error("Expected a backend with gradients. Received: KERAS_BACKEND=numpy")
    if chosen.smoke:
        families, chosen.only = generated_families(), chosen.only[-1:]
        chosen.longest, chosen.steps, chosen.test_pairs = 40, 60, 16
        chosen.batch = 8
    elif chosen.folder is None or not chosen.folder.is_dir():
        parser.error(f"Expected a folder with alignments. Received: folder={chosen.folder}")
    else:
        families = read_families(chosen.folder, chosen.longest)
    held_out = families[3::4]
    learned = [family for family in families if family not in held_out]
    print(f"{len(learned)} families to learn from, held out: {[x.name for x in held_out]}")
    inputs, targets = pairs(held_out, chosen.test_pairs, chosen.longest, seed=2)
    found = {"diagonal": measures(inputs, targets, diagonal_map(inputs))}
    for name in chosen.only:
        model = train(
            name, learned, chosen.longest, chosen.steps, chosen.batch, chosen.output, chosen.esm
        )
        plan = model.predict(inputs, batch_size=chosen.batch, verbose=0)
        found[name] = measures(inputs, targets, plan)
    table = Table("map", *found["diagonal"], box=MARKDOWN)
    for name, numbers in found.items():
        table.add_row(name, *(f"{x:.3f}" for x in numbers.values()))
    Console(width=200).print(table)


if __name__ == "__main__":
    main()
