"""The laws that every structure obeys, as tests: enumeration, reference, gradients, conventions.

A test module of a structure reads

    @pytest.mark.parametrize("case", for_backend(CASES), ids=str)
    class TestLinearChain(StructureLaws): ...

and its `cases.py` lists named cases. `for_backend` runs each of them through every implementation
that takes it, so that a new one inherits all laws. They compare numbers in float64, and once more
in float32.
"""

import dataclasses
import functools
from collections.abc import Callable

import keras
import numpy as np
import pytest
from keras import ops as K

from keras_struct.ops import dispatch
from keras_struct.ops.array import where
from keras_struct.ops.testing import (
    BACKEND,
    EVERY_CASE,
    HAS_GRADIENTS,
    array,
    compilers,
    directional,
    fast,
    float64,
    grad,
    tensor,
)

COMPILED = BACKEND in ("jax", "tensorflow")
# One structure of each engine, for what a backend compiles for seconds.
ENGINES = (
    "categorical", "linear_chain", "subset", "needleman_wunsch", "damerau", "eisner", "pcfg",
    "spanning_tree",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Case:
    """A named input of a structure, small enough to enumerate.

    Attributes:
        name: Unique name.
        build: `build(potentials, **options)` -> `Distribution`, from a dict of tensors; options
            are `temperature` and `implementation`. Laws call `make`.
        potentials: Function of a NumPy generator that makes the dict of float64 arrays.
        padding: Function that returns, for each potential that has padding, a boolean array, True
            where the value must not matter.
        core: Whether the laws run on JAX and TensorFlow too, where each compiles for seconds.
        ties: Whether several structures are best.
        static: How many trailing axes of each potential must be known while tracing (none where
            it is not named); None if all axes must be.
    """

    name: str
    build: Callable
    potentials: Callable
    padding: Callable = dict
    core: bool = False
    ties: bool = False
    static: dict[str, int] | None = dataclasses.field(default_factory=dict)
    implementation: str | None = None

    def __str__(self):
        return self.name if self.implementation is None else f"{self.name}-{self.implementation}"

    def make(self, potentials, **options):
        """`build`, by the implementation of this case unless another one is asked for."""
        return self.build(potentials, **{"implementation": self.implementation, **options})

    def arrays(self, seed=0):
        return self.potentials(np.random.default_rng(seed))

    def distribution(self, arrays=None, dtype="float64", **options):
        arrays = self.arrays() if arrays is None else arrays
        return self.make({k: tensor(x, dtype) for k, x in arrays.items()}, **options)

    def call(self):
        """The facts of a call of this case in float32; on JAX without compiling anything."""
        if BACKEND != "jax":
            return self.build(
                {k: tensor(x, "float32") for k, x in self.arrays().items()}
            ).choice.call
        import jax

        found = []

        def build(potentials):
            found.append(self.build(potentials).choice.call)

        shapes = {k: jax.ShapeDtypeStruct(x.shape, "float32") for k, x in self.arrays().items()}
        jax.eval_shape(build, shapes)
        return dataclasses.replace(found[0], traced=False)

    def program(self, readouts, dtype="float64", **options):
        """One compiled function of potentials and temperature: NumPy results of
        `readouts(distribution)`, a tree of tensors."""
        names = list(self.arrays())

        def run(temperature, *args):
            warmth = {} if temperature is None else {"temperature": temperature}
            return readouts(self.make(dict(zip(names, args, strict=True)), **warmth, **options))

        compiled = fast(run)

        def call(arrays=None, temperature=None):
            arrays = self.arrays() if arrays is None else arrays
            warmth = None if temperature is None else tensor(temperature, dtype)
            results = compiled(warmth, *[tensor(arrays[name], dtype) for name in names])
            return keras.tree.map_structure(array, results)

        return call

    def read(self, readouts, arrays=None, dtype="float64", **options):
        """The results of one call of a `program`."""
        return self.program(readouts, dtype, **options)(arrays)

    def exists(self):
        """Which examples have any object at all, in the user's batch shape."""
        with float64():
            d = self.distribution()
            exists = np.array([bool(objects) for objects in enumeration(d)])
            return exists.reshape([int(size) for size in d.structure.batch_shape])


def for_backend(cases):
    """Every case through every implementation that takes it on the active backend.

    JAX and TensorFlow compile each law of a case for seconds: there all laws run on the core cases
    of a structure of each engine, and `ReadoutLaws` on what is left, see `others`.
    """
    return [
        dataclasses.replace(case, implementation=name)
        for case in cases
        for name in (implementations_of(case)[:1] if COMPILED else implementations_of(case))
        if _has_all_laws(case)
    ]


def others(cases):
    """What `for_backend` leaves out: core cases through every implementation, and other cases."""
    if not COMPILED:
        return []
    core = [
        dataclasses.replace(case, implementation=name)
        for case in cases
        if case.core
        for name in implementations_of(case)[1 if _has_all_laws(case) else 0 :]
    ]
    return core + [
        dataclasses.replace(case, implementation=implementations_of(case)[0])
        for case in cases
        if not case.core
    ]


def _has_all_laws(case):
    return not COMPILED or (case.core and (EVERY_CASE or case.call().op in ENGINES))


def implementations_of(case):
    """Names of the implementations that take a case, without the oracle."""
    call = case.call()
    entries = dispatch.implementations(call.op)
    found = dispatch.candidates(call.family)
    return [n for n in entries if n != "reference" and found[n].rejects(call) is None]


def _takes_unknown_sizes(case):
    call = case.call()
    return _takes(case, shapes=tuple((None,) * len(x) for x in call.shapes))


def _takes(case, **facts):
    """Whether the implementation of a case takes a call of which some facts are others."""
    call = case.call()
    call = dataclasses.replace(call, **facts)
    return dispatch.candidates(call.family)[case.implementation].rejects(call) is None


def oracle(d):
    """The reference implementation of a distribution, and its problem."""
    return dispatch.candidates(d.structure.family)["reference"], d._problem


def enumeration(d):
    """All objects of every example, by the reference: lists of (event, score, parts)."""
    reference, problem = oracle(d)
    reference = reference.of(problem.spec) if hasattr(reference, "of") else reference
    examples = list(reference.enumerate(problem))
    if d.structure.places is None:
        return examples
    return _as_given(d, examples)


def _as_given(d, examples):
    """The same with the positions of events where a mask has them."""
    most = max(len(objects) for objects in examples)
    first = next((o[0][0] for o in examples if o), np.zeros(()))
    blank = np.full_like(first, -1)
    for i in range(most):
        events = [o[i][0] if i < len(o) else blank for o in examples]
        given = array(d._as_given_event(tensor(np.stack(events), "int32")))
        for b, objects in enumerate(examples):
            if i < len(objects):
                objects[i] = (np.asarray(given[b]), *objects[i][1:])
    return examples


def _logsumexp(x):
    return np.max(x) + np.log(np.sum(np.exp(x - np.max(x)))) if len(x) else -np.inf


def _flat(x, d, prefix=0):
    rank = len(d.structure.batch_shape)
    return x.reshape(*x.shape[:prefix], -1, *x.shape[prefix + rank :])


def _probabilities(objects):
    scores = np.array([s for _, s, _ in objects])
    return np.exp(scores - _logsumexp(scores)) if len(scores) else scores


close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9)


