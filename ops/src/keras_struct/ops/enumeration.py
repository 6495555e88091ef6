"""The oracle of every structure whose objects can be listed: NumPy float64, all objects in turn.

An object is an event and the parts that it uses; its score is the sum of their potentials.
`reference.py` of a structure lists the objects of one example as its paper defines them, with no
recurrence at all; every sweep follows from the list.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
from keras import ops

from keras_struct.ops.numerics import INFEASIBLE
from keras_struct.ops.sweeps import Sweeps

Part = tuple[int, tuple[int, ...]]  # canonical potential, index in it (without the batch axis)
Object = tuple[np.ndarray, list[Part]]


def rejects(call):
    """The rule of every reference by enumeration."""
    return "the reference needs concrete values (no jit)" if call.traced else None


@dataclasses.dataclass(frozen=True)
class EnumerationReference(Sweeps):
    """Sweeps as plain sums over all objects of each example."""

    traceable = False

    def objects(self, shapes, context) -> Iterator[Object]:
        """Every object of one example: its int32 event and its parts (with repetition).

        Args:
            shapes: Shapes of the canonical potentials, without the batch axis.
            context: Context arrays of this example.
        """
        raise NotImplementedError

    def blank(self, shapes, context) -> np.ndarray:
        """The event that stands for none, full of -1."""
        raise NotImplementedError

    # The sweeps ------------------------------------------------------------------------------

    def forward(self, potentials, context, op):
        values = []
        for _, _, objects in self._examples(potentials, context):
            scores = np.array([score for _, score, _ in objects] or [4 * INFEASIBLE])
            peak = scores.max()
            total = np.exp(scores - peak).sum() if op == "logsumexp" else 1.0
            values.append(peak + np.log(total))
        return _tensor(np.array(values), potentials[0].dtype), ()

    def backward(self, potentials, context, tape):
        return self._expectations(potentials, context, lambda p, tangent: p)

    def curvature(self, potentials, context, tape, tangents):
        def centred(p, tangent):
            return p * (tangent - np.sum(p * tangent))

        return self._expectations(potentials, context, centred, tangents)

    def trace(self, potentials, context, tape, noise):
        """The best score after one Gumbel variable per object is an exact sample."""
        events = []
        for shapes, facts, objects in self._examples(potentials, context):
            draws = ops.convert_to_numpy(noise((len(objects) + 1,)))
            noisy = [s + g for (_, s, _), g in zip(objects, draws, strict=False)]
            best = objects[int(np.argmax(noisy))][0] if objects else self.blank(shapes, facts)
            events.append(best)
        return _tensor(np.stack(events), "int32")

    def topk(self, potentials, context, k):
        events, exists = [], []
        for shapes, facts, objects in self._examples(potentials, context):
            found = [event for event, _, _ in sorted(objects, key=lambda o: -o[1])[:k]]
            blanks = [self.blank(shapes, facts)] * (k - len(found))
            events.append(np.stack(found + blanks))
            exists.append([i < len(found) for i in range(k)])
        return _tensor(np.stack(events, 1), "int32"), ops.convert_to_tensor(np.array(exists).T)

    def enumerate(self, potentials, context) -> Iterator[list[tuple[np.ndarray, float, list]]]:
        """For each example, every object: event, score, and its parts (with repetition)."""
        return (objects for _, _, objects in self._examples(potentials, context))

    # Details ---------------------------------------------------------------------------------

    def _examples(self, potentials, context):
        """`(shapes, facts, objects with their scores)` of every example."""
        arrays, facts = _spread(potentials), [ops.convert_to_numpy(x) for x in context]
        batch = max(x.shape[0] for x in (*arrays, *facts))
        for b in range(batch):
            theta = [x[b if len(x) > 1 else 0] for x in arrays]
            shapes, fact = [x.shape for x in theta], [x[b] for x in facts]
            objects = []
            for event, parts in self.objects(shapes, fact):
                score = sum((theta[potential][index] for potential, index in parts), 0.0)
                if score > INFEASIBLE:
                    objects.append((event, score, parts))
            yield shapes, fact, objects

    def _expectations(self, potentials, context, weigh, tangents=None):
        """Sum over the objects of `weigh(probabilities, tangents of the scores)`, by part."""
        moves = None if tangents is None else _spread(tangents)
        batches: list[list[np.ndarray]] = []
        for b, (shapes, _, objects) in enumerate(self._examples(potentials, context)):
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
            _tensor(np.stack(column), potentials[0].dtype) for column in zip(*batches, strict=True)
        )


def _spread(tensors):
    return [ops.convert_to_numpy(x).astype("float64") for x in tensors]


def _tensor(x, dtype):
    return ops.convert_to_tensor(x, dtype=dtype)
