"""Events of the lattice: paths as integer arrays, and the parts that a path uses.

- "nodes": (N, 2), N = L1 + L2 + 1: the nodes (i, j) of the path in order, as numbers of symbols
  consumed; (-1, -1) after the end.
- "cells": (N, 2), N = L1 + L2 - 1: the cells (i, j) of the path in order, then (-1, -1).
- "columns": (L1,): the column of every row, -1 after the end.
"""

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.alignment.spec import START


def encode(spec, layout, places):
    """Event from positions (1 + steps, B) by time, -1 where the path has no node."""
    places = ops.transpose(places)
    if spec.event == "columns":
        return array.where(places > 0, places - 1, -1)[:, 1:]
    times = ops.arange(layout.steps + 1, dtype="int32")[None]
    visited = places >= 0
    i, j = layout.node(times, places)
    if spec.event == "cells":
        visited = ops.logical_and(visited, times > 0)
        i, j = i - 1, j - 1
    order = ops.cast(
        ops.argsort(array.where(visited, times, times + layout.steps + 1), axis=1), "int32"
    )
    nodes = [array.take_along_axis(array.where(visited, x, -1), order, 1) for x in (i, j)]
    nodes = ops.stack(nodes, axis=2)
    return nodes[:, : layout.steps - 1] if spec.event == "cells" else nodes


def encode_all(spec, layout, places, exists):
    """Events (k, B, ...) from positions (k, 1 + steps, B), -1 where none exists; and `exists`."""
    encoded = ops.stack(
        [encode(spec, layout, x) for x in ops.unstack(places, exists.shape[0], axis=0)]
    )
    keep = ops.reshape(exists, (*ops.shape(exists), *(1 for _ in encoded.shape[2:])))
    return array.where(keep, encoded, -1), exists


def decode(spec, layout, event):
    """Nodes (B, N) i and j of an event in order, -1 after its end."""
    if spec.event == "nodes":
        inside = ops.logical_and(event[..., 0] >= 0, event[..., 1] >= 0)
        return tuple(array.where(inside, event[..., axis], -1) for axis in range(2))
    if spec.event == "cells":
        inside = ops.logical_and(event[..., 0] >= 0, event[..., 1] >= 0)
        i, j = (array.where(inside, event[..., axis] + 1, -1) for axis in range(2))
    else:
        i = ops.arange(1, layout.rows + 1, dtype="int32")[None] + 0 * event
        i, j = array.where(event >= 0, i, -1), array.where(event >= 0, event + 1, -1)
    origin = ops.zeros_like(i[:, :1])
    return ops.concatenate([origin, i], axis=1), ops.concatenate([origin, j], axis=1)


def used(spec, i, j):
    """For every move, whether the step into node n + 1 is that move: a list of (B, N - 1).

    With jumps, the last entry says whether it is a jump (from wherever).
    """
    going = ops.logical_and(i[:, :-1] >= 0, i[:, 1:] >= 0)
    di, dj = i[:, 1:] - i[:, :-1], j[:, 1:] - j[:, :-1]
    if spec.jumps:
        moves = [
            ops.logical_and(ops.equal(di, move.di), ops.equal(dj, move.dj)) for move in spec.moves
        ]
        moves.append(ops.logical_and(di > 1, dj > 1))
        return [ops.logical_and(going, move) for move in moves]
    after = ops.full_like(di, -2)
    for move in spec.moves:
        hit = ops.logical_and(ops.equal(di, move.di), ops.equal(dj, move.dj))
        after = array.where(hit, move.target, after)
    first = START if spec.start == "anywhere" else 0
    before = ops.concatenate([ops.full_like(after[:, :1], first), after[:, :-1]], axis=1)
    return [
        ops.logical_and(
            ops.logical_and(going, ops.equal(before, move.source)),
            ops.logical_and(ops.equal(di, move.di), ops.equal(dj, move.dj)),
        )
        for move in spec.moves
    ]


