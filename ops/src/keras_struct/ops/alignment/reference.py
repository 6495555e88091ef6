"""Alignments, warpings and edits as lattices of nodes, drawn as their papers draw them."""

import dataclasses
from typing import Any

import numpy as np

from keras_struct.ops.path_oracle import END, START, Edge, Part, PathReference


class AlignmentReference(PathReference):
    """By the rules of the spec, which name the drawing."""

    def lattice(self, spec, shapes, context):
        return _drawing(spec).lattice(shapes, context)

    def event(self, spec, labels, shapes, context):
        return _drawing(spec).event([x for x in labels if x is not None], shapes)


def _drawing(spec):
    name, *rules = spec.rules
    kinds: dict[str, Any] = {
        "gapped": Gapped,
        "edit": Edit,
        "damerau": Damerau,
        "dtw": Warping,
        "monotonic": Monotonic,
    }
    return kinds[name](*rules, *[spec.empty] * (name == "gapped"))


class NodePaths:
    """Events are the nodes (i, j) of the path, which are the labels of the edges."""

    def event(self, nodes, shapes):
        blank = [(-1, -1)] * (sum(shapes[0]) + 1 - len(nodes))
        return np.array(nodes + blank, "int32")


@dataclasses.dataclass(frozen=True)
class Gapped(NodePaths):
    """Cells (i, j, state): M after a match, X after a skipped row, Y after a skipped column."""

    mode: str
    affine: bool
    adjacent: str
    pairs: tuple[bool, bool]
    empty: bool

    def lattice(self, shapes, context):
        n, m = (int(length) for length in context[:2])
        edges = [Edge(START, END)] if self.empty else []
        for i in range(n + 1):
            for j in range(m + 1):
                edges += self._into(i, j, n, m, shapes)
                edges += self._out_of(i, j, n, m)
        return edges

    def _into(self, i, j, n, m, shapes):
        node = (i, j)
        if self.mode == "global" and node == (0, 0):
            return [Edge(START, (0, 0, "M"), label=node)]
        if self.mode == "overlap" and 0 in node:
            starts = (i == 0 and j < m and n > 0) or (j == 0 and i < n and m > 0)
            return [Edge(START, (i, j, "M"), label=node)] if starts else []
        edges = []
        if i > 0 and j > 0:
            match = ((0, (i - 1, j - 1)),)
            edges += [Edge((i - 1, j - 1, s), (i, j, "M"), match, node) for s in "MXY"]
            if self.mode == "local":
                before = ("before", i, j)
                edges += [Edge(START, before, label=(i - 1, j - 1))]
                edges += [Edge(before, (i, j, "M"), match, node)]
        if i > 0:
            for state in self._may_precede("X"):
                part = self._gap("X", state, i, j, shapes)
                edges.append(Edge((i - 1, j, state), (i, j, "X"), (part,), node))
        if j > 0:
            for state in self._may_precede("Y"):
                part = self._gap("Y", state, i, j, shapes)
                edges.append(Edge((i, j - 1, state), (i, j, "Y"), (part,), node))
        return edges

    def _out_of(self, i, j, n, m):
        if self.mode == "local":
            return [Edge((i, j, "M"), END)]
        corner, border = (i, j) == (n, m), (i == n or j == m) and i > 0 and j > 0
        last = corner if self.mode == "global" else border
        return [Edge((i, j, s), END) for s in "MXY"] if last else []

    def _may_precede(self, state):
        if self.adjacent == "any" or (self.adjacent == "ordered" and state == "Y"):
            return "MXY"
        return "M" + state

    def _gap(self, state, before, i, j, shapes):
        """Which gap potential scores this skip, and where it is read."""
        channel = 1 + (self.pairs[0] and state == "Y")
        if self.affine and state == before:
            channel = 2 + self.pairs[0] + (self.pairs[1] and state == "Y")
        rows, columns = shapes[channel]
        return channel, (min(max(i - 1, 0), rows - 1), min(max(j - 1, 0), columns - 1))


@dataclasses.dataclass(frozen=True)
class Edit(NodePaths):
    """Cells (i, j): substitute, delete, insert, swap (channels 0 to 3, None where free)."""

    channels: tuple[int | None, ...]

    def lattice(self, shapes, context):
        n, m = (int(length) for length in context[:2])
        steps = ((1, 1), (1, 0), (0, 1), (2, 2))[: len(self.channels)]
        edges = [Edge(START, (0, 0), label=(0, 0))]
        for i in range(n + 1):
            for j in range(m + 1):
                for channel, (di, dj) in zip(self.channels, steps, strict=True):
                    if di > i or dj > j:
                        continue
                    parts: tuple[Part, ...] = ()
                    if channel is not None:
                        rows, columns = shapes[channel]
                        index = min(max(i - 1, 0), rows - 1), min(max(j - 1, 0), columns - 1)
                        parts = ((channel, index),)
                    edges.append(Edge((i - di, j - dj), (i, j), parts, (i, j)))
        return [*edges, Edge((n, m), END)]


@dataclasses.dataclass(frozen=True)
class Damerau(Edit):
    """As `Edit`, with a transposition into (i, j) from the node that `sources` names."""

    channels: tuple[int | None, ...] = (0, 1, 2)

    def lattice(self, shapes, context):
        n, m = (int(length) for length in context[:2])
        edges = super().lattice(shapes, context)
        for i in range(n):
            for j in range(m):
                k, l = (int(x) for x in context[2][i, j])
                if k >= 0:
                    edges.append(Edge((k, l), (i + 1, j + 1), ((3, (i, j)),), (i + 1, j + 1)))
        return edges


@dataclasses.dataclass(frozen=True)
class Warping:
    """Cells (i, j), steps (1, 1), (1, 0) and (0, 1)."""

    def lattice(self, shapes, context):
        n, m = (int(length) for length in context[:2])
        if n == 0 or m == 0:
            return [Edge(START, END)] if n == m else []
        edges = [Edge(START, (0, 0), ((0, (0, 0)),), (0, 0))]
        for i in range(n):
            for j in range(m):
                for before in ((i - 1, j - 1), (i - 1, j), (i, j - 1)):
                    if min(before) >= 0:
                        edges.append(Edge(before, (i, j), ((0, (i, j)),), (i, j)))
        return [*edges, Edge((n - 1, m - 1), END)]

    def event(self, cells, shapes):
        blank = [(-1, -1)] * (sum(shapes[0]) - 1 - len(cells))
        return np.array(cells + blank, "int32").reshape(-1, 2)


@dataclasses.dataclass(frozen=True)
class Monotonic:
    """Cells (frame, token): the next frame keeps the token or takes the next one."""

    def lattice(self, shapes, context):
        n, m = (int(length) for length in context[:2])
        if n == 0 or m == 0:
            return [Edge(START, END)] if n == m else []
        edges = [Edge(START, (0, 0), ((0, (0, 0)),), 0)]
        for t in range(1, n):
            for s in range(m):
                edges += [Edge((t - 1, b), (t, s), ((0, (t, s)),), s) for b in (s - 1, s) if b >= 0]
        return [*edges, Edge((n - 1, m - 1), END)]

    def event(self, tokens, shapes):
        return np.array(tokens + [-1] * (shapes[0][0] - len(tokens)), "int32")
