"""A drill of both commands: what they do to files, and what is done to them.

    python ci/drill.py [--quick] [FOLDER...]

Every file of the folders is read by the command that is for it, and a table says, by folder and
kind, how many were read, how many named and left out, and how many ended in any other error. Then
both commands are run on small files of their own and killed, interrupted and starved; a table says
what became of it. The exit status is 1 if anything went wrong.

Each run is a process of its own, forked from this one, so that libraries and models are loaded
once; PyTorch and NumPy endure that.
"""

import argparse
import collections
import functools
import math
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"  # a fork from threads of OpenMP waits for ever

import keras

from keras_struct import parsers, treebank
from keras_struct.protein import command_line as protein_command
from keras_struct.protein import protein_aligner, read_chains, structure_files
from keras_struct.runs import open_text
from keras_struct.treebank import command_line as treebank_command
from keras_struct.treebank import gold_trees, parse_command
from keras_struct.treebank.text import read_sentences
from keras_struct.treebank.tiny import tiny_backbone, tiny_parser, tiny_preprocessor, tiny_sentences

KILLS, SEED = 10, 0
TREES = (".mrg", ".tree", ".trees", ".ptb", ".parse")
Main = Callable[[list[str]], int]


class Ended(NamedTuple):
    status: int  # negative for a signal
    out: str
    err: str
    seconds: float


# --- files -------------------------------------------------------------------------------------


def kind_of(path: Path) -> str:
    if structure_files.is_protein_file(path):
        return structure_files.suffix_of(path)
    suffix = path.suffix.lower()
    return suffix if suffix in (*TREES, ".conllu") else "text"


def read_file(path: Path, kind: str, left_out: Callable[[Exception], None]) -> None:
    if structure_files.is_protein_file(path):
        read_chains(path, skipped=left_out)
    elif kind == ".conllu":
        gold_trees.read_dependency(path, left_out)
    elif kind in TREES:
        gold_trees.read_constituency(path, left_out)
    else:
        with open_text(path) as lines:
            for sentence in read_sentences(lines, "text", str(path), left_out):
                assert all(sentence)


def read_folders(folders: list[Path]) -> bool:
    """Prints the table of the files; whether every one was read, or named and left out."""
    counts: dict[tuple[str, str], collections.Counter] = collections.defaultdict(
        collections.Counter
    )
    wrong = []
    for folder in folders:
        for path in sorted(p for p in folder.rglob("*") if not p.is_dir()):
            kind, errors = kind_of(path), list[Exception]()
            try:
                read_file(path, kind, errors.append)
                outcome = "left out in part" if errors else "read"
            except (ValueError, OSError):
                outcome = "left out"
            except Exception as error:
                outcome = "error"
                wrong.append(f"{path}: {error!r}")
            counts[folder.name, kind].update({"files": 1, outcome: 1})
    columns = ("files", "read", "left out in part", "left out", "error")
    print(f"\n| folder | kind | {' | '.join(columns)} |\n|---|---|{'---:|' * len(columns)}")
    for (name, kind), found in sorted(counts.items()):
        print(f"| {name} | {kind} | {' | '.join(str(found[c]) for c in columns)} |")
    print("\n".join(wrong))
    return not wrong


# --- processes ---------------------------------------------------------------------------------


