"""Random calls of every structure beside the reference: shapes, masks, forbidden parts, ties, scales
of scores from 0.1 to 1e4, temperatures from 1e-6 to 10, kinds of numbers.

The reference computes in float64 with the numbers that the sweeps see: the scores over the
temperature, in float32. On JAX and TensorFlow every new shape is compiled for seconds, so there
the tests run only when a number of calls is asked for (`make test-fuzz`), over a few shapes.
"""

import os

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_struct import ops
from keras_struct.ops import dispatch
from keras_struct.ops.testing import BACKEND, array, float64, tensor

COMPILED = BACKEND in ("jax", "tensorflow")
pytestmark = [
    pytest.mark.fuzz,
    pytest.mark.skipif(
        COMPILED and "FUZZ_EXAMPLES" not in os.environ, reason="compiles every new shape"
    ),
]
SCALES = (0.1, 1.0, 30.0, 1e3, 1e4)
TEMPERATURES = (1e-6, 1e-3, 0.1, 1.0, 3.7, 10.0)
DTYPES = ("float32", "float32", "float64", "bfloat16", "float16", "int32")
B = 2


class Draw:
    """What one call is made of.

    Attributes:
        rng: Source of all numbers.
        n, m, k: Two lengths, and a number of labels.
        scale: Size of the scores.
        kind: How scores are drawn: "normal", "ties" (few different ones), "forbidden" (some are
            minus infinity), "flat" (all the same).
        costs: Whether potentials are costs: forbidden ones are plus infinity then.
    """

    def __init__(self, seed, n, m, k, scale, kind, costs):
        self.rng = np.random.default_rng(seed)
        self.n, self.m, self.k = n, m, k
        self.scale, self.kind, self.costs = scale, kind, costs

    def scores(self, *shape, forbidden=True):
        x = self.rng.normal(size=shape)
        if self.kind == "ties":
            x = self.rng.integers(-1, 2, size=shape).astype("float64")
        elif self.kind == "flat":
            x = np.ones(shape)
        x = x * self.scale
        if self.kind == "forbidden" and forbidden:
            x[self.rng.random(shape) < 0.2] = np.inf if self.costs else -np.inf
        return x

    def gap(self, first, second):
        """A number for each example, per position of one sequence, of each pair, or one for all."""
        shapes = [(), (B,), (B, first), (B, first, second)]
        return self.scores(*shapes[self.rng.integers(len(shapes))], forbidden=False)

    def one_of(self, *values):
        return values[self.rng.integers(len(values))]


def _chain(d):
    transitions = d.one_of((d.k, d.k), (B, d.k, d.k), (B, max(d.n - 1, 0), d.k, d.k))
    ends = {"start": d.scores(d.k), "end": d.scores(d.k)} if d.one_of(True, False) else {}
    unary = d.scores(B, d.n, d.k)
    return {"unary": unary, "transitions": d.scores(*transitions), **ends}, {}, (d.n,)


def _semi_markov(d):
    longest = d.one_of(1, 2, d.n)
    segments = d.scores(B, d.n, longest, d.k)
    return {"segments": segments, "transitions": d.scores(d.k, d.k)}, {}, (d.n,)


def _ctc(d):
    labels = d.rng.integers(1, d.k + 1, size=(B, d.m))
    return {"log_probs": d.scores(B, d.n, d.k + 1)}, {"labels": labels}, (d.n, d.m)


def _gapped(adjacent):
    def draw(d):
        potentials = {"scores": d.scores(B, d.n, d.m)}
        for name in ("gap_open", "gap_extend")[: d.one_of(1, 2)]:
            potentials[name] = -abs(d.gap(d.n, d.m))
        options = {"adjacent_gaps": d.one_of("any", "none", "ordered")} if adjacent else {}
        return potentials, options, (d.n, d.m)

    return draw


def _lattice(name):
    return lambda d: ({name: d.scores(B, d.n, d.m)}, {}, (d.n, d.m))


def _dtw(d):
    return {"costs": d.scores(B, d.n, d.m)}, {"band": d.one_of(None, 1, 3)}, (d.n, d.m)


def _edit(*names):
    def draw(d):
        first, second = (d.rng.integers(0, 3, size=(B, size)) for size in (d.n, d.m))
        potentials = {"substitutions": d.scores(B, d.n, d.m)}
        potentials |= {name: abs(d.scores(forbidden=False)) for name in names}
        options = {}
        if names[2:] and names[-1] == "transposition":
            options = {"tokens": (first, second)}
        return potentials, options, (d.n, d.m)

    return draw


