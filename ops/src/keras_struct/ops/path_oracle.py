"""The oracle of every structure whose objects are paths: NumPy float64, plain loops.

A structure over paths is a lattice: cells in topological order and edges between them, each of
which uses some parts. An object is a path from the first to the last cell, its score the sum of the
potentials of the parts on its edges. `reference.py` of a structure builds the lattice of one
example as its paper draws it; everything else is here. The curvature sweep is the complex step
(Squire and Trapp, 1998): `imag(marginals(theta + i h tangent)) / h` has no rounding error in `h`.
"""

import dataclasses
import itertools
from collections.abc import Hashable, Iterator
from typing import Any

import numpy as np
from keras import ops

from keras_struct.ops.implementation import Implementation
from keras_struct.ops.numerics import INFEASIBLE

START: Hashable = "start"
END: Hashable = "end"
Part = tuple[int, tuple[int, ...]]  # canonical potential, index in it (without the batch axis)


@dataclasses.dataclass
class Edge:
    """One step of a path: it uses `parts`; `label` is what the event is read from."""

    source: Hashable
    target: Hashable
    parts: tuple[Part, ...] = ()
    label: Any = None


class PathReference(Implementation):
    """Sweeps by plain loops over the lattice of each example."""

    traceable = False

    def rejects(self, call):
        return "the reference needs concrete values (no jit)" if call.traced else None

    def avoids(self, call):
        return "it is the oracle of the tests: plain loops in float64"

    def lattice(self, spec, shapes, context) -> list[Edge]:
        """Edges of one example, sources in topological order.

        Args:
            spec: The structure as static data.
            shapes: Shapes of the canonical potentials, without the batch axis.
            context: Context arrays of this example.
        """
        raise NotImplementedError

    def event(self, spec, labels, shapes, context) -> np.ndarray:
        """The event of a path, from the labels of its edges."""
        raise NotImplementedError

    # The sweeps ------------------------------------------------------------------------------

    def forward(self, problem, op):
        values = [_inside(edges, theta, op)[END] for edges, theta in self._examples(problem)]
        return _tensor(np.array(values), problem.potentials[0].dtype), ()

    def backward(self, problem, tape):
        marginals = [np.real(x) for x in self._marginals(problem)]
        return tuple(_tensor(x, problem.potentials[0].dtype) for x in marginals)

    def curvature(self, problem, tape, tangents):
        step = 1e-30
        marginals = self._marginals(problem, tangents, step)
        dtype = problem.potentials[0].dtype
        return tuple(_tensor(np.imag(x) / step, dtype) for x in marginals)

    def trace(self, problem, tape, draws=None):
        events, op = [], "max" if draws is None else "logsumexp"
        for b, ((edges, theta), shapes, facts) in enumerate(self._described(problem)):
            inside = _inside(edges, theta, op)
            noise = iter(gumbel(draws, b, len(edges) + 1))
            cell, labels = END, []
            while cell != START and cell in inside:
                into = [e for e in edges if e.target == cell and e.source in inside]
                if not into:
                    break
                edge = max(into, key=lambda e: inside[e.source] + _score(e, theta) + next(noise))
                labels.append(edge.label)
                cell = edge.source
            events.append(self.event(problem.spec, labels[::-1], shapes, facts))
        return _tensor(np.stack(events), "int32")

    def sample(self, problem, tape, noise):
        draws = map(noise.draws, range(noise.count))
        return ops.stack([self.trace(problem, tape, x) for x in draws])

    def topk(self, problem, k):
        events, exists, spec = [], [], problem.spec
        for (edges, theta), shapes, facts in self._described(problem):
            best: dict[Hashable, list] = {START: [(0.0, ())]}
            for target, into in itertools.groupby(edges, key=lambda e: e.target):
                paths = [
                    (score + _score(e, theta), (*labels, e.label))
                    for e in into
                    for score, labels in best.get(e.source, [])
                ]
                best[target] = sorted(paths, key=lambda path: -path[0])[:k]
            paths = [p for p in best.get(END, []) if p[0] > INFEASIBLE]
            found = [self.event(spec, labels, shapes, facts) for _, labels in paths]
            blank = np.full_like(self.event(spec, [], shapes, facts), -1)
            events.append(np.stack(found + [blank] * (k - len(found))))
            exists.append([i < len(found) for i in range(k)])
        return _tensor(np.stack(events, 1), "int32"), ops.convert_to_tensor(np.array(exists).T)

    def enumerate(self, problem) -> Iterator[list[tuple[np.ndarray, float, list]]]:
        """For each example, every object: event, score, and its parts (with repetition)."""
        for (edges, theta), shapes, facts in self._described(problem):
            outgoing: dict[Hashable, list[Edge]] = {}
            for edge in edges:
                outgoing.setdefault(edge.source, []).append(edge)
            objects = []
            stack: list[tuple[Hashable, tuple[Edge, ...]]] = [(START, ())]
            while stack:
                cell, path = stack.pop()
                if cell == END:
                    score = sum(_score(e, theta) for e in path)
                    if score > INFEASIBLE:
                        labels = [e.label for e in path]
                        event = self.event(problem.spec, labels, shapes, facts)
                        objects.append((event, score, [p for e in path for p in e.parts]))
                for edge in outgoing.get(cell, []):
                    stack.append((edge.target, (*path, edge)))
            yield objects

    # Details ---------------------------------------------------------------------------------

    def _described(self, problem, tangents=None, step=0.0):
        arrays = [ops.convert_to_numpy(x).astype("float64") for x in problem.potentials]
        facts = [ops.convert_to_numpy(x) for x in problem.context]
        batch = max(x.shape[0] for x in (*arrays, *facts))
        arrays = [np.broadcast_to(x, (batch, *x.shape[1:])) for x in arrays]
        if tangents is not None:
            arrays = [
                x + 1j * step * ops.convert_to_numpy(t).astype("float64")
                for x, t in zip(arrays, tangents, strict=True)
            ]
        for b in range(batch):
            theta = [x[b] for x in arrays]
            shapes, fact = [x.shape for x in theta], [x[b] for x in facts]
            yield (_sorted(self.lattice(problem.spec, shapes, fact)), theta), shapes, fact

    def _examples(self, *args):
        return (example for example, _, _ in self._described(*args))

    def _marginals(self, *args):
        """Forward-backward: the posterior of an edge is alpha + score + beta - log-partition."""
        batches: list[list[np.ndarray]] = []
        for edges, theta in self._examples(*args):
            inside = _inside(edges, theta, "logsumexp")
            back = _sorted([Edge(e.target, e.source, e.parts) for e in edges], END)
            outside = _inside(back, theta, "logsumexp", END)
            marginals = [np.zeros_like(x) for x in theta]
            if np.real(inside[END]) > INFEASIBLE:
                for e in edges:
                    if e.source in inside and e.target in outside:
                        posterior = np.exp(
                            inside[e.source] + _score(e, theta) + outside[e.target] - inside[END]
                        )
                        for potential, index in e.parts:
                            marginals[potential][index] += posterior
            batches.append(marginals)
        return [np.stack(column) for column in zip(*batches, strict=True)]


