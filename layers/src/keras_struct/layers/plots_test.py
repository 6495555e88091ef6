"""What pictures show is what they were given."""

import numpy as np
import pytest

from keras_struct import layers
from keras_struct.layers import plots
from keras_struct.ops.testing import array

matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed")
matplotlib.use("agg")
NAMES = ["O", "B-X", "I-X"]


@pytest.fixture(autouse=True)
def _close():
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


def shown(ax):
    """The numbers of a heat map, NaN where there are none, and the names beside it."""
    image = np.ma.filled(ax.images[0].get_array().astype("float64"), np.nan)
    beside = ax.get_yticklabels(), ax.get_xticklabels()
    rows, columns = ([label.get_text() for label in labels] for labels in beside)
    return image, rows, columns


def test_transitions():
    crf = layers.CRF(
        3, constraints=layers.tag_constraints(NAMES), transition_initializer="normal", use_end=False
    )
    crf.build((None, None, 2))
    image, rows, columns = shown(plots.transitions(crf, NAMES))
    assert (rows, columns) == (["start", *NAMES], [*NAMES, "end"])
    expected = np.where(crf.constraints.transitions, array(crf.transitions), np.nan)
    np.testing.assert_allclose(image[1:, :3], expected, rtol=1e-6)
    np.testing.assert_allclose(image[0, :2], array(crf.start)[:2], rtol=1e-6)
    assert np.isnan(image[0, 2:]).all()
    np.testing.assert_array_equal(image[1:, 3], 0)
    assert shown(plots.transitions(crf))[1][1] == "0"


def test_marginals_and_alignments():
    p = np.random.default_rng(0).dirichlet(np.ones(3), 4)
    ax = plots.tag_marginals(p, "abcd", NAMES, tags=[0, 2, -1, 1])
    image, rows, columns = shown(ax)
    np.testing.assert_allclose(image, p.T)
    assert (rows, columns) == (NAMES, list("abcd"))
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), [[0, 0], [1, 2], [3, 1]])
    ax = plots.alignment(p, path=[[0, 0], [1, 1], [2, 1], [4, 3], [-1, -1]])
    np.testing.assert_allclose(shown(ax)[0], p)
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), [-0.5, 0.5, 0.5, 2.5])
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), [-0.5, 0.5, 1.5, 3.5])
    with pytest.raises(ValueError, match=r"shape of matched=\(1, 4, 3\)"):
        plots.alignment(p[None])
    with pytest.raises(ValueError, match=r"Expected 4 names\. Received: 2"):
        plots.tag_marginals(p, tokens="ab")


def test_gaps():
    scores = np.zeros((2, 3, 2), "float32")
    rows, columns = np.array([[[-1.0], [-2.0], [-3.0]]] * 2), np.array([[[-4.0, -5.0]]] * 2)
    lengths = (np.array([3, 2]), np.array([2, 2]))
    potentials = layers.AlignmentPotentials(scores, (rows, columns), -0.5, lengths)
    ax = plots.gaps(potentials, example=1)
    lines = {line.get_label(): line.get_ydata().tolist() for line in ax.lines}
    assert lines["open, second sequence"] == [-4.0, -5.0]
    assert lines["open, first sequence"][:2] == [-1.0, -2.0]
    assert np.isnan(lines["open, first sequence"][2])
    assert lines["extend, second sequence"] == [-0.5, -0.5]
    unpacked = layers.unpack(layers.pack(potentials._replace(gap_extend=None)))
    assert len(plots.gaps(unpacked).lines) == 2


def test_trees():
    words = ["she", "reads", "books"]
    ax = plots.dependency_tree([[2, 0], [0, 1], [2, 2], [-1, -1]], words, ["subj", "top", "obj"])
    arcs = [line.get_xdata() for line in ax.lines if len(line.get_xdata()) > 1]
    ends = sorted(tuple(sorted(arc[[0, -1]])) for arc in arcs)
    np.testing.assert_allclose(ends, [(0, 1), (1, 2)], atol=1e-9)
    assert [text.get_text() for text in ax.texts if text.get_text()] == ["subj", "top", "obj"]
    assert [label.get_text() for label in ax.get_xticklabels()] == words
    spans = [[0, 3, 0], [1, 3, 1], [0, 1, 2], [1, 2, 2], [2, 3, 2], [-1, -1, -1]]
    ax = plots.constituency_tree(spans, words, ["S", "VP", ""])
    heights = [max(line.get_ydata()) for line in ax.lines]
    assert [(text.get_text(), h) for text, h in zip(ax.texts, heights, strict=True)] == [
        ("VP", 1),
        ("S", 2),
    ]
