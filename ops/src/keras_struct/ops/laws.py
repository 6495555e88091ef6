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

import keras
import numpy as np
import pytest
from keras import ops as K

from keras_struct.ops import dispatch
from keras_struct.ops.array import where
from keras_struct.ops.enumerated import (
    Enumerated,
    close,
    enumeration,
    events_of,
    flat,
    oracle,
    probabilities,
)
from keras_struct.ops.law_cases import COMPILED
from keras_struct.ops.testing import (
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


def _takes_unknown_sizes(case):
    call = case.call()
    return _takes(case, shapes=tuple((None,) * len(x) for x in call.shapes))


def _takes(case, **facts):
    """Whether the implementation of a case takes a call of which some facts are others."""
    call = case.call()
    call = dataclasses.replace(call, **facts)
    return dispatch.candidates(call.family)[case.implementation].rejects(call) is None


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
            events, count = events_of(listed, d)
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
            close(flat(hard, d)[b], sign * (self.temperature * best if objects else -np.inf))
            p = probabilities(objects)
            self._check_samples(flat(got["sampled"], d, 1)[:, b], got["samples"], d, p, b)
            if count:
                found = flat(got["listed"], d, 1)[: len(p), b]
                np.testing.assert_allclose(found, np.log(p)[:count], atol=1e-9)

    def _check_samples(self, log_prob, samples, d, p, b):
        if not len(p):
            assert (flat(samples, d, 1)[:, b] == -1).all()
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
                np.testing.assert_allclose(flat(hot["h"], d)[b], expected, atol=1e-6)
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
                    zip((e.tobytes() for e, _, _ in theirs), probabilities(theirs), strict=True)
                )
                if mine and set(table) >= {e.tobytes() for e, _, _ in mine}:
                    a = probabilities(mine)
                    c = np.array([table[e.tobytes()] for e, _, _ in mine])
                    expected = np.sum(a * (np.log(a) - np.log(c)))
                    np.testing.assert_allclose(flat(kl, p)[b], expected, atol=1e-9)

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


def _not_compiled():
    if COMPILED and not EVERY_CASE:
        pytest.skip("compiles for seconds what other laws say, and other backends test")
