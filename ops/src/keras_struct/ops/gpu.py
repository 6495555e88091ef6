"""Sizes of GPU kernels, whatever they are written in."""


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