def parts(spec, layout, event, shapes, dtype):
    """Indicator of the event for every canonical potential, per example.

    Args:
        shapes: Shapes of the canonical potentials (their sizes 1 are summed over).
    """
    i, j = decode(spec, layout, event)
    steps = used(spec, i, j)
    i, j = i[:, 1:], j[:, 1:]
    indicators = []
    for channel, (kind, shape) in enumerate(zip(spec.kinds, shapes, strict=True)):
        hits = [x for x, move in zip(steps, spec.moves, strict=False) if move.channel == channel]
        if spec.jumps and channel == len(spec.kinds) - 1:
            hits = steps[-1:]
        total = ops.cast(hits[0], dtype)
        for hit in hits[1:]:
            total = total + ops.cast(hit, dtype)
        if kind == "gap" and shape[1] == 1 and shape[2] == 1:
            indicators.append(ops.sum(total, axis=1)[:, None, None])
            continue
        nodes = _scatter(layout, i, j, total)
        if kind == "cell":
            indicators.append(nodes[:, 1:, 1:])
            continue
        x = ops.concatenate([nodes[:, :1] + nodes[:, 1:2], nodes[:, 2:]], axis=1)
        x = ops.concatenate([x[:, :, :1] + x[:, :, 1:2], x[:, :, 2:]], axis=2)
        for axis in (1, 2):
            x = ops.sum(x, axis=axis, keepdims=True) if shape[axis] == 1 else x
        indicators.append(x)
    return tuple(indicators)


def possible(spec, layout, event, lengths):
    """Whether the event is a path of the structure from a start to an end, (B,)."""
    i, j = decode(spec, layout, event)
    first, second = lengths
    steps = used(spec, i, j)
    known = steps[0]
    for step in steps[1:]:
        known = ops.logical_or(known, step)
    last = ops.sum(ops.cast(i >= 0, "int32"), axis=1) - 1
    at = ops.maximum(last, 0)[:, None]
    end_i = array.take_along_axis(i, at, 1)[:, 0]
    end_j = array.take_along_axis(j, at, 1)[:, 0]
    inside = ops.logical_and(end_i <= first, end_j <= second)
    count = ops.sum(ops.cast(known, "int32"), axis=1)
    fine = ops.logical_and(ops.equal(count, last), inside)
    corner = ops.logical_and(ops.equal(end_i, first), ops.equal(end_j, second))
    if spec.start == "corner":
        fine = ops.logical_and(fine, ops.logical_and(ops.equal(i[:, 0], 0), ops.equal(j[:, 0], 0)))
    if spec.end == "corner":
        return ops.logical_and(fine, corner)
    if spec.start == "border":
        border = ops.logical_and(ops.equal(ops.minimum(i, j)[:, :1], 0), ops.ones_like(i, "bool"))
        again = ops.logical_and(ops.equal(ops.minimum(i, j)[:, 1:], 0), border[:, 1:])
        fine = ops.logical_and(fine, border[:, 0])
        fine = ops.logical_and(fine, ops.logical_not(ops.any(again, axis=1)))
    if spec.end == "border":
        fine = ops.logical_and(
            fine, ops.logical_or(ops.equal(end_i, first), ops.equal(end_j, second))
        )
    else:
        matches = [s for s, move in zip(steps, spec.moves, strict=True) if move.target == 0]
        match = matches[0]
        for other in matches[1:]:
            match = ops.logical_or(match, other)
        at = ops.maximum(last - 1, 0)[:, None]
        fine = ops.logical_and(
            fine, array.take_along_axis(ops.cast(match, "int32"), at, 1)[:, 0] > 0
        )
    some = last >= 1
    fine = ops.logical_and(fine, some)
    return ops.logical_or(fine, last < 0) if spec.empty else fine


def _scatter(layout, i, j, weights):
    """Weights at their nodes: (B, 1 + rows, 1 + columns). No node twice."""
    batch = ops.shape(i)[0]
    rows, columns = layout.rows + 1, layout.columns + 1
    total = rows * columns
    legal = ops.logical_and(ops.logical_and(i >= 0, i < rows), ops.logical_and(j >= 0, j < columns))
    index = array.where(legal, i * columns + j, total)
    table = array.pad(array.zeros_like(weights[:, :1]), ((0, 0), (0, total)), 0)
    table = array.add_at(table, index, weights)
    return ops.reshape(table[:, :total], (batch, rows, columns))