class StructureLaws:
    """Inherit, parametrise with cases, run."""

    temperature = 0.7
    xla_gradients = (
        True  # whether the test that compiles under TensorFlow compiles gradients by XLA
    )

    def test_readouts_equal_enumeration(self, case):
        """Value, marginals, entropy, best, k best, curvature, samples, and the log-probability of
        each event."""
        number = 300 if COMPILED else 1500
        with float64():
            d = case.distribution(temperature=self.temperature)
            listed = enumeration(d)
            events, count = _events(listed, d)
            enumerated = Enumerated(listed, self.temperature)

            def readouts(d):
                samples = d.sample(3, number)
                return {
                    **enumerated.readouts(d),
                    "samples": samples,
                    "sampled": d.log_prob(samples),
                    "listed": d.log_prob(events) if count else d.value(),
                }

            got = case.read(readouts, temperature=self.temperature)
            hard = case.read(lambda d: d.value(), temperature=0)
            enumerated.check(got, d)
        sign = -1 if d.structure.costs else 1
        for b, objects in enumerate(listed):
            best = max((s for _, s, _ in objects), default=0.0)
            close(_flat(hard, d)[b], sign * (self.temperature * best if objects else -np.inf))
            p = _probabilities(objects)
            self._check_samples(_flat(got["sampled"], d, 1)[:, b], got["samples"], d, p, b)
            if count:
                found = _flat(got["listed"], d, 1)[: len(p), b]
                np.testing.assert_allclose(found, np.log(p)[:count], atol=1e-9)

    def _check_samples(self, log_prob, samples, d, p, b):
        if not len(p):
            assert (_flat(samples, d, 1)[:, b] == -1).all()
            return
        assert np.isfinite(log_prob).all()
        n = len(log_prob)
        # Mean log-probability against minus the entropy, then the frequency of the best: 5 sigma.
        mean = np.sum(p * np.log(p))
        deviation = np.sqrt(np.sum(p * (np.log(p) - mean) ** 2) / n)
        assert abs(log_prob.mean() - mean) < 5 * deviation + 1e-6
        top = np.log(p) > np.log(p.max()) - 1e-6
        mass = min(p[top].sum(), 1.0)
        hits = np.mean(log_prob > np.log(p.max()) - 1e-6)
        assert abs(hits - mass) < 5 * np.sqrt(mass * (1 - mass) / n) + 1e-6

    def test_named_marginals_are_the_derivative_of_the_value(self, case):
        _not_compiled()
        with float64():
            arrays, exists = case.arrays(), case.exists()
            names = list(arrays)
            marginals = case.read(lambda d: d.marginals("all"), temperature=self.temperature)
            assert sorted(marginals) == sorted(names)

            def value(*args):
                d = case.make(dict(zip(names, args, strict=True)), temperature=self.temperature)
                return K.sum(where(tensor(exists, "bool"), d.value(), 0.0))

            value, rng = fast(value), np.random.default_rng(1)
            for name in names:
                directions = [rng.normal(size=x.shape) * (k == name) for k, x in arrays.items()]
                args = [tensor(x) for x in arrays.values()]
                numeric = directional(value, args, [tensor(x) for x in directions])
                exact = np.sum(marginals[name] * directions[names.index(name)])
                np.testing.assert_allclose(exact, numeric, rtol=1e-6, atol=1e-7, err_msg=name)

    def test_readouts_and_curvature_equal_the_reference(self, case):
        _not_compiled()
        with float64():
            rng = np.random.default_rng(2)
            slow = case.distribution(implementation="reference", temperature=self.temperature)
            _, problem = oracle(slow)
            fast_ = case.read(
                lambda d: (d.value(), d.entropy(), d.marginals("all"), d.topk(3).scores),
                temperature=self.temperature,
            )
            close(fast_[0], array(slow.value()))
            close(fast_[1], array(slow.entropy()))
            for name, x in slow.marginals("all").items():
                close(fast_[2][name], array(x), err_msg=name)
            close(fast_[3], array(slow.topk(3).scores))
            best = array(slow.score(slow.argmax()))
            close(best, array(slow.topk(1).scores)[0])
            assert array(slow.sample(0, 2)).shape[0] == 2
            # Canonical no-ops of the padding are no parts of the reference: no tangent there.
            used = [array(x) > 0 for x in slow._marginals]
            tangents = [tensor(np.where(u, rng.normal(size=u.shape), 0.0)) for u in used]
            curvature = case.read(
                lambda d: d._sweeps.curvature(d._problem, d._soft[1], tuple(tangents)),
                temperature=self.temperature,
            )
            expected = slow._sweeps.curvature(problem, slow._soft[1], tuple(tangents))
            for x, y, u in zip(curvature, expected, used, strict=True):
                np.testing.assert_allclose(x[u], array(y)[u], rtol=1e-8, atol=1e-9)

    def test_samples_are_those_of_portable(self, case):
        """The same noise at the same places: the same samples, but for what rounding decides."""
        if case.implementation == "portable":
            pytest.skip("this is portable")
        with float64():
            mine, theirs = (
                case.read(lambda d: d.sample(5, 60), temperature=0.7, **options)
                for options in ({}, {"implementation": "portable"})
            )
        assert np.mean(mine == theirs) > 0.999

    def test_gradients_by_name(self, case):
        """Value, entropy and marginals: first and second derivatives, temperature included."""
        if not HAS_GRADIENTS:
            pytest.skip("the NumPy backend has no gradients")
        with float64():
            rng = np.random.default_rng(4)
            arrays, exists = case.arrays(), case.exists()
            names = list(arrays)
            shapes = case.read(lambda d: d.marginals("all"))
            weights = {k: tensor(rng.normal(size=x.shape)) for k, x in shapes.items()}
            rows, exists = tensor(rng.normal(size=exists.shape) * exists), tensor(exists, "bool")

            def loss(*args):
                d = case.make(dict(zip(names, args[:-1], strict=True)), temperature=args[-1])
                value = where(exists, d.value(), 0.0)
                total = K.sum((value + value * d.entropy()) * rows)
                for name, x in d.marginals("all").items():
                    total = total + K.sum(x * weights[name])
                return total

            args = [tensor(arrays[name]) for name in names] + [tensor(self.temperature)]
            directions = [tensor(rng.normal(size=x.shape)) for x in args]

            def slope(*args):
                return sum(K.sum(g * d) for g, d in zip(grad(loss)(*args), directions, strict=True))

            for function in (fast(loss), fast(slope)):
                gradients = fast(grad(function))(*args)
                exact = [
                    np.sum(array(g) * array(d)) for g, d in zip(gradients, directions, strict=True)
                ]
                if COMPILED and not EVERY_CASE:  # all names along one direction
                    numeric = directional(function, args, directions)
                    np.testing.assert_allclose(sum(exact), numeric, rtol=2e-5, atol=2e-6)
                    continue
                for i, name in enumerate([*names, "temperature"]):
                    only = [d if j == i else K.zeros_like(d) for j, d in enumerate(directions)]
                    numeric = directional(function, args, only)
                    np.testing.assert_allclose(
                        exact[i], numeric, rtol=2e-5, atol=2e-6, err_msg=name
                    )

    def test_padding_never_matters(self, case):
        """Whatever padding holds, NaN included: same results, zero marginals, zero gradients."""
        arrays, padding = case.arrays(), case.padding()
        if not padding:
            pytest.skip("this case has no padding")
        poisoned = {
            k: np.where(padding[k], np.nan, x) if k in padding else x for k, x in arrays.items()
        }

        def readouts(d):
            return {
                "value": d.value(),
                "entropy": d.entropy(),
                "best": d.argmax(),
                "topk": d.topk(2).events,
                "sample": d.sample(1),
                **d.marginals("all"),
            }

        with float64():
            read = case.program(readouts)
            clean, dirty = read(), read(poisoned)
            for name, x in dirty.items():
                np.testing.assert_array_equal(x, clean[name], err_msg=name)
            for name, pad in padding.items():
                assert (dirty[name][pad] == 0).all()
            if not HAS_GRADIENTS:
                return
            names = list(arrays)

            def loss(*args):
                d = case.make(dict(zip(names, args, strict=True)))
                return sum(K.sum(x**2) for x in d.marginals("all").values()) + K.sum(d.entropy())

            gradients = fast(grad(loss))(*map(tensor, poisoned.values()))
            for name, g in zip(names, gradients, strict=True):
                assert np.isfinite(array(g)).all(), name
                if name in padding:
                    assert (array(g)[padding[name]] == 0).all(), name

    def test_limits_of_the_temperature(self, case):
        """Cold: the best structure. Hot: the entropy is the log of the count."""
        with float64():

            def readouts(d):
                return {"value": d.value(), "marginals": d.marginals("all"), "h": d.entropy()}

            d = case.distribution(temperature=tensor(1e9))
            read = case.program(readouts)
            hot, cold = read(temperature=1e9), read(temperature=1e-4)
            hard = case.read(readouts, temperature=0)
            for b, objects in enumerate(enumeration(d)):
                expected = np.log(len(objects)) if objects else 0.0
                np.testing.assert_allclose(_flat(hot["h"], d)[b], expected, atol=1e-6)
            finite = np.isfinite(hard["value"])
            np.testing.assert_allclose(cold["value"][finite], hard["value"][finite], atol=1e-2)
            assert (cold["value"][~finite] == hard["value"][~finite]).all()
            assert (hard["h"] == 0).all()
            if not case.ties:
                for name, x in hard["marginals"].items():
                    np.testing.assert_allclose(cold["marginals"][name], x, atol=1e-5, err_msg=name)

    def test_divergences(self, case):
        with float64():
            q = case.distribution(case.arrays(seed=9), temperature=1.3)
            p = case.distribution(temperature=self.temperature)
            other = case.arrays(seed=9)

            def readouts(p):
                q = case.distribution(other, temperature=1.3)
                return p.cross_entropy(p), p.entropy(), p.kl_divergence(q)

            cross, entropy, kl = case.read(readouts, temperature=self.temperature)
            exists = case.exists()
            np.testing.assert_allclose(cross[exists], entropy[exists], atol=1e-9)
            for b, (mine, theirs) in enumerate(zip(enumeration(p), enumeration(q), strict=True)):
                table = dict(
                    zip((e.tobytes() for e, _, _ in theirs), _probabilities(theirs), strict=True)
                )
                if mine and set(table) >= {e.tobytes() for e, _, _ in mine}:
                    a = _probabilities(mine)
                    c = np.array([table[e.tobytes()] for e, _, _ in mine])
                    expected = np.sum(a * (np.log(a) - np.log(c)))
                    np.testing.assert_allclose(_flat(kl, p)[b], expected, atol=1e-9)

    def test_large_scores_in_float32(self, case):
        """Scores of 1e4 work in float32, to the rounding of such scores (1e-3) themselves."""
        arrays = {
            k: np.where(np.isfinite(x), np.sign(x) * 1e4, x) for k, x in case.arrays().items()
        }

        def readouts(d):
            return d.value(), d.marginals("all")

        value, marginals = case.read(readouts, arrays, dtype="float32")
        with float64():
            exact, expected = case.read(readouts, arrays)
        np.testing.assert_allclose(value, exact, rtol=1e-6, atol=1e-2)
        for name, x in marginals.items():
            np.testing.assert_allclose(x, expected[name], atol=5e-3, err_msg=name)

    def test_half_precision(self, case):
        """bfloat16 and float16 in: float32 value, marginals in the input dtype."""
        for dtype, places in (("bfloat16", 8e-3), ("float16", 1e-3)):
            arrays = {k: array(tensor(x, dtype)) for k, x in case.arrays().items()}
            d = case.distribution(arrays, dtype=dtype)
            value, marginals = d.value(), d.marginals()
            assert keras.backend.standardize_dtype(value.dtype) == "float32"
            assert keras.backend.standardize_dtype(marginals.dtype) == dtype
            full = case.read(lambda d: (d.value(), d.marginals()), arrays, dtype="float32")
            np.testing.assert_allclose(array(value), full[0], rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(array(marginals), full[1], atol=places)

    def test_compiled_equals_eager(self, case):
        """`tf.function` (also with unknown sizes) and XLA; on JAX all other laws run compiled."""
        arrays, exists = case.arrays(), case.exists()
        names = list(arrays)

        def readouts(*args):
            d = case.make(dict(zip(names, args, strict=True)), temperature=0.9)
            value = where(tensor(exists, "bool"), d.value(), 0.0)
            return value, d.marginals(), d.entropy(), d.argmax(), d.topk(2).scores

        def loss(*args):
            d = case.make(dict(zip(names, args, strict=True)), temperature=0.9)
            value = where(tensor(exists, "bool"), d.value(), 0.0)
            return K.sum(value) + K.sum(d.marginals() ** 2) + K.sum(d.entropy())

        if not compilers():
            pytest.skip("all laws run compiled on JAX; nothing compiles here")
        args = [tensor(arrays[name], "float32") for name in names]
        for label, compiled in compilers().items():
            if label == "dynamic":
                if case.static is None or not _takes_unknown_sizes(case):
                    continue
                compiled = functools.partial(
                    compiled, static=[case.static.get(name, 0) for name in names]
                )
            if label == "xla" and not _takes(case, xla=True):
                continue
            *found, best, scores = compiled(readouts)(*args)
            *expected, eager_best, eager_scores = readouts(*args)
            for x, y in zip([*found, scores], [*expected, eager_scores], strict=True):
                np.testing.assert_allclose(array(x), array(y), rtol=2e-5, atol=2e-5, err_msg=label)
            self._equally_good(case, best, eager_best)
            if label == "xla" and not self.xla_gradients:
                continue
            for x, y in zip(compiled(grad(loss))(*args), grad(loss)(*args), strict=True):
                np.testing.assert_allclose(array(x), array(y), rtol=5e-4, atol=5e-5, err_msg=label)

    def _equally_good(self, case, best, other):
        """Of structures that tie, rounding picks one, and a compiler rounds in its own way."""
        if not np.array_equal(array(best), array(other)):
            d = case.distribution(dtype="float32")
            found, expected = array(d.log_prob(best)), array(d.log_prob(other))
            np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


class ReadoutLaws:
    """What runs on the cases that `for_backend` leaves out: one program for each."""

    temperature = StructureLaws.temperature

    def test_readouts_and_second_order_equal_enumeration(self, case):
        with float64():
            d = case.distribution(temperature=self.temperature)
            enumerated = Enumerated(enumeration(d), self.temperature)
            got = case.read(enumerated.readouts, temperature=self.temperature)
            enumerated.check(got, d)


class Enumerated:
    """Readouts of a distribution beside what all its objects say, in NumPy."""

    def __init__(self, listed, temperature):
        self.listed, self.temperature = listed, temperature

    def readouts(self, d):
        top = d.topk(3)
        rng = np.random.default_rng(2)
        self.marginals = _expectation(self.listed, [tuple(x.shape) for x in d._marginals])
        # Canonical no-ops of the padding are no parts of any structure: no tangent there.
        self.tangents = [np.where(x > 0, rng.normal(size=x.shape), 0.0) for x in self.marginals]
        tangents = tuple(tensor(x) for x in self.tangents)
        return {
            "value": d.value(),
            "log_partition": d.log_partition(),
            "entropy": d.entropy(),
            "named": d.marginals("all"),
            "scores": top.scores,
            "events": top.events,
            "log_probs": d.log_prob(top.events),
            "best": d.score(d.argmax()),
            "curvature": d._sweeps.curvature(d._problem, d._soft[1], tangents),
        }

    def check(self, got, d):
        sign = -1 if d.structure.costs else 1
        scale = sign * self.temperature
        for b, objects in enumerate(self.listed):
            p = _probabilities(objects)
            ranked = np.sort([s for _, s, _ in objects])[::-1]
            close(_flat(got["log_partition"], d)[b], _logsumexp(ranked))
            close(_flat(got["value"], d)[b], scale * _logsumexp(ranked))
            close(_flat(got["entropy"], d)[b], -np.sum(p * np.log(np.maximum(p, 1e-300))))
            close(_flat(got["best"], d)[b], scale * ranked[0] if objects else -sign * np.inf)
            self._check_topk(got, d, b, ranked, scale)
        named = fast(lambda *x: keras.tree.map_structure(d._restore, d._named(x)))
        for name, x in named(*map(tensor, self.marginals)).items():
            close(got["named"][name], array(x), err_msg=name)
        expected = _covariance(self.listed, self.tangents)
        for x, y, p in zip(got["curvature"], expected, self.marginals, strict=True):
            np.testing.assert_allclose(x[p > 0], y[p > 0], rtol=1e-8, atol=1e-9)

    def _check_topk(self, got, d, b, ranked, scale):
        events = _flat(got["events"], d, 1)
        count = min(len(events), len(ranked))
        wanted = np.full(len(events), -np.inf if scale > 0 else np.inf)
        wanted[:count] = scale * ranked[:count]
        close(_flat(got["scores"], d, 1)[:, b], wanted)
        close(_flat(got["log_probs"], d, 1)[:count, b], ranked[:count] - _logsumexp(ranked))
        found = [events[i, b].astype("int32").tobytes() for i in range(count)]
        assert len(set(found)) == count
        assert set(found) <= {e.tobytes() for e, _, _ in self.listed[b]}


def _not_compiled():
    if COMPILED and not EVERY_CASE:
        pytest.skip("compiles for seconds what other laws say, and other backends test")


def _events(listed, d):
    """The first objects of every example as events (count, ..., event axes), and how many."""
    count = min(50, max(len(objects) for objects in listed))
    if not count:
        return None, 0
    blank = np.full_like(np.asarray(max(listed, key=len)[0][0]), -1)
    events = np.stack([[o[i][0] if i < len(o) else blank for o in listed] for i in range(count)])
    axes = events.shape[events.ndim - d.structure.event_rank :]
    return events.reshape(count, *d.structure.batch_shape, *axes), count


def _expectation(listed, shapes, weights=None):
    """Sum of the parts of all objects, each times its probability and weight: the marginals."""
    found = [np.zeros(shape) for shape in shapes]
    for b, objects in enumerate(listed):
        p = _probabilities(objects) * (1.0 if weights is None else weights[b])
        for weight, (_, _, parts) in zip(p, objects, strict=True):
            for potential, index in parts:
                found[potential][(b, *index)] += weight
    return found


def _covariance(listed, tangents):
    """Derivative of the marginals along tangents: covariance of the parts with their sum."""
    weights = []
    for b, objects in enumerate(listed):
        moved = [sum(tangents[i][(b, *index)] for i, index in parts) for _, _, parts in objects]
        weights.append(np.array(moved) - np.sum(_probabilities(objects) * moved))
    return _expectation(listed, [x.shape for x in tangents], weights)