class Run:
    """A command in a process of its own, its streams in files or a pipe."""

    def __init__(self, main: Main, words: list[str], folder: Path, pipe: bool = False) -> None:
        self.folder, self.start = folder, time.monotonic()
        self.read_end, write_end = os.pipe() if pipe else (-1, -1)
        sys.stdout.flush()
        self.child = os.fork()
        if self.child == 0:
            err = os.open(folder / "err", os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
            out = os.open(folder / "out", os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
            os.dup2(write_end if pipe else out, 1)
            os.dup2(err, 2)
            if pipe:
                os.close(self.read_end)
            sys.stdout, sys.stderr = (open(k, "w", closefd=False) for k in (1, 2))  # noqa: SIM115
            # What a shell runs in its background inherits that Ctrl-C is ignored.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            try:
                status = main(words)
            except BaseException as error:
                print(f"Traceback: {error!r}", file=sys.stderr, flush=True)
                status = 99
            sys.stderr.flush()
            os._exit(status)
        if pipe:
            os.close(write_end)

    def send(self, number: int) -> None:
        os.kill(self.child, number)

    def wait(self) -> Ended:
        _, status = os.waitpid(self.child, 0)
        out, err = ((self.folder / name).read_text(errors="replace") for name in ("out", "err"))
        seconds = time.monotonic() - self.start
        return Ended(os.waitstatus_to_exitcode(status), out, err, seconds)


class Command(NamedTuple):
    """One of the two, with what it is drilled on."""

    name: str
    main: Main
    words: list[str]  # with an output to come last
    stream: list[str]  # the same without an output


def commands(folder: Path) -> list[Command]:
    text = folder / "text.txt"
    text.write_text("\n".join(" ".join(words) for words in tiny_sentences(300, 9)))
    keras.utils.set_random_seed(SEED)
    parser = tiny_parser("constituency", dropout=0.0)
    list(parser.parse([["we", "left"]]))
    treebank_command.load = lambda chosen, model=None: parser
    parse_command.SECONDS = 0.0
    parse = ["parse", str(text), "--words", "--lookahead", "8"]

    proteins = folder / "proteins"
    proteins.mkdir()
    for number in range(24):
        (proteins / f"{number}.pdb").write_text(helix(30 + number))
    aligner = protein_aligner.ProteinAligner.from_preset("structure")
    aligner.encode(read_chains(proteins / "0.pdb"))
    protein_command.load = lambda chosen: aligner
    search = ["search", str(proteins / "0.pdb"), str(proteins)]
    return [
        Command("treebank parse", treebank_command.main, [*parse, "--output"], parse),
        Command("protein search", protein_command.main, [*search, "--output"], search),
    ]


def helix(residues: int) -> str:
    """A PDB file of a helix, whose ends differ a little from its middle."""
    atoms = (("N", 1.5, 0.0, 0.0), ("CA", 2.3, 0.48, 0.9), ("C", 1.7, 1.0, 1.9))
    lines: list[str] = []
    for k in range(1, residues + 1):
        for name, radius, turn, rise in atoms:
            angle, bent = 1.745 * k + turn, 0.002 * k * k
            x, y, z = radius * math.cos(angle) + bent, radius * math.sin(angle), 1.5 * k + rise
            atom = f"ATOM  {len(lines) + 1:5d}  {name:<3s} ALA A{k:4d}    "
            lines.append(f"{atom}{x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00")
    return "\n".join([*lines, "END", ""])


# --- situations --------------------------------------------------------------------------------


def quiet(ended: Ended, *statuses: int) -> str:
    """What is wrong with how a run ended; nothing if it ended in a status, and without a trace."""
    if ended.status not in statuses:
        return f"exit status {ended.status}: {ended.err[-300:]}"
    return "a traceback" if "Traceback" in ended.err else ""


def left_over(folder: Path) -> str:
    hidden = [path.name for path in folder.rglob(".*") if path.name != ".cache"]
    return f"left {hidden}" if hidden else ""


def killed(command: Command, folder: Path, wanted: str, seconds: float) -> str:
    """kill -9 at random moments; then the same command once more."""
    generator, output, signals = random.Random(SEED), folder / "result", 0
    cache = ["--cache", str(folder / "cache")] if "search" in command.name else []
    words = [*command.words, str(output), *cache]
    for _ in range(KILLS):
        run = Run(command.main, words, folder)
        time.sleep(seconds * generator.uniform(0.1, 0.9))
        run.send(signal.SIGKILL)
        signals += run.wait().status == -signal.SIGKILL
    if output.exists() and output.read_text() != wanted:
        return "half a file, or another one, under its name"
    ended = Run(command.main, words, folder).wait()
    if output.read_text() != wanted:
        return "another result"
    return quiet(ended, 0) or left_over(folder) or ("" if signals else "no run was killed")


def interrupted(command: Command, folder: Path, wanted: str, seconds: float, number: int) -> str:
    run = Run(command.main, [*command.words, str(folder / "result")], folder)
    time.sleep(seconds / 2)
    run.send(number)
    return quiet(run.wait(), 128 + number, 0)


def pipe_closed(command: Command, folder: Path, wanted: str, seconds: float) -> str:
    run = Run(command.main, command.stream, folder, pipe=True)
    os.read(run.read_end, 1)
    os.close(run.read_end)
    ended = run.wait()
    return quiet(ended, 0) or ("" if "rror" not in ended.err else ended.err[-300:])


def disk_full(command: Command, folder: Path, wanted: str, seconds: float) -> str:
    ended = Run(command.main, [*command.words, "/dev/full"], folder).wait()
    return quiet(ended, 2) or ("" if "No space left" in ended.err else f"only {ended.err[-200:]}")


def read_only(command: Command, folder: Path, wanted: str, seconds: float) -> str:
    """A folder that nobody can write to, not even root."""
    ended = Run(command.main, [*command.words, "/sys/result"], folder).wait()
    return quiet(ended, 2) or ("" if "/sys" in ended.err else f"only {ended.err[-200:]}")


def device(command: Command, folder: Path, wanted: str, seconds: float) -> str:
    ended = Run(command.main, [*command.words, os.devnull], folder).wait()
    return quiet(ended, 0) or ("" if not os.path.isfile(os.devnull) else "the device is a file")


def together(command: Command, folder: Path, wanted: str, seconds: float) -> str:
    """Two processes on one cache."""
    cache = ["--cache", str(folder / "cache")] if "search" in command.name else []
    runs, outputs = [], []
    for name in ("one", "two"):
        (folder / name).mkdir()
        outputs.append(folder / name / "result")
        runs.append(Run(command.main, [*command.words, str(outputs[-1]), *cache], folder / name))
    problems = [quiet(run.wait(), 0) for run in runs]
    same = all(output.read_text() == wanted for output in outputs)
    return "".join(problems) or ("" if same else "other results")


def training_killed(folder: Path) -> str:
    """A training of a tiny parser, killed at random moments, beside one that is not."""
    gold = folder / "gold.conllu"
    sentences = [
        parsers.with_arcs(
            parsers.new_sentence(words, ["X"] * len(words)), range(len(words)), ["dep"] * len(words)
        )
        for words in tiny_sentences(40, 6)
    ]
    gold.write_text("".join(sentence.serialize() for sentence in sentences))

    def train(words: list[str]) -> int:
        keras.utils.set_random_seed(SEED)
        treebank.train(
            "dependency", [gold], [], words[0], epochs=8, frozen_layers=1, dropout=0.3,
            backbone=tiny_backbone(), preprocessor=tiny_preprocessor(), batch_tokens=64,
            progress=lambda line: None,
        )  # fmt: skip
        return 0

    whole = Run(train, [str(folder / "whole")], folder).wait()
    generator = random.Random(SEED)
    for _ in range(KILLS):
        run = Run(train, [str(folder / "killed")], folder)
        time.sleep(whole.seconds * generator.uniform(0.2, 0.6))
        run.send(signal.SIGKILL)
        run.wait()
    ended = Run(train, [str(folder / "killed")], folder).wait()
    histories = [(folder / name / "history.jsonl").read_text() for name in ("whole", "killed")]
    return (
        quiet(whole, 0) or quiet(ended, 0) or ("" if len({*histories}) == 1 else "another result")
    )


def situations() -> dict[str, Callable[[Command, Path, str, float], str]]:
    return {
        f"kill -9, {KILLS} times at random, then again": killed,
        "Ctrl-C": functools.partial(interrupted, number=signal.SIGINT),
        "kill": functools.partial(interrupted, number=signal.SIGTERM),
        "closed pipe (head)": pipe_closed,
        "disk full": disk_full,
        "folder that cannot be written": read_only,
        "output to a device": device,
        "two processes, on one cache": together,
    }


def drill(quick: bool) -> bool:
    """Prints the table of the situations; whether all went well. The quick one kills nothing."""
    fine = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print("\n| situation | command | result | seconds |\n|---|---|---|---:|")

        def show(situation: str, command: str, problem: str, start: float) -> None:
            nonlocal fine
            fine = fine and not problem
            seconds = f"{time.monotonic() - start:.1f}"
            print(
                f"| {situation} | {command} | {problem or 'as it should'} | {seconds} |", flush=True
            )

        for command in commands(folder):
            room = folder / command.name.replace(" ", "_")
            (room / "first").mkdir(parents=True)
            first = Run(command.main, [*command.words, str(room / "result")], room / "first").wait()
            assert first.status == 0, first.err
            wanted = (room / "result").read_text()
            acts = {
                name: act for name, act in situations().items() if not (quick and act is killed)
            }
            for number, (situation, act) in enumerate(acts.items()):
                here = room / str(number)
                here.mkdir()
                start = time.monotonic()
                show(situation, command.name, act(command, here, wanted, first.seconds), start)
        if quick:
            return fine
        (folder / "training").mkdir()
        start = time.monotonic()
        problem = training_killed(folder / "training")
        show(f"kill -9, {KILLS} times at random, then again", "treebank train", problem, start)
    return fine


def main() -> int:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("folders", nargs="*", type=Path, metavar="FOLDER")
    options.add_argument("--quick", action="store_true", help="without kill -9")
    chosen = options.parse_args()
    read = read_folders(chosen.folders) if chosen.folders else True
    return 0 if drill(chosen.quick) and read else 1


if __name__ == "__main__":
    sys.exit(main())
