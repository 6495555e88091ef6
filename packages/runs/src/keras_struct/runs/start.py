"""What the scripts of the packages start, before a package imports a backend and what it logs."""

import functools
import importlib

from keras_struct.runs.quiet import hide_native_logs


def start(package: str) -> int:
    """Run the `main` of a package's `command_line`, without the log lines of native libraries."""
    hide_native_logs()
    status: int = importlib.import_module(f"keras_struct.{package}.command_line").main()
    return status


demo = functools.partial(start, "demo")
protein = functools.partial(start, "protein")
treebank = functools.partial(start, "treebank")
