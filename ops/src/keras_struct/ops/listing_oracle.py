"""The oracle of every structure whose objects can be listed: NumPy float64, all objects in turn.

An object is an event and the parts that it uses; its score is the sum of their potentials.
`reference.py` of a structure lists the objects of one example as its paper defines them, with no
recurrence at all; every sweep follows from the list.
"""

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from keras import ops

from keras_struct.ops.implementation import Implementation
from keras_struct.ops.numerics import INFEASIBLE
from keras_struct.ops.path_oracle import gumbel

Part = tuple[int, tuple[int, ...]]  # canonical potential, index in it (without the batch axis)
Object = tuple[np.ndarray, list[Part]]
MOST_LISTS = 64


class EnumerationReference(Implementation):
    """Sweeps as plain sums over all objects of each example."""

    traceable = False

    def __init__(self):
        self._lists = {}

    def rejects(self, call):
        return "the reference needs concrete values (no jit)" if call.traced else None

    def avoids(self, call):
        return "it is the oracle of the tests: all objects in turn, in float64"

    def objects(self, spec, shapes, context) -> Iterator[Object]:
        """Every object of one example: its int32 event and its parts (with repetition).

        Args:
            spec: The structure as static data.
            shapes: Shapes of the canonical potentials, without the batch axis.
            context: Context arrays of this example.
        """
        raise NotImplementedError

    def blank(self, spec, shapes, context) -> np.ndarray:
        """The event that stands for none, full of -1."""
        raise NotImplementedError

    # The sweeps ------------------------------------------------------------------------------

    def forward(self, problem, op):
        values = []
        for example in self._examples(problem):
            scores = example.scores if example.found.size else np.array([4 * INFEASIBLE])
            peak = scores.max()
            total = np.exp(scores - peak).sum() if op == "logsumexp" else 1.0
            values.append(peak + np.log(total))
        return _tensor(np.array(values), problem.potentials[0].dtype), ()

    def backward(self, problem, tape):
        return self._expectations(problem, lambda p, tangent: p)

    def curvature(self, problem, tape, tangents):
        def centred(p, tangent):
            return p * (tangent - np.sum(p * tangent))

        return self._expectations(problem, centred, tangents)

    def trace(self, problem, tape, draws=None):
        """The best score after one Gumbel variable per object is an exact sample."""
        events = []
        for b, example in enumerate(self._examples(problem)):
            noisy = example.scores + gumbel(draws, b, example.found.size)
            best = np.argmax(noisy) if example.found.size else None
            events.append(example.blank if best is None else example.event(best))
        return _tensor(np.stack(events), "int32")

    def sample(self, problem, tape, noise):
        draws = map(noise.draws, range(noise.count))
        return ops.stack([self.trace(problem, tape, x) for x in draws])

    def topk(self, problem, k):
        events, exists = [], []
        for example in self._examples(problem):
            best = np.argsort(-example.scores, kind="stable")[:k]
            blanks = [example.blank] * (k - len(best))
            events.append(np.stack([example.event(i) for i in best] + blanks))
            exists.append([i < len(best) for i in range(k)])
        return _tensor(np.stack(events, 1), "int32"), ops.convert_to_tensor(np.array(exists).T)

    def enumerate(self, problem) -> Iterator[list[tuple[np.ndarray, float, list]]]:
        """For each example, every object: event, score, and its parts (with repetition)."""
        for example in self._examples(problem):
            objects = [example.listed.objects[i] for i in example.found]
            yield [(e, s, parts) for (e, parts), s in zip(objects, example.scores, strict=True)]

    # Details ---------------------------------------------------------------------------------

    def _examples(self, problem):
        """The `_Example`s of a problem."""
        arrays = _spread(problem.potentials)
        facts = [ops.convert_to_numpy(x) for x in problem.context]
        batch = max(x.shape[0] for x in (*arrays, *facts))
        for b in range(batch):
            theta = [x[b if len(x) > 1 else 0] for x in arrays]
            shapes, fact = tuple(x.shape for x in theta), [x[b] for x in facts]
            listed = self._listed(problem.spec, shapes, fact)
            scores = listed.sums(theta)
            found = np.flatnonzero(scores > INFEASIBLE)
            blank = self.blank(problem.spec, list(shapes), fact)
            yield _Example(listed, found, scores[found], blank)

    def _listed(self, spec, shapes, facts):
        """`objects`, kept for the next call with the same arguments."""
        key = spec, shapes, *(x.tobytes() for x in facts)
        if key not in self._lists:
            if len(self._lists) == MOST_LISTS:
                self._lists.clear()
            self._lists[key] = _Listed(list(self.objects(spec, list(shapes), facts)), shapes)
        return self._lists[key]

    def _expectations(self, problem, weigh, tangents=None):
        """Sum over the objects of `weigh(probabilities, tangents of the scores)`, by part."""
        moves = None if tangents is None else _spread(tangents)
        batches: list[list[np.ndarray]] = []
        for b, example in enumerate(self._examples(problem)):
            p = np.exp(example.scores - example.scores.max(initial=4 * INFEASIBLE))
            rates = p
            if moves is not None:
                rates = example.listed.sums([x[b] for x in moves])[example.found]
            weights = np.zeros(len(example.listed.objects))
            weights[example.found] = weigh(p / p.sum(), rates)
            batches.append(example.listed.by_part(weights))
        return tuple(
            _tensor(np.stack(column), problem.potentials[0].dtype)
            for column in zip(*batches, strict=True)
        )


class _Listed:
    """Objects of examples of one shape, and their parts as two arrays: who uses which number."""

    def __init__(self, objects, shapes):
        self.objects, self.shapes = objects, shapes
        sizes = [math.prod(shape) for shape in shapes]
        self.ends = np.cumsum(sizes)
        starts = self.ends - sizes
        used = [
            [
                starts[i] + np.ravel_multi_index(at, shapes[i]) if at else starts[i]
                for i, at in parts
            ]
            for _, parts in objects
        ]
        self.index = np.array(list(itertools.chain(*used)), int)
        self.owner = np.repeat(np.arange(len(objects)), [len(x) for x in used])

    def sums(self, arrays):
        """Of each object, the sum of what its parts have in arrays like the potentials."""
        flat = np.concatenate([np.ravel(x) for x in arrays])
        return _sums(self.owner, flat[self.index], len(self.objects))

    def by_part(self, weights):
        """Arrays like the potentials: the weights of the objects, summed where they use a part."""
        flat = _sums(self.index, weights[self.owner], self.ends[-1])
        parts = np.split(flat, self.ends[:-1])
        return [x.reshape(shape) for x, shape in zip(parts, self.shapes, strict=True)]


class _Example(NamedTuple):
    """What exists of one example.

    Attributes:
        listed: All objects of its shape.
        found: Indices of those that no forbidden part excludes.
        scores: Theirs.
        blank: The event that stands for none.
    """

    listed: _Listed
    found: np.ndarray
    scores: np.ndarray
    blank: np.ndarray

    def event(self, i):
        """Of the ith object that is found."""
        return self.listed.objects[self.found[i]][0]


def _sums(places, weights, count):
    return np.bincount(places, weights, count).astype("float64")  # of nothing they are integers


def _spread(tensors):
    return [ops.convert_to_numpy(x).astype("float64") for x in tensors]


def _tensor(x, dtype):
    return ops.convert_to_tensor(x, dtype=dtype)
