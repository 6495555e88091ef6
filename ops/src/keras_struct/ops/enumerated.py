"""Readouts of a distribution by enumeration of all its objects, in NumPy."""

import functools

import keras
import numpy as np

from keras_struct.ops import dispatch
from keras_struct.ops.testing import array, fast, tensor


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


def logsumexp(x):
    return np.max(x) + np.log(np.sum(np.exp(x - np.max(x)))) if len(x) else -np.inf


def flat(x, d, prefix=0):
    rank = len(d.structure.batch_shape)
    return x.reshape(*x.shape[:prefix], -1, *x.shape[prefix + rank :])


def probabilities(objects):
    scores = np.array([s for _, s, _ in objects])
    return np.exp(scores - logsumexp(scores)) if len(scores) else scores


close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9)


class Enumerated:
    """Readouts of a distribution beside what all its objects say, in NumPy."""

    def __init__(self, listed, temperature):
        self.listed, self.temperature = listed, temperature

    def readouts(self, d):
        top = d.topk(3)
        rng = np.random.default_rng(2)
        self.marginals = expectation(self.listed, [tuple(x.shape) for x in d._marginals])
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
            p = probabilities(objects)
            ranked = np.sort([s for _, s, _ in objects])[::-1]
            close(flat(got["log_partition"], d)[b], logsumexp(ranked))
            close(flat(got["value"], d)[b], scale * logsumexp(ranked))
            close(flat(got["entropy"], d)[b], -np.sum(p * np.log(np.maximum(p, 1e-300))))
            close(flat(got["best"], d)[b], scale * ranked[0] if objects else -sign * np.inf)
            self._check_topk(got, d, b, ranked, scale)
        named = fast(lambda *x: keras.tree.map_structure(d._restore, d._named(x)))
        for name, x in named(*map(tensor, self.marginals)).items():
            close(got["named"][name], array(x), err_msg=name)
        expected = covariance(self.listed, self.tangents)
        for x, y, p in zip(got["curvature"], expected, self.marginals, strict=True):
            np.testing.assert_allclose(x[p > 0], y[p > 0], rtol=1e-8, atol=1e-9)

    def _check_topk(self, got, d, b, ranked, scale):
        events = flat(got["events"], d, 1)
        count = min(len(events), len(ranked))
        wanted = np.full(len(events), -np.inf if scale > 0 else np.inf)
        wanted[:count] = scale * ranked[:count]
        close(flat(got["scores"], d, 1)[:, b], wanted)
        close(flat(got["log_probs"], d, 1)[:count, b], ranked[:count] - logsumexp(ranked))
        found = [events[i, b].astype("int32").tobytes() for i in range(count)]
        assert len(set(found)) == count
        assert set(found) <= {e.tobytes() for e, _, _ in self.listed[b]}


def events_of(listed, d):
    """The first objects of every example as events (count, ..., event axes), and how many."""
    count = min(50, max(len(objects) for objects in listed))
    if not count:
        return None, 0
    blank = np.full_like(np.asarray(max(listed, key=len)[0][0]), -1)
    events = np.stack([[o[i][0] if i < len(o) else blank for o in listed] for i in range(count)])
    axes = events.shape[events.ndim - d.structure.event_rank :]
    return events.reshape(count, *d.structure.batch_shape, *axes), count


def expectation(listed, shapes, weights=None):
    """Sum of the parts of all objects, each times its probability and weight: the marginals."""
    found = [np.zeros(shape) for shape in shapes]
    for b, objects in enumerate(listed):
        p = probabilities(objects) * (1.0 if weights is None else weights[b])
        for weight, (_, _, parts) in zip(p, objects, strict=True):
            for potential, index in parts:
                found[potential][(b, *index)] += weight
    return found


def covariance(listed, tangents):
    """Derivative of the marginals along tangents: covariance of the parts with their sum."""
    weights = []
    for b, objects in enumerate(listed):
        moved = [sum(tangents[i][(b, *index)] for i, index in parts) for _, _, parts in objects]
        weights.append(np.array(moved) - np.sum(probabilities(objects) * moved))
    return expectation(listed, [x.shape for x in tangents], weights)
