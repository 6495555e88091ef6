"""What the commands of keras_struct share: streams, errors, progress, training that goes on."""

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


def __dir__() -> list[str]:
    return __all__
