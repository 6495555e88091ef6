"""Tables that check `ops.sinkhorn_tail`: its adjoint, its bias, its memory, its contraction.

    cd examples && python -m sinkhorn_validation [--smoke] [--only exactness ...] [--output FILE]

The tables of Forde (2026), Block-wise differentiable Sinkhorn attention, on synthetic problems;
`results.md` is what the command wrote.
"""

import argparse
import io
import os
import shlex
import sys
from pathlib import Path

import keras
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

from sinkhorn_validation import contraction, exactness, four_plans, memory_ledger, tail_depth

TABLES = {
    "exactness": exactness,
    "tail_depth": tail_depth,
    "four_plans": four_plans,
    "memory_ledger": memory_ledger,
    "contraction": contraction,
}


def table(module, smoke):
    """The rows of one table as Markdown."""
    result = Table(*module.HEADER, box=MARKDOWN)
    for row in module.rows(smoke):
        result.add_row(*(f"{x:.2g}" if isinstance(x, float) else str(x) for x in row))
    text = io.StringIO()
    Console(file=text, width=200).print(result)
    lines = (line.rstrip() for line in text.getvalue().strip().splitlines())
    return f"## {module.TITLE}\n\n" + "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a few small rows of each table")
    parser.add_argument("--only", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the tables there, too")
    chosen = parser.parse_args()
    backend = keras.config.backend()
    if backend == "numpy":
        parser.error("Expected a backend with gradients. Received: KERAS_BACKEND=numpy")
    if backend == "jax":
        import jax

        jax.config.update("jax_enable_x64", True)
    arguments = shlex.join(sys.argv[1:])
    command = f"KERAS_BACKEND={backend} python -m sinkhorn_validation {arguments}"
    parts = [f"Command, in `examples/`: `{command.strip()}`"]
    for name in chosen.only:
        parts.append(table(TABLES[name], chosen.smoke))
        print(parts[-1], end="\n\n", flush=True)
    if chosen.output:
        partial = chosen.output.with_name(chosen.output.name + ".part")
        partial.write_text("\n\n".join(parts) + "\n")
        os.replace(partial, chosen.output)


if __name__ == "__main__":
    main()
