"""Times every structure on every installed backend, beside the peers that pip can install.

    python -m ci.bench [--quick] [--only TEXT ...] [--markdown FILE] [--json FILE]

A time is printed only after the result passed its check against float64; what failed is printed as
FAILED and makes the exit status 1.
"""

import argparse
import os
import sys
from pathlib import Path

from ci.bench import report
from ci.bench.problem import BACKENDS, Problem, find_problems
from ci.bench.runner import Options, Runner

NOTES = """\
- One process per system and task; JAX is jitted, TensorFlow runs in `tf.function` without XLA (as
  `fit` does by default on a machine without accelerator), PyTorch and NumPy are eager. All systems
  of a row are timed in turns; the figure is the median. Compilation is not timed.
- `value` is the value alone; `value+gradient` the value and its gradient with respect to all
  potentials (NumPy: the value and the marginals); `decode` the best structure; `curvature` the
  gradient of the marginals.
- Memory is the growth of the peak resident size during the first run, compilation included.
"""


def parse(arguments: list[str]) -> argparse.Namespace:
    defaults = Options()
    parser = argparse.ArgumentParser(
        prog="python -m ci.bench", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="skip what takes minutes or gigabytes")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="TEXT",
        help="cases whose file, title and task hold all of these, such as trees N=32 decode",
    )
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=list(BACKENDS))
    parser.add_argument("--no-peers", action="store_true", help="our own times only")
    parser.add_argument("--seconds", type=float, default=defaults.seconds, help="for each figure")
    parser.add_argument("--rounds", type=int, default=defaults.rounds, help="turns of each system")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="cores for everybody")
    parser.add_argument("--limit", type=float, default=defaults.limit, help="seconds for one run")
    parser.add_argument(
        "--memory", type=float, default=defaults.memory / 2**30, help="GiB for one system"
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    return parser.parse_args(arguments)


def file_of(problem: Problem) -> str:
    """The name of the module that defines a problem."""
    return type(problem).__module__.rpartition(".")[2]


def command_line(chosen: argparse.Namespace) -> str:
    """What repeats this run, without the files that it wrote."""
    words = ["python -m ci.bench"]
    for name, value in vars(chosen).items():
        if name in ("markdown", "json") or value == parse([]).__dict__[name]:
            continue
        words.append("--" + name.replace("_", "-"))
        if value is not True:
            words += [str(x) for x in (value if isinstance(value, list) else [value])]
    return " ".join(words)


def main() -> int:
    chosen = parse(sys.argv[1:])
    options = Options(
        backends=tuple(chosen.backends),
        peers=not chosen.no_peers,
        quick=chosen.quick,
        seconds=chosen.seconds,
        rounds=chosen.rounds,
        threads=chosen.threads,
        limit=chosen.limit,
        memory=int(chosen.memory * 2**30),
    )
    cases = [(problem, task) for problem in find_problems() for task in problem.tasks]
    cases = [(p, t) for p, t in cases if set(chosen.only) <= {t, file_of(p), *p.title.split()}]
    if not cases:
        print(f"Expected --only to match a case. Received: only={chosen.only}", file=sys.stderr)
        return 2
    command = command_line(chosen)
    rows = []
    runner = Runner(options, lambda line: print(line, file=sys.stderr, flush=True))
    try:
        for i, (problem, task) in enumerate(cases, 1):
            runner.report(f"[{i}/{len(cases)}] {problem.title} {task}")
            rows.append(report.Row(problem, task, runner.run(problem, task)))
    finally:
        runner.close()
    text = "\n\n".join(
        [
            "# Benchmarks",
            report.header(rows, options, command),
            NOTES.strip(),
            report.summary(rows),
            report.tables(rows),
        ]
    )
    print(text)
    if chosen.markdown:
        report.write_whole(chosen.markdown, text + "\n")
    if chosen.json:
        report.write_whole(chosen.json, report.as_json(rows, options, command))
    return 1 if report.failed(rows) else 0


if __name__ == "__main__":
    sys.exit(main())
