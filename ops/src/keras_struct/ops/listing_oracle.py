"""The oracle of every structure whose objects can be listed: NumPy float64, all objects in turn.

An object is an event and the parts that it uses; its score is the sum of their potentials.
`reference.py` of a structure lists the objects of one example as its paper defines them, with no
recurrence at all; every sweep follows from the list.
"""

from collections.abc import Iterator

import numpy as np
from keras import ops

from keras_struct.ops.implementation import Implementation
from keras_struct.ops.numerics import INFEASIBLE
from keras_struct.ops.path_oracle import gumbel

Part = tuple[int, tuple[int, ...]]  # canonical potential, index in it (without the batch axis)
Object = tuple[np.ndarray, list[Part]]


class EnumerationReference(Implementation):
    """Sweeps as plain sums over all objects of each example."""

    traceable = False

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
        for _, _, objects in self._examples(problem):
            scores = np.array([score for _, score, _ in objects] or [4 * INFEASIBLE])
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
        for b, (shapes, facts, objects) in enumerate(self._examples(problem)):
            noise = gumbel(draws, b, len(objects))
            noisy = [s + g for (_, s, _), g in zip(objects, noise, strict=True)]
            blank = self.blank(problem.spec, shapes, facts)
            events.append(objects[int(np.argmax(noisy))][0] if objects else blank)
        return _tensor(np.stack(events), "int32")

    def sample(self, problem, tape, noise):
        draws = map(noise.draws, range(noise.count))
        return ops.stack([self.trace(problem, tape, x) for x in draws])

    def topk(self, problem, k):
        events, exists = [], []
        for shapes, facts, objects in self._examples(problem):
            found = [event for event, _, _ in sorted(objects, key=lambda o: -o[1])[:k]]
            blanks = [self.blank(problem.spec, shapes, facts)] * (k - len(found))
            events.append(np.stack(found + blanks))
            exists.append([i < len(found) for i in range(k)])
        return _tensor(np.stack(events, 1), "int32"), ops.convert_to_tensor(np.array(exists).T)

    def enumerate(self, problem) -> Iterator[list[tuple[np.ndarray, float, list]]]:
        """For each example, every object: event, score, and its parts (with repetition)."""
        return (objects for _, _, objects in self._examples(problem))

    # Details ---------------------------------------------------------------------------------

    def _examples(self, problem):
        """`(shapes, facts, objects with their scores)` of every example."""
        arrays = _spread(problem.potentials)
        facts = [ops.convert_to_numpy(x) for x in problem.context]
        batch = max(x.shape[0] for x in (*arrays, *facts))
        for b in range(batch):
            theta = [x[b if len(x) > 1 else 0] for x in arrays]
            shapes, fact = [x.shape for x in theta], [x[b] for x in facts]
            objects = []
            for event, parts in self.objects(problem.spec, shapes, fact):
                score = sum((theta[potential][index] for potential, index in parts), 0.0)
                if score > INFEASIBLE:
                    objects.append((event, score, parts))
            yield shapes, fact, objects

    def _expectations(self, problem, weigh, tangents=None):
        """Sum over the objects of `weigh(probabilities, tangents of the scores)`, by part."""
        moves = None if tangents is None else _spread(tangents)
        batches: list[list[np.ndarray]] = []
        for b, (shapes, _, objects) in enumerate(self._examples(problem)):
            sums = [np.zeros(shape) for shape in shapes]
            scores = np.array([score for _, score, _ in objects])
            p = np.exp(scores - scores.max(initial=4 * INFEASIBLE))
            rates = np.array(
                [sum((moves[i][b][at] for i, at in parts), 0.0) for _, _, parts in objects]
                if moves is not None
                else p
            )
            for weight, (_, _, parts) in zip(weigh(p / p.sum(), rates), objects, strict=True):
                for potential, index in parts:
                    sums[potential][index] += weight
            batches.append(sums)
        return tuple(
            _tensor(np.stack(column), problem.potentials[0].dtype)
            for column in zip(*batches, strict=True)
        )


def _spread(tensors):
    return [ops.convert_to_numpy(x).astype("float64") for x in tensors]


def _tensor(x, dtype):
    return ops.convert_to_tensor(x, dtype=dtype)
