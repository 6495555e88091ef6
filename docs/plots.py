"""Draws `plots.png`, one picture of every kind that `keras_struct.layers.plots` has.

KERAS_BACKEND=torch python docs/plots.py
"""

from pathlib import Path

import keras
import numpy as np
from matplotlib.figure import Figure

from keras_struct import layers, ops
from keras_struct.layers import plots

TAGS = ["O", "B-DRUG", "I-DRUG", "B-DOSE", "I-DOSE"]
SENTENCES = [
    ("take two aspirin tablets daily", "O B-DOSE B-DRUG I-DRUG O"),
    ("no ibuprofen after surgery", "O B-DRUG O O"),
    ("give 5 mg morphine sulfate", "O B-DOSE I-DOSE B-DRUG I-DRUG"),
    ("take 10 mg daily", "O B-DOSE I-DOSE O"),
    ("morphine after surgery", "B-DRUG O O"),
]


def trained_tagger():
    """A CRF over embeddings, its vocabulary and the tags of five sentences."""
    keras.utils.set_random_seed(0)
    words = sorted({word for text, _ in SENTENCES for word in text.split()})
    x, y = np.zeros((len(SENTENCES), 5), "int32"), np.zeros((len(SENTENCES), 5), "int32")
    for row, (text, tags) in enumerate(SENTENCES):
        for column, (word, tag) in enumerate(zip(text.split(), tags.split(), strict=True)):
            x[row, column], y[row, column] = words.index(word) + 1, TAGS.index(tag)
    crf = layers.CRF(len(TAGS), constraints=layers.tag_constraints(TAGS))
    model = keras.Sequential([keras.layers.Embedding(len(words) + 1, 8, mask_zero=True), crf])
    model.compile(keras.optimizers.Adam(0.1), layers.StructuredNLL())
    model.fit(x, y, epochs=30, verbose=0)
    return model, crf, x


def main():
    figure = Figure(figsize=(11, 6), dpi=110, layout="constrained")
    (first, second, third), (fourth, fifth, sixth) = figure.subplots(2, 3)
    model, crf, x = trained_tagger()
    plots.transitions(crf, TAGS, ax=first).set_title("transitions of a CRF, grey: forbidden")
    first.tick_params(axis="x", rotation=45)
    chain = layers.unpack(model(x[:1])).distribution()
    tokens = SENTENCES[0][0].split()
    plots.tag_marginals(chain.marginals()[0], tokens, TAGS, chain.argmax()[0], ax=second)
    second.set_title("tags of a sentence")
    a, b = "GATTACAGA", "GATCACCAGA"
    scores = np.array([[[2.0 if p == q else -1.0 for q in b] for p in a]], "float32")
    d = ops.needleman_wunsch(scores, gap_open=-2.0, gap_extend=-1.0, temperature=0.7)
    plots.alignment(d.marginals()[0], d.argmax()[0], a, b, ax=third).set_title("an alignment")
    head = layers.Aligner(
        "needleman_wunsch",
        gaps=layers.GapPenalties(-2.0, -0.5, contextual=True, kernel_initializer="normal"),
    )
    rng = np.random.default_rng(0)
    potentials = layers.unpack(head(*[rng.normal(size=(1, n, 4)) for n in (6, 8)]))
    plots.gaps(potentials, ax=fourth).set_title("scores of gaps")
    words = ["the", "new", "drug", "stops", "the", "pain"]
    plots.dependency_tree([3, 3, 4, 0, 6, 4], words, ax=fifth).set_title("a dependency tree")
    spans = [(0, 6, "S"), (0, 3, "NP"), (3, 6, "VP"), (4, 6, "NP")]
    names = sorted({name for *_, name in spans})
    numbers = [(start, end, names.index(name)) for start, end, name in spans]
    plots.constituency_tree(numbers, words, names, ax=sixth).set_title("a constituency tree")
    figure.savefig(Path(__file__).with_suffix(".png"))


if __name__ == "__main__":
    main()
