"""What the commands of keras_struct share: streams, errors, progress, training that goes on."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_struct.runs.command import LeftOut, check_outputs, run_command, shortened
    from keras_struct.runs.texts import check_text, open_text
    from keras_struct.runs.training import claim, digest, digest_of_weights, fit, without_names

__all__ = [
    "LeftOut",
    "check_outputs",
    "check_text",
    "claim",
    "digest",
    "digest_of_weights",
    "fit",
    "open_text",
    "run_command",
    "shortened",
    "without_names",
]


def __getattr__(name: str) -> Any:
    # Imported when asked for: `quiet` and `start` run before Keras and its backend are imported.
    if name in __all__:
        for module in ("command", "texts", "training"):
            found = getattr(importlib.import_module(f"{__name__}.{module}"), name, None)
            if found is not None:
                globals()[name] = found
                return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