def _cky(d):
    potentials = {"spans": d.scores(B, d.n, d.n)}
    if d.one_of(True, False):
        potentials["labels"] = d.scores(B, d.n, d.n, d.k)
    if d.one_of(True, False):
        potentials["splits"] = d.scores(B, d.n, d.n, d.n)
    return potentials, {}, (d.n,)


def _arcs(d):
    potentials = {"arcs": d.scores(B, d.n, d.n)}
    if d.one_of(True, False):
        potentials["labels"] = d.scores(B, d.n, d.n, d.k)
    return potentials, {"single_root": d.one_of(True, False)}, (d.n,)


def _pcfg(d):
    symbols = 2 * d.k
    rules, terms = d.scores(B, d.k, symbols, symbols), d.scores(B, d.n, d.k)
    return {"rules": rules, "terms": terms, "roots": d.scores(B, d.k)}, {}, (d.n,)


def _osa(substitutions, tokens, **more):
    return ops.osa(substitutions, ops.adjacent_swaps(*tokens), **more)


def _damerau(substitutions, tokens, **more):
    return ops.damerau(substitutions, ops.transposition_sources(*tokens), **more)


# Of each structure, how its potentials, its options and the lengths of its sequences are drawn.
STRUCTURES = {
    "categorical": lambda d: ({"scores": d.scores(B, d.n)}, {}, (d.n,)),
    "linear_chain": _chain,
    "semi_markov": _semi_markov,
    "ctc": _ctc,
    "subset": lambda d: ({"scores": d.scores(B, d.n)}, {"k": d.one_of(0, 1, d.n // 2)}, (d.n,)),
    "needleman_wunsch": _gapped(True),
    "overlap": _gapped(True),
    "smith_waterman": _gapped(True),
    "saigo_vert": _gapped(False),
    "dtw": _dtw,
    "monotonic_alignment": _lattice("scores"),
    "levenshtein": _edit("deletion", "insertion"),
    "osa": _edit("deletion", "insertion", "transposition"),
    "damerau": _edit("deletion", "insertion", "transposition"),
    "lcs": _lattice("scores"),
    "cky": _cky,
    "nussinov": lambda d: ({"pairs": d.scores(B, d.n, d.n)}, {"min_loop": d.one_of(0, 1)}, (d.n,)),
    "eisner": _arcs,
    "pcfg": _pcfg,
    "spanning_tree": _arcs,
}
FUNCTIONS = {**{name: getattr(ops, name) for name in STRUCTURES}, "osa": _osa, "damerau": _damerau}
COSTS = ("dtw", "levenshtein", "osa", "damerau")


def test_every_structure_is_drawn():
    families = dispatch.structures().items()
    assert set(STRUCTURES) == {name for name, family in families if family != "transport"}


@pytest.mark.parametrize("name", STRUCTURES)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.sampled_from((4,) if COMPILED else (1, 2, 3, 4, 5)),
    m=st.sampled_from((3,) if COMPILED else (1, 2, 3, 4)),
    k=st.sampled_from((2,) if COMPILED else (1, 2, 3)),
    scale=st.sampled_from(SCALES),
    temperature=st.sampled_from(TEMPERATURES),
    kind=st.sampled_from(("normal", "ties", "forbidden", "flat")),
    dtype=st.sampled_from(DTYPES),
    padding=st.sampled_from((None, "lengths", "mask")),
    implementation=st.integers(0, 3),
)
def test_a_call(name, seed, n, m, k, scale, temperature, kind, dtype, padding, implementation):
    if dtype == "int32" and kind == "forbidden":
        kind = "normal"
    if dtype == "float16":
        scale = min(scale, 1e3)  # its largest number is 65,504
    draw = Draw(seed, n, m, k, scale, kind, name in COSTS)
    potentials, options, sizes = STRUCTURES[name](draw)
    kept = {key: value for key, value in options.items() if key == "labels"}
    given_ = {key: _rounded(x, dtype) for key, x in potentials.items()}
    masks = [_mask(draw, size, padding) for size in sizes]
    options = {**options, **_padding(padding, masks)}
    poisoned = _poisoned(given_, name, masks) if padding and dtype != "int32" else given_
    function = FUNCTIONS[name]

    def build(arrays, dtype, **more):
        tensors = {key: tensor(x, dtype) for key, x in arrays.items()}
        return function(**tensors, **options, **more)

    names = _takers(build, given_, dtype)
    chosen = names[implementation % len(names)]
    warmth = np.float32(temperature)
    d = build(poisoned, dtype, temperature=tensor(warmth, "float32"), implementation=chosen)
    with float64():
        wide = {key: _over(x, dtype, warmth) for key, x in given_.items()}
        exact = build(wide, "float64", implementation="reference")
        expected = _readouts(exact)
    _compare(d, exact, expected, warmth, name, dtype, sum(sizes))
    assert kept.keys() <= options.keys()


def _rounded(x, dtype):
    """The numbers that a tensor of this kind holds, in float64."""
    x = np.asarray(np.round(x) if dtype == "int32" else x)
    return array(keras.ops.convert_to_tensor(x, dtype)).astype("float64")


def _over(x, dtype, temperature):
    """What the sweeps see of potentials: over the temperature, in their precision."""
    if dtype == "float64":
        return x / np.float64(temperature)
    return (x.astype("float32") / temperature).astype("float64")


def _mask(draw, size, padding):
    """Booleans (B, size) of the positions that are there; right-padded for lengths."""
    if padding == "lengths":
        return np.arange(size) < draw.rng.integers(0, size + 1, size=(B, 1))
    return draw.rng.random((B, size)) < 0.7


def _padding(padding, masks):
    if padding is None:
        return {}
    given_ = [x.sum(1) if padding == "lengths" else x for x in masks]
    return {padding: given_[0] if len(given_) == 1 else tuple(given_)}


def _poisoned(arrays, name, masks):
    """The same with NaN wherever a first or second position of scores is not there."""
    poisoned = dict(arrays)
    key = next(iter(arrays))
    if name == "pcfg":
        key = "terms"
    x = np.array(arrays[key])
    square = name in ("cky", "nussinov", "eisner", "spanning_tree")
    along = [masks[0], masks[0]] if square else masks
    if name in ("ctc", "linear_chain", "semi_markov", "pcfg", "categorical", "subset"):
        along = masks[:1]
    for axis, mask in enumerate(along, start=1):
        shape = [1] * x.ndim
        shape[0], shape[axis] = mask.shape
        x = np.where(mask.reshape(shape), x, np.nan)
    poisoned[key] = x
    return poisoned


def _takers(build, arrays, dtype):
    """Implementations that take the call, without the oracle."""
    call = build(arrays, dtype).choice.call
    found = dispatch.candidates(call.family)
    entries = dispatch.implementations(call.op)
    return [x for x in entries if x != "reference" and found[x].rejects(call) is None]


def _readouts(d):
    return {
        "log_partition": array(d.log_partition()),
        "entropy": array(d.entropy()),
        "marginals": {key: array(x) for key, x in d.marginals("all").items()},
        "scores": array(d.topk(2).scores),
    }


def _compare(d, exact, expected, temperature, name, dtype, parts):
    """All readouts in float32 (float64) beside those of the reference."""
    exists = np.isfinite(expected["log_partition"])
    sign = -1 if d.structure.costs else 1
    size = 1 + np.max(np.abs(np.where(exists, expected["log_partition"], 0.0)))
    close = np.testing.assert_allclose
    found = array(d.log_partition())
    close(found, expected["log_partition"], rtol=2e-6, atol=2e-6 * size)
    close(array(d.value()), sign * temperature * found, rtol=1e-5, atol=1e-30)
    half = dtype in ("bfloat16", "float16", "int32")
    marginals = d.marginals("all")
    for key, x in expected["marginals"].items():
        shared = max(1, x.size and parts * B)  # what is shared is a sum over examples
        tolerance = 1e-4 if not half else 1e-2
        close(array(marginals[key]), x, rtol=tolerance, atol=tolerance * shared, err_msg=key)
    entropy = array(d.entropy())
    close(entropy[exists], expected["entropy"][exists], rtol=1e-3, atol=1e-3)
    scores = array(d.topk(2).scores)
    close(
        scores, sign * sign * expected["scores"] * temperature, rtol=1e-5, atol=1e-5 * size
    )
    with float64():
        best = np.where(exists, array(exact.score(_events(d.argmax()))), 0.0)
        top = np.where(exists, expected["scores"][0], 0.0)
        close(best, top, rtol=1e-6, atol=1e-6 * size)
        drawn = _events(d.sample(3, 2))
        log_prob = array(exact.log_prob(drawn))[:, exists]
    assert (log_prob > -40).all() and (log_prob < 1e-6).all()
    mine = array(d.log_prob(tensor(array(drawn), "int32")))[:, exists]
    close(mine, log_prob, rtol=1e-4, atol=1e-3)
    assert (mine <= 0).all()


def _events(event):
    return tensor(array(event), "int32")
