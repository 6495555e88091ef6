"""The laws that every structure obeys, as tests: enumeration, reference, gradients, conventions.

A test module of a structure reads

    @pytest.mark.parametrize("case", CASES, ids=str)
    class TestLinearChain(StructureLaws): ...

and its `cases.py` lists named cases. Laws use float64 where they compare numbers.
"""

import dataclasses
import functools
from collections.abc import Callable

import keras
import numpy as np
from keras import ops as K

from keras_struct.ops import dispatch
from keras_struct.ops.array import where
from keras_struct.ops.numerics import INFEASIBLE
from keras_struct.ops.testing import (
    HAS_GRADIENTS,
    array,
    compilers,
    directional,
    float64,
    grad,
    tensor,
)


@dataclasses.dataclass(frozen=True)
class Case:
    """A named input of a structure, small enough to enumerate.

    Attributes:
        name: Unique name.
        build: `build(potentials, **options)` -> `Distribution`, from a dict of tensors; options
            are `temperature` and `implementation`.
        potentials: Function of a NumPy generator that makes the dict of float64 arrays.
        padding: Function that returns, for each potential that has padding, a boolean array, True
            where the value must not matter.
    """

    name: str
    build: Callable
    potentials: Callable
    padding: Callable = dict

    def __str__(self):
        return self.name

    def arrays(self, seed=0):
        return self.potentials(np.random.default_rng(seed))

    def distribution(self, arrays=None, dtype="float64", **options):
        arrays = self.arrays() if arrays is None else arrays
        return self.build({k: tensor(x, dtype) for k, x in arrays.items()}, **options)


def enumeration(d):
    """All objects of every example, by the reference: lists of (event, score, parts)."""
    reference = dispatch._module(d.structure.op, "reference").sweeps(d.choice.call)
    return list(reference.enumerate(d._theta, d.structure.context))


def _logsumexp(x):
    return np.max(x) + np.log(np.sum(np.exp(x - np.max(x)))) if len(x) else -np.inf


def _flat(x, d, prefix=0):
    x = array(x)
    rank = len(d.structure.batch_shape)
    return x.reshape(*x.shape[:prefix], -1, *x.shape[prefix + rank :])


