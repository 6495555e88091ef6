"""Packed potentials: what goes in comes out, the format is fixed, and nothing else is taken."""

import keras
import numpy as np
import pytest

from keras_struct.layers.alignment_cross_entropy import AlignmentCrossEntropy
from keras_struct.layers.packed import (
    LAYOUTS,
    Header,
    header,
    pack,
    packed_spec,
    scores_spec,
    unpack,
)
from keras_struct.layers.potentials import AlignmentPotentials, ChainPotentials, TreePotentials
from keras_struct.layers.structured_decoder import StructuredDecoder
from keras_struct.layers.structured_nll import StructuredNLL
from keras_struct.ops.testing import float64, tensor

# The codes of saved outputs: rows may be added, none may change.
CODES: list[tuple[str, list[dict]]] = [
    ("linear_chain", [{}]),
    ("semi_markov", [{}]),
    ("cky", [{}]),
    ("eisner", [{"single_root": True}, {"single_root": False}]),
    ("spanning_tree", [{"single_root": True}, {"single_root": False}]),
    *[
        (
            name,
            [
                {"gaps": gaps, "adjacent_gaps": adjacent}
                for adjacent in ("any", "none", "ordered")
                for gaps in ("affine", "linear")
            ],
        )
        for name in ("smith_waterman", "needleman_wunsch", "overlap")
    ],
    ("saigo_vert", [{"gaps": gaps, "adjacent_gaps": "ordered"} for gaps in ("affine", "linear")]),
]
SHARED = ("transitions", "start", "end")
EVERY = [
    (code, option) for code, (_, options) in enumerate(CODES) for option in range(len(options))
]


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def numpy(x):
    return keras.ops.convert_to_numpy(x)


def potentials_of(code, option, batch=2, n=4, k=3):
    """Potentials of a layout, with everything that it can hold."""
    structure, options = CODES[code][0], CODES[code][1][option]
    lengths = np.arange(batch) % (n + 1)
    if structure in ("linear_chain", "semi_markov"):
        inner = (k,) if structure == "linear_chain" else (2, k)
        return ChainPotentials(
            random(batch, n, *inner), random(k, k, seed=1), random(k), random(k, seed=2), lengths
        )
    if structure in ("cky", "eisner", "spanning_tree"):
        return TreePotentials(random(batch, n, n, k), lengths, structure, **options)
    gaps = [(random(batch, n, 1, seed=s), random(batch, 1, n + 1, seed=s)) for s in (1, 2)]
    return AlignmentPotentials(
        random(batch, n, n + 1),
        gaps[0],
        None if options["gaps"] == "linear" else gaps[1],
        (lengths, lengths[::-1]),
        np.linspace(0.5, 1, batch).astype("float32"),
        structure,
        options["adjacent_gaps"],
    )


def same(actual, expected):
    for name, x in expected._asdict().items():
        y = getattr(actual, name)
        if x is None or isinstance(x, str | bool):
            assert x == y, name
        else:
            for a, b in zip(keras.tree.flatten(y), keras.tree.flatten(x), strict=True):
                np.testing.assert_array_equal(numpy(a), b, err_msg=name)


def test_the_codes_of_saved_outputs_never_change():
    found = [(layout.structure, list(layout.options)) for layout in LAYOUTS]
    assert found[: len(CODES)] == CODES


@pytest.mark.parametrize("code, option", EVERY)
def test_what_goes_in_comes_out(code, option):
    """With all sizes, none of anything included, by shape and by the numbers in the header."""
    for batch, n, k in ((2, 4, 3), (3, 1, 1), (2, 1, 1), (0, 3, 2), (2, 0, 2), (1, 0, 1)):
        potentials = potentials_of(code, option, batch, n, k)
        packed = pack(potentials)
        if batch == 0 and isinstance(potentials, ChainPotentials):  # no example holds them
            potentials = potentials._replace(**{x: 0 * getattr(potentials, x) for x in SHARED})
        same(unpack(packed), potentials)
        same(unpack(numpy(packed), type(potentials)), potentials)
        name, options = CODES[code][0], CODES[code][1][option]
        assert header(packed) == Header(1, name, options)
        first = numpy(packed)[(slice(None), *[0] * (len(packed.shape) - 1))]
        assert (first == 10_000 + 100 * code + option).all()
        spec = packed_spec(name, options, potentials.scores.shape, "float32")
        assert tuple(spec.shape) == tuple(packed.shape)
        scores, said = scores_spec(spec, type(potentials))
        assert (tuple(scores.shape), said.structure) == (potentials.scores.shape, name)


@pytest.mark.parametrize("code, option", EVERY)
def test_unknown_sizes_in_a_compiled_model(code, option):
    """The structure is known while the graph is traced, whatever batch and length are."""
    potentials = potentials_of(code, option)
    name, options = CODES[code][0], CODES[code][1][option]
    known = len(potentials.scores.shape) - (2 if code in (0, 1) else 3)
    unknown = (None,) * (len(potentials.scores.shape) - known)
    shape = (*unknown, *potentials.scores.shape[len(unknown) :])
    spec = packed_spec(name, options, shape, "float32")
    scores, said = scores_spec(spec, type(potentials))
    assert (tuple(scores.shape), said) == (shape, Header(1, name, options))
    inputs = keras.Input(spec.shape[1:])
    model = keras.Model(inputs, _Scores(type(potentials))(inputs))
    for n in (4, 2):
        potentials = potentials_of(code, option, n=n)
        found = model.predict(numpy(pack(potentials)), verbose=0)
        np.testing.assert_array_equal(found, potentials.scores)


