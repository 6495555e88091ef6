"""The loop over widths, whose state is a tree of arrays (lists, tuples, dicts, `Scaled`, None).

Spans of width w have at most w cuts and N - w + 1 starts, of the N x N that a loop over equal
shapes would compute. So the widths are divided into parts, each with arrays of its own size.
"""

import dataclasses
import itertools

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.scaled import EMPTY, Scaled

SMALLEST_PART = 8  # widths
MOST_PARTS = 8


@dataclasses.dataclass(frozen=True)
class Part:
    """The widths after `first` up to `last`; frames are (B, rows, columns), rows (B, columns)."""

    n: int
    first: int
    last: int

    @property
    def rows(self):
        return min(self.last + 1, self.n)

    @property
    def columns(self):
        return min(self.n - self.first + 1, self.n)

    def fit(self, tree, axes=1, fill=0):
        """Arrays cut or filled up to the size of this part; `axes` leading axes are others."""
        return _map(lambda x, fill: self._fit(x, axes, fill), tree, fill)

    def inputs(self, tree):
        """What the loop reads at these widths."""
        return self.fit(_map(lambda x, _: x[self.first : self.last], tree, 0), axes=2)

    def outputs(self, tree):
        """What the loop wrote, in full size."""
        return dataclasses.replace(self, first=0, last=self.n).fit(tree, axes=2)

    def _fit(self, x, axes, fill):
        rank = max(0, len(x.shape) - axes)
        sizes = (self.rows, self.columns)[-rank:] if rank else ()
        for axis, size in enumerate(sizes, start=axes):
            have = x.shape[axis]
            if have == size or have == 1 or have > self.n:
                continue
            if have > size:
                x = x[(slice(None),) * axis + (slice(size),)]
            else:
                pad = [(0, 0)] * len(x.shape)
                pad[axis] = (0, size - have)
                x = array.pad(x, pad, fill)
        return x


def parts(n):
    """The parts of the widths 1 to N; None where N is unknown."""
    if not isinstance(n, int):
        return None
    count = max(1, min(MOST_PARTS, n // SMALLEST_PART))
    bounds = [round(n * i / count) for i in range(count + 1)]
    return [Part(n, a, b) for a, b in itertools.pairwise(bounds)]


def scan_widths(n, make_step, state, xs, like, reverse=False):
    """`scan` over all widths, part by part; `make_step(part)` gives the step (part None: whole)."""
    every = parts(n)
    if every is None or len(every) == 1:
        return scan(make_step(None), state, xs, like, reverse)
    outputs = []
    for part in reversed(every) if reverse else every:
        state = part.fit(state)
        state, output = scan(make_step(part), state, part.inputs(xs), part.fit(like), reverse)
        outputs.append(part.outputs(output))
    if reverse:
        outputs.reverse()
    leaves = zip(*map(_leaves, outputs), strict=True)
    return state, _build(like, iter([ops.concatenate(x, axis=0) for x in leaves]))


def scan(step, state, xs, like, reverse=False):
    """`array.scan` over trees."""

    def flat_step(carry, x):
        new, out = step(_build(state, iter(carry)), _build(xs, iter(x)))
        return tuple(_leaves(new)), tuple(_leaves(out))

    carry, out = array.scan(
        flat_step, tuple(_leaves(state)), tuple(_leaves(xs)), tuple(_leaves(like)), reverse
    )
    return _build(state, iter(carry)), _build(like, iter(out))


def _leaves(tree):
    if isinstance(tree, dict):
        tree = tuple(tree.values())
    if isinstance(tree, (list, tuple)):
        for part in tree:
            yield from _leaves(part)
    elif tree is not None:
        yield tree


def _build(tree, leaves):
    """A tree like `tree` with new leaves."""
    if isinstance(tree, dict):
        return {key: _build(part, leaves) for key, part in tree.items()}
    if isinstance(tree, Scaled):
        return Scaled(next(leaves), next(leaves))
    if isinstance(tree, (list, tuple)):
        return [_build(part, leaves) for part in tree]
    return None if tree is None else next(leaves)


def _map(function, tree, fill):
    """`function(leaf, fill)` of every leaf; the exponents of `Scaled` have their own fill."""
    if isinstance(tree, dict):
        return {key: _map(function, part, fill) for key, part in tree.items()}
    if isinstance(tree, Scaled):
        return Scaled(function(tree.m, 0), function(tree.e, EMPTY))
    if isinstance(tree, (list, tuple)):
        return [_map(function, part, fill) for part in tree]
    return None if tree is None else function(tree, fill)
