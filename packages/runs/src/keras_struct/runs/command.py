"""A command as users of a shell expect it: exit status, errors, signals, closed pipes."""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from keras_struct.layers.whole_files import is_stream

DONE, LEFT_OUT, FAILED = 0, 1, 2  # exit statuses
OPTIONS: dict[str, dict[str, Any]] = {
    "--strict": {"action": "store_true", "help": "stop at what would be left out"},
    "--json": {"action": "store_true", "help": "one line of JSON instead of a table"},
    "--restart": {"action": "store_true", "help": "begin anew if the folder is in use"},
    "--overwrite": {"action": "store_true", "help": "replace what is there"},
    "--workers": {
        "type": int,
        "help": "processes of --engine ray (default: one for each processor)",
    },
    "--seed": {"type": int, "default": 0, "help": "of all random numbers (default: 0)"},
}
LONGEST_MESSAGE = 1000  # letters: an error may hold the text that it is about
SIGNALS = ("SIGTERM", "SIGHUP")  # end a process without `finally`, if nobody handles them


class LeftOut:
    """Input that is left out: each piece is named on standard error, and counted.

    Args:
        program: Name that stands before each message.
        strict: Whether the first such piece ends the run.

    Call arguments:
        error: What is wrong, with the name of the file and, if there is one, the line.

    Raises:
        Exception: The error itself, if strict.

    Example:

    >>> from keras_struct.runs import LeftOut
    >>> left_out = LeftOut("program")
    >>> left_out(ValueError("a.txt:3: Expected words. Received: none"))
    >>> left_out.count
    1
    """

    def __init__(self, program: str, strict: bool = False) -> None:
        self.program, self.strict, self.count = program, strict, 0

    def __call__(self, error: Exception) -> None:
        if self.strict:
            raise error
        self.count += 1
        print(f"{self.program}: left out: {shortened(error)}", file=sys.stderr)


class _Ended(SystemExit):
    """A signal that ends the process, after what it wrote is cleared away."""


def run_command(program: str, work: Callable[[LeftOut], None], strict: bool = False) -> int:
    """Run a command to its end.

    Args:
        program: Its name, which stands before messages on standard error.
        work: What it does, called with a `LeftOut`.
        strict: See `LeftOut`.

    Returns:
        The exit status: 0; 1 if some of the input was left out; 2 for input or arguments that do
        not fit, or a file that cannot be read or written, which is told in a line; 128 and the
        signal if one ended it (130 is Ctrl-C). A closed pipe (`| head`) is no error.
    """
    left_out = LeftOut(program, strict)
    before = _handle_signals()
    try:
        use_utf8()
        work(left_out)
        sys.stdout.flush()
    except BrokenPipeError:
        # Nobody reads on. Python would say so when it flushes once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except (ValueError, OSError, ImportError) as error:
        print(f"{program}: {shortened(error)}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except _Ended as ended:
        return int(str(ended.code))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if left_out.count:
        print(f"{program}: {left_out.count} of the input left out", file=sys.stderr)
    return LEFT_OUT if left_out.count else DONE


def add_options(parser: argparse.ArgumentParser, *names: str) -> None:
    """Add options that mean the same in every command, those of `OPTIONS`."""
    for name in names:
        parser.add_argument(name, **OPTIONS[name])


def check_outputs(*files: str | Path | None, inputs: Iterable[str | Path] = ()) -> None:
    """Raise an error, before any work, where a file cannot be written; None is standard output.

    Args:
        *files: Paths of files to be written.
        inputs: Paths of files that are read, which must stay as they are.

    Raises:
        FileNotFoundError, IsADirectoryError, PermissionError: If its folder does not exist, it is a
            folder itself, or may not be written.
        ValueError: If it is one of the inputs, or the same as another output.
    """
    used = {os.path.realpath(path) for path in inputs if not is_stream(path)}
    for file in files:
        if is_stream(file):
            continue
        if os.path.realpath(str(file)) in used:
            raise ValueError(f"Expected a file that is nothing else in this run. Received: {file}")
        used.add(os.path.realpath(str(file)))
        folder = Path(os.path.realpath(file)).parent if file is not None else Path()
        if not folder.is_dir():
            raise FileNotFoundError(f"Expected an existing folder. Received: {folder}")
        if Path(str(file)).is_dir():
            raise IsADirectoryError(f"Expected a file, not a folder. Received: {file}")
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"Expected a folder to write in. Received: {folder}")


def shortened(error: BaseException | str) -> str:
    """A message of at most 1,000 letters, on one line for each of its own."""
    text = str(error)
    if len(text) <= LONGEST_MESSAGE:
        return text
    half = LONGEST_MESSAGE // 2
    return f"{text[:half]} ... {text[-half:]}"


def use_utf8() -> None:
    """Standard output in UTF-8 whatever the locale says, as every file is.

    Names of files that are no UTF-8 are written as they are.
    """
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(encoding="utf-8", errors="surrogateescape")


def _handle_signals() -> dict[int, Any]:
    """Have signals end the process like an error, so that nothing half-written stays."""

    def end(number: int, frame: Any) -> None:
        raise _Ended(128 + number)

    before: dict[int, Any] = {}
    for name in SIGNALS:
        number = getattr(signal, name, None)
        # A handler that is there already, such as that of nohup, stays.
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            before[number] = signal.signal(number, end)
    return before
