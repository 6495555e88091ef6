"""Random calls of every structure beside the reference: shapes, masks, forbidden parts, ties,
scales of scores from 0.1 to 1e4, temperatures from 1e-6 to 10, kinds of numbers.

The reference computes in float64 with the numbers that the sweeps see: the scores over the
temperature, in float32. On JAX and TensorFlow every new shape is compiled for seconds, so there
the tests run only when a number of calls is asked for (`make test-fuzz`), over a few shapes.
"""

import contextlib
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_struct import ops
from keras_struct.ops import dispatch
from keras_struct.ops.numerics import INFEASIBLE
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
        shapes = [(), (B,), (B, first, 1), (B, 1, second), (B, first, second)]
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
        tokens = {"tokens": (first, second)} if "transposition" in names else {}
        return potentials, tokens, (d.n, d.m)

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
    k, n = min(d.k, 2), min(d.n, 4)  # its reference takes seconds for more
    rules, terms = d.scores(B, k, 2 * k, 2 * k), d.scores(B, n, k)
    return {"rules": rules, "terms": terms, "roots": d.scores(B, k)}, {}, (n,)


def _osa(substitutions, tokens, mask=None, **more):
    first, second = tokens
    swaps = ops.adjacent_swaps(first, second, mask)
    return ops.osa(substitutions, swaps, mask=mask, **more)


def _damerau(substitutions, tokens, mask=None, **more):
    first, second = tokens
    sources = ops.transposition_sources(first, second, mask)
    return ops.damerau(substitutions, sources, mask=mask, **more)


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
    potentials = {key: np.round(x) if dtype == "int32" else x for key, x in potentials.items()}
    masks = [_mask(draw, size, padding) for size in sizes]
    options |= _padding(padding, masks)
    if padding and dtype != "int32":
        potentials = _poisoned(potentials, name, masks)
    tensors = {key: tensor(x, dtype) for key, x in potentials.items()}
    warmth = tensor(np.float32(temperature), "float32")

    def build(implementation=None):
        function = FUNCTIONS[name]
        return function(**tensors, **options, temperature=warmth, implementation=implementation)

    names = _takers(build().choice.call)
    with float64() if dtype == "float64" else contextlib.nullcontext():
        _compare(build(names[implementation % len(names)]), lambda: build("reference"))


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


def _takers(call):
    """Implementations that take the call, without the oracle."""
    found = dispatch.candidates(call.family)
    entries = dispatch.implementations(call.op)
    return [x for x in entries if x != "reference" and found[x].rejects(call) is None]


def _compare(d, reference):
    """All readouts beside those of the reference for what the sweeps see: the potentials over the
    temperature, in the precision of the call."""
    wide = [array(x).astype("float64") for x in d._problem.potentials]
    scores = [np.where(abs(x) < -INFEASIBLE, abs(x), 0.0) for x in wide]
    size = 1 + max(np.max(x, initial=0.0) for x in scores)
    with float64():
        exact = reference()
        problem = d._problem.replace(potentials=tuple(tensor(x) for x in wide))
        exact.__dict__["_problem"] = problem
        log_partition = array(exact._log_partition)
        expected = {key: array(x) for key, x in exact._named(exact._marginals).items()}
        entropy = array(exact.entropy()).reshape(-1)
        ranked = array(exact._score(exact._flat_event(exact.topk(2).events)[0], 2))
    exists = log_partition > INFEASIBLE
    # Messages of chains and alignments are exact sums. Others round them once, as labels are before
    # they are summed: where the last digit of a score counts, so does this.
    precision = np.finfo(str(d.structure.compute)).eps
    paths = d.structure.family in ("chain", "alignment")
    lost = 3e-11 * size if paths else 50 * precision * size
    # An entropy is a difference of sums that are as large as the scores, the reference's, too.
    rounded = 25 * precision * size + 2.0**-44 * size**2
    close = np.testing.assert_allclose
    found = array(d.log_partition()).reshape(-1)
    close(found[exists], log_partition[exists], rtol=2e-6, atol=2e-5 + 30 * precision * size)
    assert (found[~exists] == -np.inf).all()
    for key, x in d._named(d._marginals).items():
        x, y = array(x), expected[key]
        assert np.isfinite(x).all() and (x >= 0).all() and (lost > 1 or (x[y == 0] < 1e-4).all())
        if lost < 1:
            close(x, y, rtol=1e-4, atol=1e-5 + lost + 1e-4 * np.max(y, initial=0.0), err_msg=key)
    found = array(d.entropy()).reshape(-1)
    assert (found >= 0).all()
    close(found[exists], entropy[exists], rtol=1e-3, atol=1e-3 + lost + rounded)
    with float64():
        best = array(exact._score(exact._flat_event(_integers(d.argmax()))[0]))
        drawn = d.sample(3, 2)
        log_prob = array(exact.log_prob(_integers(drawn))).reshape(2, -1)[:, exists]
    close(best[exists], ranked[0][exists], rtol=1e-6, atol=1e-6)
    assert (log_prob > -40 - lost).all()
    mine = array(d.log_prob(drawn)).reshape(2, -1)[:, exists]
    assert (mine <= 0).all()
    if lost < 1:
        close(mine, log_prob, rtol=1e-4, atol=1e-3 + lost)
    top = d.topk(2)
    with float64():
        second = array(exact._score(exact._flat_event(_integers(top.events))[0], 2))
    possible = ranked > INFEASIBLE
    close(second[possible], ranked[possible], rtol=1e-6, atol=1e-6 + 10 * precision * size)


def _integers(event):
    return tensor(array(event), "int32")