class _Scores(keras.layers.Layer):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def call(self, inputs):
        return unpack(inputs, self.kind).scores

    def compute_output_spec(self, inputs):
        return scores_spec(inputs, self.kind)[0]


def test_the_border_costs_little():
    for code in range(len(CODES)):
        potentials = potentials_of(code, 0, n=40, k=8)
        size = numpy(pack(potentials)).size
        assert size < 1.3 * potentials.scores.size, CODES[code][0]


def test_defaults():
    chain = unpack(pack(ChainPotentials(random(2, 4, 3), np.zeros((3, 3)))))
    assert numpy(chain.lengths).tolist() == [4, 4]
    assert not numpy(chain.start).any() and not numpy(chain.end).any()
    trees = unpack(pack(TreePotentials(random(2, 4, 4, 3))))
    assert numpy(trees.lengths).tolist() == [4, 4]
    alignment = unpack(pack(AlignmentPotentials(random(2, 4, 2), (-1.0, -2.0), np.array([1, 2]))))
    assert [numpy(n).tolist() for n in alignment.lengths] == [[4, 4], [2, 2]]
    assert numpy(alignment.gap_open[0]).tolist() == [[[-1.0]] * 4] * 2
    assert numpy(alignment.gap_open[1]).tolist() == [[[-2.0] * 2]] * 2
    assert numpy(alignment.gap_extend[0])[:, 0, 0].tolist() == [1, 2]
    assert numpy(alignment.temperature).tolist() == [1, 1]
    # Two numbers in a list are those of two examples.
    listed = unpack(pack(AlignmentPotentials(random(2, 4, 2), [-1.0, -2.0])))
    assert numpy(listed.gap_open[0])[:, 0, 0].tolist() == [-1, -2]


@pytest.mark.parametrize("code", range(len(CODES)))
def test_a_mask_comes_out(code):
    """Behind it is only a length, with the bytes of one; else it takes no more room."""
    potentials = potentials_of(code, 0, batch=3)
    pair = isinstance(potentials, AlignmentPotentials)
    masks = np.array([[0, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]], bool)
    behind = np.array([[1, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]], bool)

    def packed(mask):
        given = (mask, np.pad(mask, [(0, 0), (1, 0)], mode="edge")) if pair else mask
        return pack(potentials._replace(lengths=None, mask=given))

    found = unpack(packed(masks)).mask
    for mask in found if pair else (found,):
        np.testing.assert_array_equal(numpy(mask)[:, -4:], masks)
    as_mask, lengths = unpack(packed(behind)), behind.sum(1)
    assert as_mask.mask is None
    both = (lengths, lengths + behind[:, 0]) if pair else lengths
    as_lengths = pack(potentials._replace(lengths=both))
    np.testing.assert_array_equal(numpy(packed(behind)), numpy(as_lengths))
    combined = potentials._replace(lengths=both, mask=(behind, None) if pair else masks)
    expected = behind if pair else masks & behind
    positions = unpack(pack(combined)).positions()
    np.testing.assert_array_equal(numpy(positions[0] if pair else positions), expected)


def test_double_precision_stays():
    with float64():
        packed = pack(ChainPotentials(tensor(random(2, 4, 3).astype("float64")), np.eye(3) / 3))
        assert keras.backend.standardize_dtype(packed.dtype) == "float64"
        np.testing.assert_array_equal(numpy(unpack(packed).transitions), np.eye(3) / 3)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: unpack(np.ones((2, 7), "float32")), r"Received: shape=\(2, 7\)"),
        (lambda: unpack(np.ones((2, 1, 1, 1), "float32")), r"Received: shape=\(2, 1, 1, 1\)"),
        (
            lambda: unpack(np.ones((2, 9, 3), "float32")),
            r"begin with 10000.*Received: \[1.0, 1.0\]",
        ),
        (lambda: unpack(np.ones((2, 3, 3), "float32")), r"Received: shape=\(2, 3, 3\)"),
        (lambda: unpack(np.ones((2, 9, 3), "float16")), "dtype=float16"),
        (lambda: header(np.zeros((2, 9, 3), "float32")), "begin with 10000"),
        (lambda: unpack(pack(potentials_of(3, 1)), ChainPotentials), "'semi_markov'.. Received"),
        (lambda: unpack(pack(potentials_of(3, 0))[:, 0]), "begin with 10200"),
        (
            lambda: unpack(numpy(pack(potentials_of(6, 1)))[:, :, :, :, :, :, :, 1:]),
            "begin with 10601",
        ),
        (lambda: StructuredNLL()(np.zeros((2, 4)), pack(potentials_of(2, 0))), "'linear_chain'"),
        (lambda: StructuredDecoder()(pack(potentials_of(5, 0))), "'linear_chain'"),
        (
            lambda: AlignmentCrossEntropy()(np.zeros((2, 4, 2)), pack(potentials_of(0, 0))),
            "'smith_waterman'",
        ),
        (lambda: pack(TreePotentials(random(2, 4, 4, 3), structure="dag")), "structure='dag'"),
        (lambda: pack(TreePotentials(random(2, 4, 4))), r"\(B, N, N, K\).*shape=\(2, 4, 4\)"),
        (lambda: pack(ChainPotentials(random(4, 3), np.zeros((3, 3)))), r"shape=\(4, 3\)"),
        (lambda: pack(AlignmentPotentials(random(4, 3), -1.0)), r"shape=\(4, 3\)"),
        (
            lambda: pack(
                AlignmentPotentials(
                    random(2, 4, 3), -1.0, structure="saigo_vert", adjacent_gaps="any"
                )
            ),
            "adjacent_gaps='any'",
        ),
    ],
)
def test_user_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
