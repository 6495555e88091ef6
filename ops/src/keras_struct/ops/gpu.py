"""Sizes and names of GPU kernels, whatever they are written in."""

import dataclasses
import functools
import hashlib


@dataclasses.dataclass(frozen=True, repr=False)
class Named:
    """A base of dataclasses of all that is known of a kernel when it is compiled; with `repr=False`
    their name has few letters. Triton tells compiled kernels apart by it."""

    def __repr__(self):
        return self._name

    @functools.cached_property
    def _name(self):
        values = [repr(getattr(self, field.name)) for field in dataclasses.fields(self)]
        return "Plan_" + hashlib.sha256(" ".join(values).encode()).hexdigest()[:16]


def power(n):
    """The least power of two that is not below n."""
    return 1 << max(n - 1, 0).bit_length()


def warps_for(numbers, each=16, most=16):
    """How many warps work on so many numbers, some `each` of them in the registers of a thread."""
    return max(1, min(most, power(numbers) // (32 * each)))


def filling(batch, useful, most=16, full=1 << 11):
    """How many warps a program has: one if there are enough programs for a device, else as many as
    have work, up to `most`."""
    warps = 1
    while warps < min(most, useful) and warps * batch < full:
        warps *= 2
    return warps
