"""Numbers of arguments that mean something."""

import math


def check_count(name, value, none=False):
    """Raise a `ValueError` unless a value is a positive integer; or None, if that is allowed."""
    if none and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"Expected a positive integer. Received: {name}={value}")


def check_positive(name, value):
    """Raise a `ValueError` unless a value is a positive, finite number."""
    if not (isinstance(value, (int, float)) and math.isfinite(value) and value > 0):
        raise ValueError(f"Expected a positive, finite number. Received: {name}={value}")


def check_seed(seed):
    """Raise a `ValueError` unless a value is an integer from 0 to 2³² − 1."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ValueError(f"Expected an integer from 0 to 2**32 - 1. Received: seed={seed}")
