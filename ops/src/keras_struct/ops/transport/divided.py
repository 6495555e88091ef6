"""A band whose queries and keys are divided over devices (see `ops.divided`).

A device needs what its own places reach: features, offsets and values of `band_width` places of
each neighbour. With them its part of the band is a band of its own, in tiles. That is all that
devices tell each other, beside the mean of a potential (see `Solver`).
"""

import dataclasses
import functools
from typing import Any

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.division import UNDIVIDED
from keras_struct.ops.numerics import FORBIDDEN
from keras_struct.ops.transport import tiles
from keras_struct.ops.transport.tiled import Tiled


@dataclasses.dataclass(frozen=True)
class DividedBand(Tiled):
    """Sums and products over the part of a band that a device has.

    Attributes:
        division: `Division`; None in the registry.
    """

    division: Any = None

    @staticmethod
    def rejects(call):
        if call.division is None:
            return UNDIVIDED
        width, sizes = call.option("band_width"), [x[1] for x in call.shapes]
        if width is None or call.option("spokes"):
            return "without a band, or with a dustbin, every place reaches all of the others"
        if sizes[0] != sizes[1]:
            return "there are not as many queries as keys, so their parts lie elsewhere"
        return call.division.rejects(*call.shapes[0][:2], least=max(1, width))

    @classmethod
    def made_for(cls, call):
        return functools.partial(cls, division=call.division)

    def log_sums(self, side, features, offsets, lengths, near):
        zeros = ops.zeros_like(features[side][..., 0])
        back = lengths if side == 0 else lengths[::-1]

        def sums(support, ours, theirs, lengths):
            return tiles.log_sums(support, ours[0], theirs[0], theirs[1], lengths)

        return self.over_parts(sums, (features[side], zeros), (features[1 - side], offsets), back)

    def plan(self, rows, columns, potentials, lengths):
        return DividedPlan(self, rows, columns, potentials, lengths)

    def over_parts(self, function, ours, theirs, lengths):
        """`function(support, ours, theirs, lengths)` of a band on each device, put together.

        Args:
            function: Of arrays of some places, and of the places that these reach.
            ours: Features (B, L, D), potentials (B, L) and other arrays of the places.
            theirs: The same of the places on the other side.
            lengths: Of both sides.
        """
        place, width = self.division, self.support.band_width or 0
        support = dataclasses.replace(self.support, origin=width)

        def part(ours, theirs, counts):
            size = ours[0].shape[1]
            first = place.index() * size
            both = []
            for arrays, count in zip((ours, theirs), counts, strict=True):
                places = first + ops.arange(size, dtype="int32")
                inside = places[None] < count[:, None]
                potentials = array.where(inside, arrays[1], ops.full_like(arrays[1], FORBIDDEN))
                both.append([arrays[0], potentials, *arrays[2:]])
            ours, theirs = both
            fills = (0.0, FORBIDDEN, *[0.0] * len(theirs[2:]))
            if width:
                theirs = [
                    place.neighbours(x, width, fill) for x, fill in zip(theirs, fills, strict=True)
                ]
            counts = [ops.zeros_like(n) + x[0].shape[1] for n, x in zip(counts, both, strict=True)]
            return function(support, ours, theirs, (counts[0], counts[1] + 2 * width))

        specs = place.sequence_spec(), place.sequence_spec(), place.spec()
        run = place.run(part, specs, place.sequence_spec())
        return run(tuple(ours), tuple(theirs), tuple(lengths))


class DividedPlan:
    """A plan that is made again for each product, on every device its part."""

    def __init__(self, band, rows, columns, potentials, lengths):
        self.band, self.lengths = band, lengths
        self.rows, self.columns = ((x, f) for x, f in zip((rows, columns), potentials, strict=True))

    def times(self, values):
        return self._times(self.rows, self.columns, values, self.lengths)

    def transposed_times(self, values):
        return self._times(self.columns, self.rows, values, self.lengths[::-1])

    def modulated(self, left, right):
        return (
            self._modulated(self.rows, self.columns, left, right, self.lengths),
            self._modulated(self.columns, self.rows, right, left, self.lengths[::-1]),
        )

    def _times(self, ours, theirs, values, lengths):
        def product(support, ours, theirs, lengths):
            potentials = ours[1], theirs[1]
            return tiles.apply_plan(support, ours[0], theirs[0], potentials, theirs[2], lengths)

        return self.band.over_parts(product, ours, (*theirs, values), lengths)

    def _modulated(self, ours, theirs, left, right, lengths):
        def product(support, ours, theirs, lengths):
            (x, f, left), (y, g, right) = ours, theirs
            return tiles.modulated_plan(support, x, y, (f, g), left, right, y, lengths)

        return self.band.over_parts(product, (*ours, left), (*theirs, right), lengths)