def gumbel(draws, example, count):
    """Standard Gumbel noise of one example, or zeros without draws."""
    if draws is None:
        return np.zeros(count)
    noise = draws.gumbel(0, ops.arange(count, dtype="int32")[None], "float64")
    return ops.convert_to_numpy(noise)[example]


def _sorted(edges, start=START):
    """Edges grouped by target, in topological order of the targets; unreachable ones dropped."""
    pending: dict[Hashable, list[Edge]] = {}
    for edge in edges:
        pending.setdefault(edge.target, []).append(edge)
    done, ordered = {start}, []
    while pending:
        ready = [
            target
            for target, into in pending.items()
            if all(e.source in done or e.source not in pending for e in into)
        ]
        if not ready:
            raise ValueError(f"Expected a lattice without cycles. Received: cells={list(pending)}")
        for target in ready:
            ordered += [e for e in pending.pop(target) if e.source in done]
            done.add(target)
    return ordered


def _inside(edges, theta, op, start=START):
    """Log-sum (or maximum) over the paths from the start to every cell."""
    inside: dict[Hashable, Any] = {START: 4 * INFEASIBLE, END: 4 * INFEASIBLE, start: 0.0}
    for target, into in itertools.groupby(edges, key=lambda e: e.target):
        scores = [inside[e.source] + _score(e, theta) for e in into if e.source in inside]
        if scores:
            peak = max(np.real(s) for s in scores)
            total = sum(np.exp(s - peak) for s in scores) if op == "logsumexp" else 1.0
            inside[target] = peak + np.log(total)
    return inside


def _score(edge, theta):
    return sum((theta[potential][index] for potential, index in edge.parts), 0.0)


def _tensor(x, dtype):
    return ops.convert_to_tensor(x, dtype=dtype)