class StructureLaws:
    """Inherit, parametrise with cases, run."""

    temperature = 0.7

    def test_values_equal_enumeration(self, case):
        with float64():
            d = case.distribution(temperature=self.temperature)
            for b, objects in enumerate(enumeration(d)):
                scores = np.array([s for _, s, _ in objects])
                log_partition = _logsumexp(scores)
                p = np.exp(scores - log_partition) if len(scores) else scores
                entropy = -np.sum(p * np.log(np.maximum(p, 1e-300)))
                sign = -1 if d.structure.costs else 1
                close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9)
                close(_flat(d.log_partition(), d)[b], log_partition)
                close(_flat(d.value(), d)[b], sign * self.temperature * log_partition)
                close(_flat(d.entropy(), d)[b], entropy)
                for i, theta in enumerate(d._theta):
                    expected = np.zeros(theta.shape[1:])
                    for weight, (_, _, parts) in zip(p, objects, strict=True):
                        for potential, index in parts:
                            if potential == i:
                                expected[index] += weight
                    # Padding may hold the mass of canonical no-ops; the named marginals do not.
                    used = expected > 0
                    close(array(d._marginals[i])[b][used], expected[used])

    def test_named_marginals_are_the_derivative_of_the_value(self, case):
        with float64():
            arrays = case.arrays()
            marginals = case.distribution(temperature=self.temperature).marginals("all")
            exists = np.isfinite(array(case.distribution().value()))
            rng = np.random.default_rng(1)
            assert list(marginals) == list(arrays)
            for name, x in arrays.items():
                # Infinities stay: a derivative along a finite direction.
                direction = rng.normal(size=x.shape)

                def value(x, name=name):
                    d = case.distribution({**arrays, name: x}, temperature=self.temperature)
                    return K.sum(where(tensor(exists, "bool"), d.value(), 0.0))

                numeric = directional(value, [x], [direction])
                exact = np.sum(array(marginals[name]) * direction)
                np.testing.assert_allclose(exact, numeric, rtol=1e-6, atol=1e-7, err_msg=name)

    def test_discrete_readouts_equal_enumeration(self, case):
        with float64():
            d = case.distribution(temperature=self.temperature)
            hard = case.distribution(temperature=0)
            sign = -1 if d.structure.costs else 1
            best, value = array(d.score(d.argmax())), array(hard.value())
            k = 4
            top = d.topk(k)
            events, scores = _flat(top.events, d, 1), _flat(top.scores, d, 1)
            log_probs = _flat(d.log_prob(top.events), d, 1)
            for b, objects in enumerate(enumeration(d)):
                ranked = np.sort([s for _, s, _ in objects])[::-1]
                wanted = np.full(k, -np.inf)
                wanted[: len(ranked[:k])] = ranked[:k]
                close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9)
                close(scores[:, b], sign * self.temperature * wanted)
                count = min(k, len(ranked))
                close(log_probs[:count, b], wanted[:count] - _logsumexp(ranked))
                known = {e.tobytes() for e, _, _ in objects}
                found = [events[i, b].astype("int32").tobytes() for i in range(min(k, len(ranked)))]
                assert len(set(found)) == len(found) and set(found) <= known
                if len(ranked):
                    close(best.reshape(-1)[b], sign * self.temperature * ranked[0])
                    close(value.reshape(-1)[b], sign * self.temperature * ranked[0])

    def test_every_event_has_its_probability(self, case):
        with float64():
            d = case.distribution(temperature=self.temperature)
            objects = enumeration(d)
            most = min(50, max(len(o) for o in objects))
            if not most:
                return
            blank = np.full_like(np.asarray(max(objects, key=len)[0][0]), -1)
            events = np.stack(
                [[o[i][0] if i < len(o) else blank for o in objects] for i in range(most)]
            )
            rank = d.structure.event_rank
            shape = (most, *d.structure.batch_shape, *events.shape[events.ndim - rank :])
            log_prob = _flat(d.log_prob(events.reshape(shape)), d, 1)
            for b, o in enumerate(objects):
                scores = np.array([s for _, s, _ in o])
                expected = scores - _logsumexp(scores)
                count = min(most, len(o))
                np.testing.assert_allclose(log_prob[:count, b], expected[:count], atol=1e-9)

    def test_samples_follow_the_distribution(self, case):
        d = case.distribution(dtype="float32", temperature=self.temperature)
        n = 1500
        events = d.sample(3, n)
        log_prob = _flat(d.log_prob(events), d, 1)
        assert array(d.sample(3)).shape == array(events).shape[1:]
        for b, objects in enumerate(enumeration(d)):
            if not objects:
                assert np.all(_flat(events, d, 1)[:, b] == -1)
                continue
            scores = np.array([s for _, s, _ in objects])
            p = np.exp(scores - _logsumexp(scores))
            assert np.isfinite(log_prob[:, b]).all()
            # Mean log-probability of the samples against minus the entropy, five sigma.
            mean = np.sum(p * np.log(p))
            deviation = np.sqrt(np.sum(p * (np.log(p) - mean) ** 2) / n)
            assert abs(log_prob[:, b].mean() - mean) < 5 * deviation + 1e-4
            # The frequency of the most probable event, five sigma.
            top = p.max()
            hits = np.mean(log_prob[:, b] > np.log(top) - 1e-4)
            mass = p[np.log(p) > np.log(top) - 1e-4].sum()
            assert abs(hits - mass) < 5 * np.sqrt(mass * (1 - mass) / n) + 1e-6

    def test_portable_equals_reference(self, case):
        with float64():
            fast = case.distribution(implementation="portable", temperature=self.temperature)
            slow = case.distribution(implementation="reference", temperature=self.temperature)
            close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9)
            close(array(fast.value()), array(slow.value()))
            close(array(fast.entropy()), array(slow.entropy()))
            for name, x in slow.marginals("all").items():
                close(array(fast.marginals("all")[name]), array(x), err_msg=name)
            close(array(fast.score(fast.argmax())), array(slow.score(slow.argmax())))
            close(array(fast.topk(3).scores), array(slow.topk(3).scores))
            assert (
                np.isfinite(array(slow.log_prob(slow.sample(0)))).sum()
                == np.isfinite(array(fast.log_prob(fast.sample(0)))).sum()
            )

    def test_curvature_equals_reference(self, case):
        with float64():
            rng = np.random.default_rng(2)
            d = case.distribution(temperature=self.temperature)
            reference = dispatch._module(d.structure.op, "reference").sweeps(d.choice.call)
            batch = array(d._soft[0]).shape[0]
            context = d.structure.context
            tangents = tuple(tensor(rng.normal(size=(batch, *x.shape[1:]))) for x in d._theta)
            # Canonical no-ops of the padding are no parts of the reference.
            used = [array(x) for x in reference.backward(d._theta, context, ())]
            tangents = tuple(
                where(tensor(u > 0, "bool"), t, 0.0) for u, t in zip(used, tangents, strict=True)
            )
            fast = d._sweeps.curvature(d._theta, context, d._soft[1], tangents)
            slow = reference.curvature(d._theta, context, (), tangents)
            for x, y, u in zip(fast, slow, used, strict=True):
                np.testing.assert_allclose(array(x)[u > 0], array(y)[u > 0], rtol=1e-8, atol=1e-9)

    def test_gradients_by_name(self, case):
        """Value, entropy and marginals: first and second derivatives, temperature included."""
        if not HAS_GRADIENTS:
            return
        with float64():
            rng = np.random.default_rng(4)
            arrays = case.arrays()
            names = list(arrays)
            exists = np.isfinite(array(case.distribution().value()))
            weights = {
                k: rng.normal(size=array(x).shape)
                for k, x in case.distribution().marginals("all").items()
            }
            rows = rng.normal(size=exists.shape) * exists

            def loss(*args):
                d = case.build(dict(zip(names, args[:-1], strict=True)), temperature=args[-1])
                value = where(tensor(exists, "bool"), d.value(), 0.0)
                total = K.sum((value + value * d.entropy()) * tensor(rows))
                for name, x in d.marginals("all").items():
                    total = total + K.sum(x * tensor(weights[name]))
                return total

            args = [tensor(arrays[name]) for name in names] + [tensor(self.temperature)]
            directions = [tensor(rng.normal(size=x.shape)) for x in args]
            gradients = grad(loss)(*args)

            def slope(*args):
                return sum(K.sum(g * d) for g, d in zip(grad(loss)(*args), directions, strict=True))

            hessian = grad(slope)(*args)
            for i, name in enumerate([*names, "temperature"]):
                only = [d if j == i else K.zeros_like(d) for j, d in enumerate(directions)]
                for exact, function in ((gradients[i], loss), (hessian[i], slope)):
                    exact = np.sum(array(exact * directions[i]))
                    numeric = directional(function, args, only)
                    np.testing.assert_allclose(exact, numeric, rtol=2e-5, atol=2e-6, err_msg=name)

    def test_padding_never_matters(self, case):
        """Whatever padding holds, NaN included: same results, zero marginals, zero gradients."""
        arrays, padding = case.arrays(), case.padding()
        if not padding:
            return
        poisoned = {
            k: np.where(padding[k], np.nan, x) if k in padding else x for k, x in arrays.items()
        }
        with float64():
            clean, dirty = case.distribution(arrays), case.distribution(poisoned)
            np.testing.assert_array_equal(array(clean.value()), array(dirty.value()))
            np.testing.assert_array_equal(array(clean.entropy()), array(dirty.entropy()))
            np.testing.assert_array_equal(array(clean.argmax()), array(dirty.argmax()))
            np.testing.assert_array_equal(array(clean.topk(2).events), array(dirty.topk(2).events))
            np.testing.assert_array_equal(array(clean.sample(1)), array(dirty.sample(1)))
            for name, x in dirty.marginals("all").items():
                assert np.isfinite(array(x)).all()
                np.testing.assert_array_equal(array(x), array(clean.marginals("all")[name]))
                if name in padding:
                    assert (array(x)[padding[name]] == 0).all()
            if not HAS_GRADIENTS:
                return
            names = list(arrays)

            def loss(*args):
                d = case.build(dict(zip(names, args, strict=True)))
                return sum(K.sum(x**2) for x in d.marginals("all").values()) + K.sum(d.entropy())

            for name, g in zip(names, grad(loss)(*map(tensor, poisoned.values())), strict=True):
                assert np.isfinite(array(g)).all(), name
                if name in padding:
                    assert (array(g)[padding[name]] == 0).all(), name

    def test_marginals_are_expectations_and_limits(self, case):
        """Cold limit: the best structure. Hot limit: entropy is the log of the count."""
        with float64():
            hot = case.distribution(temperature=1e9)
            for b, objects in enumerate(enumeration(hot)):
                expected = np.log(len(objects)) if objects else 0.0
                np.testing.assert_allclose(_flat(hot.entropy(), hot)[b], expected, atol=1e-6)
            cold, hard = case.distribution(temperature=1e-4), case.distribution(temperature=0)
            finite = np.isfinite(array(hard.value()))
            np.testing.assert_allclose(
                array(cold.value())[finite], array(hard.value())[finite], atol=1e-2
            )
            assert (array(cold.value())[~finite] == array(hard.value())[~finite]).all()
            for name, x in hard.marginals("all").items():
                np.testing.assert_allclose(
                    array(cold.marginals("all")[name]), array(x), atol=1e-5, err_msg=name
                )

    def test_divergences(self, case):
        with float64():
            p = case.distribution(temperature=self.temperature)
            q = case.distribution(case.arrays(seed=9), temperature=1.3)
            exists = np.isfinite(array(p.value()))
            np.testing.assert_allclose(
                array(p.cross_entropy(p))[exists], array(p.entropy())[exists], atol=1e-9
            )
            for b, (mine, theirs) in enumerate(zip(enumeration(p), enumeration(q), strict=True)):
                other = {e.tobytes(): s for e, s, _ in theirs}
                if mine and set(other) >= {e.tobytes() for e, _, _ in mine}:
                    a = np.array([s for _, s, _ in mine])
                    c = np.array([other[e.tobytes()] for e, _, _ in mine])
                    a = a - _logsumexp(a)
                    c = c - _logsumexp(np.array(list(other.values())))
                    kl = np.sum(np.exp(a) * (a - c))
                    np.testing.assert_allclose(_flat(p.kl_divergence(q), p)[b], kl, atol=1e-9)

    def test_large_scores_in_float32(self, case):
        """Scores of 1e4 work in float32, to the rounding of such scores (1e-3) themselves."""
        arrays = {
            k: np.where(np.isfinite(x), np.sign(x) * 1e4, x) for k, x in case.arrays().items()
        }
        d = case.distribution(arrays, dtype="float32")
        with float64():
            exact = case.distribution(arrays)
            value = array(exact.value())
            marginals = {k: array(x) for k, x in exact.marginals("all").items()}
        np.testing.assert_allclose(array(d.value()), value, rtol=1e-6, atol=1e-2)
        for name, x in d.marginals("all").items():
            np.testing.assert_allclose(array(x), marginals[name], atol=5e-3, err_msg=name)

    def test_half_precision(self, case):
        """bfloat16 and float16 in: float32 value, marginals in the input dtype."""
        for dtype, places in (("bfloat16", 8e-3), ("float16", 1e-3)):
            d = case.distribution(dtype=dtype)
            arrays = {k: array(tensor(x, dtype)) for k, x in case.arrays().items()}
            full = case.distribution(arrays, dtype="float32")
            assert keras.backend.standardize_dtype(d.value().dtype) == "float32"
            np.testing.assert_allclose(array(d.value()), array(full.value()), rtol=1e-6)
            x, y = d.marginals(), full.marginals()
            assert keras.backend.standardize_dtype(x.dtype) == dtype
            np.testing.assert_allclose(array(x), array(y), atol=places)

    def test_compiled_equals_eager(self, case):
        arrays = case.arrays()
        names = list(arrays)
        exists = np.isfinite(array(case.distribution().value()))

        def readouts(*args):
            d = case.build(dict(zip(names, args, strict=True)), temperature=0.9)
            value = where(K.convert_to_tensor(exists), d.value(), 0.0)
            return value, d.marginals(), d.entropy(), d.argmax(), d.topk(2).scores

        def loss(*args):
            return sum(K.sum(x) for x in readouts(*args)[:3]) + K.sum(readouts(*args)[1] ** 2)

        args = [tensor(arrays[name], "float32") for name in names]
        for label, compiled in compilers().items():
            for x, y in zip(compiled(readouts)(*args), readouts(*args), strict=True):
                np.testing.assert_allclose(array(x), array(y), rtol=2e-5, atol=2e-5, err_msg=label)
            for x, y in zip(compiled(grad(loss))(*args), grad(loss)(*args), strict=True):
                np.testing.assert_allclose(array(x), array(y), rtol=5e-4, atol=5e-5, err_msg=label)

    def test_infeasible_is_below(self, case):
        """A value is finite, or minus infinity exactly where enumeration finds nothing."""
        d = case.distribution()
        for b, objects in enumerate(enumeration(d)):
            assert np.isfinite(_flat(d.value(), d)[b]) == bool(objects)
            if not objects:
                assert array(d._soft[0])[b] <= INFEASIBLE
                for x in d._marginals:
                    assert (array(x)[b] == 0).all()
