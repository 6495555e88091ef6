"""A page to play with: `keras-struct demo`."""

__all__: list[str] = []


def __dir__() -> list[str]:
    return __all__
