"""What all structures on the lattice share: potentials by name, lengths, masks, events."""

import functools

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.alignment import events
from keras_struct.ops.alignment.layout import Layout
from keras_struct.ops.numerics import FORBIDDEN, compute_dtype
from keras_struct.ops.structure import (
    Structure,
    as_pair,
    as_potential,
    as_sequence,
    batch_of,
    check_rank,
    flatten_batch,
    flatten_shared,
    time_mask,
)
from keras_struct.ops.validation import Checks


class Lattice(Structure):
    """Potentials `cells` (..., L1, L2) first, then `gaps`, each one canonical potential.

    Args:
        op: Public name.
        spec: `Spec` with one canonical potential per name, in the same order.
        cells: Dict of potentials of shape (..., L1, L2); the first is the primary one.
        gaps: Dict of potentials of shape (), (...,), (..., L1), (..., L2), (..., 1 | L1, 1 | L2).
        lengths: None or a pair of None or integers (...,).
        mask: None or a pair of None or booleans (..., L1) and (..., L2).
        costs: Whether potentials are costs.
        inside: None, or a function of this object that says, (B, L1, L2), where the primary
            potential may be used.
    """

    family = "alignment"
    as_given = True

    def __init__(self, op, spec, cells, gaps, lengths, mask=None, costs=False, inside=None):
        self.op, self.spec, self.costs = op, spec, costs
        self.event_rank = 1 if spec.event == "columns" else 2
        self.checks = Checks()
        cells = {name: as_potential(name, x) for name, x in cells.items()}
        primary, first = next(iter(cells.items()))
        check_rank(primary, first, 2, "L1, L2")
        if 0 in tuple(first.shape[-2:]):
            raise ValueError(
                f"Expected at least one row and one column (use lengths for empty sequences). "
                f"Received: shape of {primary}={tuple(first.shape)}"
            )
        self.primary = primary
        self.dtype = first.dtype
        self.compute = compute_dtype(first.dtype)
        self.batch_shape = batch_of(first, 2)
        self.rows, self.columns = ops.shape(first)[-2:]
        self.layout = Layout(self.rows, self.columns, spec.by_rows)
        asked = zip(
            as_pair("lengths", lengths),
            as_pair("mask", mask),
            (self.rows, self.columns),
            strict=True,
        )
        self.sequences = tuple(
            as_sequence(f"lengths[{i}]", *x[:2], self.batch_shape, x[2], self.checks)
            for i, x in enumerate(asked)
        )
        self.context = self.lengths
        self.potentials = {}
        given: dict[str, str] = {}
        for name, x in cells.items():
            if tuple(x.shape[-2:]) != tuple(first.shape[-2:]):
                raise ValueError(
                    f"Expected {name} of shape (..., {first.shape[-2]}, {first.shape[-1]}). "
                    f"Received: shape of {name}={tuple(x.shape)}"
                )
            x = (
                flatten_shared(name, x, 2, self.batch_shape)
                if name != primary
                else (flatten_batch(x, 2))
            )
            self.potentials[name] = ops.cast(x, self.compute)
            given[name] = "cell"
        for name, x in gaps.items():
            x, given[name] = self._gap(name, as_potential(name, x))
            self.potentials[name] = ops.cast(x, self.compute)
        self.given = tuple(given.items())
        self.axes = dict.fromkeys(self.potentials, (0, 1))
        self.compact()
        allowed = None if inside is None else inside(self)
        for name in gaps:
            inside_of = self._inside(name, self.potentials[name])
            if inside_of is not None:
                # Beside an empty sequence, gaps read cells that do not exist: they score 0.
                x = self.potentials[name]
                self.potentials[name] = array.where(inside_of, x, ops.zeros_like(x))
        self.padding = {
            name: (self._used(name, x, allowed if name == primary else None), FORBIDDEN)
            for name, x in self.potentials.items()
        }

    @property
    def lengths(self):
        return tuple(sequence.lengths for sequence in self.sequences)

    def _gap(self, name, x):
        """A gap potential as (B or 1, 1 | L1, 1 | L2), and how its marginals are given back."""
        batch = len(self.batch_shape)
        extra = len(x.shape) - batch
        if len(x.shape) == 0:
            return ops.reshape(x, (1, 1, 1)), "scalar"
        if extra == 0:
            return flatten_shared(name, x, 0, self.batch_shape)[:, None, None], "scalar"
        if extra == 2:
            x = flatten_shared(name, x, 2, self.batch_shape)
            for have, want in zip(x.shape[1:], (self.rows, self.columns), strict=True):
                if isinstance(want, int) and have not in (1, want):
                    self._bad_gap(name, x)
            return x, "cell"
        if extra != 1:
            self._bad_gap(name, x)
        x = flatten_shared(name, x, 1, self.batch_shape)
        size = x.shape[1]
        by_row, by_column = size == self.rows, size == self.columns
        if by_row and by_column:
            by_row, by_column = name.endswith("_row"), name.endswith("_column")
            if not (by_row or by_column):
                raise ValueError(
                    f"Expected {name} of shape (..., {size}, 1), per row, or (..., 1, {size}), per "
                    f"column, since both sequences have size {size}. "
                    f"Received: shape of {name}={tuple(x.shape)}"
                )
        if by_row:
            return x[:, :, None], "row"
        if by_column:
            return x[:, None, :], "column"
        return self._bad_gap(name, x)

    def _bad_gap(self, name, x):
        raise ValueError(
            f"Expected {name} of shape (), (...,), (..., {self.rows}), (..., {self.columns}) or "
            f"(..., 1 or {self.rows}, 1 or {self.columns}) with batch axes {self.batch_shape}. "
            f"Received: shape of {name}={tuple(x.shape)}"
        )

    def _kept(self, table):
        """A table (B, L1, L2, ...) without what is masked out."""
        for axis, sequence in enumerate(self.sequences, 1):
            if sequence.places is not None:
                table = sequence.places.gather(table, axis)
        return table

    def _used(self, name, x, allowed):
        """Where a potential is used, as far as its axes say; None for everywhere."""
        primary = name == self.primary
        masks = [] if allowed is None else [allowed]
        least = 0 if primary else 1
        for axis, (sequence, size) in enumerate(
            zip(self.sequences, (self.rows, self.columns), strict=True), 1
        ):
            if sequence.ragged and (primary or x.shape[axis] != 1):
                inside = time_mask(ops.maximum(sequence.lengths, least), size)
                masks.append(inside[:, :, None] if axis == 1 else inside[:, None, :])
        return functools.reduce(ops.logical_and, masks) if masks else None

    def fold(self, potentials):
        return tuple(potentials.values())

    def unfold(self, marginals):
        named = {}
        for (name, given), x in zip(self.given, marginals, strict=True):
            used = self._inside(name, x)
            if used is not None:
                x = array.where(used, x, ops.zeros_like(x))
            named[name] = _as_given(x, given)
        return named

    def _inside(self, name, x):
        """Which entries belong to the sequences, or None for all."""
        masks = []
        sizes = (self.rows, self.columns)
        for axis, (sequence, size) in enumerate(zip(self.sequences, sizes, strict=True), 1):
            if sequence.ragged and (name == self.primary or x.shape[axis] != 1):
                inside = sequence.mask(size)
                masks.append(inside[:, :, None] if axis == 1 else inside[:, None, :])
        return functools.reduce(ops.logical_and, masks) if masks else None

    def scattered(self, name, x):
        """A marginal in the shape in which it was given, with every position where it was."""
        given = dict(self.given)[name]
        if given == "scalar":
            return x
        wide = {"row": lambda y: y[:, :, None], "column": lambda y: y[:, None]}.get(given)
        moved = super().scattered(name, x if wide is None else wide(x))
        return moved if wide is None else _as_given(moved, given)

    def parts(self, event, context):
        shapes = [x.shape for x in self.potentials.values()]
        return events.parts(self.spec, self.layout, event, shapes, self.compute)

    def possible(self, event, context):
        return events.possible(self.spec, self.layout, event, context[:2])

    def restore(self, event, places):
        if self.spec.event == "columns":
            first, second = places
            event = event if second is None else second.positions(event)
            return event if first is None else first.scatter(event, 1)
        pair = ops.unstack(event, 2, axis=2)
        moved = [self._moved_nodes(*x, "positions") for x in zip(pair, places, strict=True)]
        return ops.stack(moved, axis=2)

    def compacted(self, event, places):
        if self.spec.event == "columns":
            first, second = places
            event = event if first is None else first.gather(event, 1)
            return event if second is None else second.ranks(event)
        pair = ops.unstack(event, 2, axis=2)
        moved = [self._moved_nodes(*x, "ranks") for x in zip(pair, places, strict=True)]
        return ops.stack(moved, axis=2)

    def _moved_nodes(self, numbers, places, move):
        """Cells, or nodes: how many symbols are consumed is the place after the last of them."""
        if places is None:
            return numbers
        if self.spec.event == "cells":
            return getattr(places, move)(numbers)
        last = getattr(places, move)(array.where(numbers > 0, numbers - 1, -1))
        return array.where(numbers > 0, last + 1, numbers)


def _as_given(x, given):
    if given == "scalar":
        return x[:, 0, 0]
    if given == "row":
        return x[:, :, 0]
    return x[:, 0, :] if given == "column" else x
