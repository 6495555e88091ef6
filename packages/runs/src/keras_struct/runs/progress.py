"""Progress on standard error, tables on standard output."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

WIDE = 100_000  # letters: where no terminal cuts lines, no cell is cut


class _Output(Console):
    """Standard output; rich would end the program itself where a pipe is closed."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def progress_bar(name: str, total: int | None, disable: bool = False) -> Progress:
    """A bar on standard error that counts to a total, or without end; to be entered by `with`.

    Its only task has the number 0.

    Args:
        name: What is counted.
        total: How many there are; None if nobody knows.
        disable: Whether nothing is shown.
    """
    columns: tuple[Any, ...] = (TextColumn(name), BarColumn(), MofNCompleteColumn())
    if total is None:
        columns = (SpinnerColumn(), TextColumn("{task.completed} " + name))
    console = Console(stderr=True)
    progress = Progress(*columns, TimeElapsedColumn(), console=console, disable=disable)
    progress.add_task(name, total=total)
    return progress


@contextlib.contextmanager
def epochs_bar(epochs: int) -> Iterator[Callable[[str], None]]:
    """A bar of the epochs of a training, and what reports its lines: those of `fit`.

    It is shown from the first line on, when all arguments are checked.
    """
    progress = progress_bar("epoch", epochs)
    with contextlib.ExitStack() as shown:

        def report(line: str) -> None:
            if not progress.live.is_started:
                shown.enter_context(progress)
            progress.console.print(line, highlight=False, markup=False)
            if line.startswith("epoch "):
                progress.update(progress.task_ids[0], completed=int(line.split()[1]))

        yield report


def print_table(title: str, columns: dict[str, Any], rows: Any) -> None:
    """Print a table on standard output, no cell of it cut unless a terminal is narrow.

    Args:
        title: Stands above it.
        columns: From the name of each column to `"left"` or `"right"`.
        rows: Lists of texts.
    """
    table = Table(title=title)
    for name, side in columns.items():
        table.add_column(name, justify=side)
    for row in rows:
        table.add_row(*row)
    width = None if sys.stdout.isatty() else WIDE
    _Output(emoji=False, markup=False, highlight=False, width=width).print(table)
