"""What all structures on the lattice share: potentials by name, lengths, masks, events."""

import functools

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.alignment import events
from keras_struct.ops.alignment.layout import Layout
from keras_struct.ops.numerics import FORBIDDEN, clean, compute_dtype
from keras_struct.ops.structure import (
    Structure,
    as_lengths,
    as_potential,
    batch_of,
    check_rank,
    flatten_batch,
    flatten_shared,
    time_mask,
)


class Lattice(Structure):
    """Potentials `cells` (..., L1, L2) first, then `gaps`, each one canonical potential.

    Args:
        op: Public name.
        spec: `Spec` with one canonical potential per name, in the same order.
        rules: The same in the words of `reference.py`.
        cells: Dict of potentials of shape (..., L1, L2); the first is the primary one.
        gaps: Dict of potentials of shape (), (...,), (..., L1), (..., L2), (..., 1 | L1, 1 | L2).
        lengths: None or a pair of None or integers (...,).
        costs: Whether potentials are costs.

    Attributes:
        allowed: None, or booleans (B, L1, L2) that say where the primary potential may be used.
    """

    def __init__(self, op, spec, rules, cells, gaps, lengths, costs=False):
        self.op, self.spec, self.rules, self.costs = op, spec, rules, costs
        self.event_rank = 1 if spec.event == "columns" else 2
        cells = {name: as_potential(name, x) for name, x in cells.items()}
        primary, first = next(iter(cells.items()))
        check_rank(primary, first, 2, "L1, L2")
        if 0 in tuple(first.shape[-2:]):
            raise ValueError(
                f"Expected at least one row and one column (use lengths for empty sequences). "
                f"Received: shape of {primary}={tuple(first.shape)}"
            )
        self.dtype = first.dtype
        self.compute = compute_dtype(first.dtype)
        self.batch_shape = batch_of(first, 2)
        self.rows, self.columns = ops.shape(first)[-2:]
        self.layout = Layout(self.rows, self.columns, spec.by_rows)
        self.lengths = as_pair_of_lengths(lengths, self.batch_shape, self.rows, self.columns)
        self.context = self.lengths
        given = (None, None) if lengths is None else lengths
        self.ragged = tuple(length is not None for length in given)
        self.potentials, self.given = {}, {}
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
            self.given[name] = "cell"
        for name, x in gaps.items():
            x, self.given[name] = self._gap(name, as_potential(name, x))
            self.potentials[name] = ops.cast(x, self.compute)
        self.primary, self.allowed = primary, None

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

    def options(self):
        return {"spec": self.spec, "rules": self.rules}

    def mask(self, name, x, least=0):
        """Where a potential may be used, as far as its axes say; None for everywhere.

        Args:
            least: Lengths below this count as this.
        """
        primary = name == self.primary
        masks = [self.allowed] if primary and self.allowed is not None else []
        first, second = (ops.maximum(length, least) for length in self.lengths)
        if self.ragged[0] and (primary or x.shape[1] != 1):
            masks.append(time_mask(first, self.rows)[:, :, None])
        if self.ragged[1] and (primary or x.shape[2] != 1):
            masks.append(time_mask(second, self.columns)[:, None, :])
        return functools.reduce(ops.logical_and, masks) if masks else None

    def clean_potentials(self, temperature):
        cleaned = {}
        for name, x in self.potentials.items():
            x = -x if self.costs else x
            cleaned[name] = clean(x, self.mask(name, x), temperature)
        return cleaned

    def fold(self, potentials):
        folded = []
        for name, x in potentials.items():
            # Beside an empty sequence, gaps read cells that do not exist: they score 0.
            mask = self.mask(name, x, least=int(name != self.primary))
            if mask is not None:
                x = array.where(mask, x, ops.full_like(x, FORBIDDEN))
            folded.append(x)
        return tuple(folded)

    def unfold(self, marginals):
        named = {}
        for name, x in zip(self.potentials, marginals, strict=True):
            mask = self.mask(name, x)
            if mask is not None:
                x = array.where(mask, x, ops.zeros_like(x))
            if self.given[name] == "scalar":
                x = x[:, 0, 0]
            elif self.given[name] == "row":
                x = x[:, :, 0]
            elif self.given[name] == "column":
                x = x[:, 0, :]
            named[name] = x
        return named

    def parts(self, event, context):
        shapes = [x.shape for x in self.potentials.values()]
        return events.parts(self.spec, self.layout, event, shapes, self.compute)

    def possible(self, event, context):
        return events.possible(self.spec, self.layout, event, context[:2])


def as_pair_of_lengths(lengths, batch_shape, rows, columns):
    """Two integer tensors (B,)."""
    if lengths is None:
        lengths = (None, None)
    if not isinstance(lengths, (tuple, list)) or len(lengths) != 2:
        raise ValueError(f"Expected a pair of lengths, or None. Received: lengths={lengths}")
    return (
        as_lengths("lengths[0]", lengths[0], batch_shape, rows),
        as_lengths("lengths[1]", lengths[1], batch_shape, columns),
    )
