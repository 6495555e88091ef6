"""The command `keras-struct-treebank`: train, average, evaluate, parse and export parsers."""

import argparse
import glob
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from keras_struct.runs.command import LeftOut, check_outputs, run_command

DESCRIPTION = """\
Parses English text, and trains, scores and exports parsers. The backend is that of Keras: set
KERAS_BACKEND to jax, tensorflow, torch or numpy (numpy does not train).
"""
KINDS = ("constituency", "dependency")
SHIPPED = {"constituency": "constituency_en", "dependency": "dependency_en"}
FORMATS = ("brackets", "conllu", "json", "svg")


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments of the command."""
    parser = argparse.ArgumentParser(prog="keras-struct-treebank", description=DESCRIPTION)
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, text: str, files: str | None) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument("--kind", choices=KINDS, default="constituency", help="of the trees")
        if files is not None:
            sub.add_argument("files", nargs="*", default=["-"], metavar="FILE", help=files)
        return sub

    def model(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--model", help="shipped name or folder (default: the shipped one)")

    def policy(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--dtype-policy",
            choices=("float32", "mixed_bfloat16"),
            default="float32",
            help="mixed_bfloat16 is faster on processors with bfloat16 (default: float32)",
        )

    def sizes(sub: argparse.ArgumentParser) -> None:
        policy(sub)
        sub.add_argument("--batch-tokens", type=int, default=2048, help="subwords of a batch")
        sub.add_argument(
            "--max-words",
            type=int,
            default=600,
            help="longer sentences are parsed in pieces and joined (default: 600)",
        )

    sub = command("parse", "Parse raw text.", "text files, globs, or - for standard input")
    model(sub)
    sizes(sub)
    sub.add_argument("--words", action="store_true", help="a sentence a line, words by blanks")
    sub.add_argument("--format", choices=FORMATS, help="default: brackets, or conllu")
    sub.add_argument("--probabilities", action="store_true", help="of every part, in json")
    sub.add_argument("--output", type=Path, help="file (svg: folder); default: standard output")
    sub.add_argument(
        "--lookahead", type=int, help="sentences read ahead (default: 2048; 1 at a terminal)"
    )

    sub = command("evaluate", "Score a parser on gold trees.", "files of brackets or CoNLL-U")
    model(sub)
    sizes(sub)
    sub.add_argument("--json", action="store_true", help="one line of JSON instead of a table")

    sub = command("train", "Train a parser over MiniLM; goes on where it stopped.", None)
    sub.add_argument("--train", nargs="+", required=True, metavar="FILE", help="gold trees")
    sub.add_argument("--dev", nargs="+", default=[], metavar="FILE", help="scored each epoch")
    sub.add_argument("--output", type=Path, required=True, help="folder")
    sub.add_argument("--epochs", type=int, default=4)
    sub.add_argument("--learning-rate", type=float, default=4e-4)
    sub.add_argument("--batch-tokens", type=int, default=1200, help="subwords of a batch")
    sub.add_argument("--frozen-layers", type=int, default=3)
    sub.add_argument("--rank", type=int, help="of the changes that are stored (default: full)")
    sub.add_argument("--start", metavar="MODEL", help="shipped name or folder to begin with")
    sub.add_argument("--loss", choices=("nll", "max_margin", "local"), default="nll")
    sub.add_argument("--structure", choices=("eisner", "spanning_tree"), default="eisner")
    sub.add_argument(
        "--decoding",
        choices=("tree", "minimum_risk"),
        default="minimum_risk",
        help="the best tree, or that with the most expected correct parts (the default)",
    )
    sub.add_argument("--seed", type=int, default=0)
    policy(sub)
    sub.add_argument("--limit", type=int, help="sentences to train on")
    sub.add_argument("--about", default="", help="what the treebanks are, kept with the model")
    sub.add_argument("--restart", action="store_true", help="begin anew if the folder is in use")

    sub = command("average", "One parser from several trained from the same start.", None)
    sub.add_argument("models", nargs="+", metavar="MODEL", help="shipped names or folders")
    sub.add_argument("--output", type=Path, required=True, help="folder of the new model")
    sub.add_argument("--rank", type=int, help="of the changes that are stored (default: full)")
    sub.add_argument("--about", default="", help="kept with the model")
    policy(sub)

    sub = command("export", "Write a SavedModel that parses in plain TensorFlow.", None)
    model(sub)
    sub.add_argument("output", type=Path, help="folder to write")
    sub.add_argument("--overwrite", action="store_true")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; for the exit status see `run_command`."""
    chosen = arguments(words)
    run: dict[str, Callable[[argparse.Namespace, LeftOut], None]] = {
        "parse": run_parse,
        "evaluate": run_evaluate,
        "train": run_train,
        "average": run_average,
        "export": run_export,
    }
    return run_command(
        "keras-struct-treebank",
        lambda left_out: run[chosen.command](chosen, left_out),
        getattr(chosen, "strict", False),
    )


def set_policy(chosen: argparse.Namespace) -> None:
    """The dtype policy of the models that are made from here on."""
    import keras

    keras.config.set_dtype_policy(getattr(chosen, "dtype_policy", "float32"))


def load(chosen: argparse.Namespace, model: str | None = None) -> Any:
    """The parser that the arguments name."""
    from keras_struct import treebank

    set_policy(chosen)
    model = model or chosen.model
    name = model or SHIPPED[chosen.kind]
    if model and not Path(name).is_dir() and name not in SHIPPED.values():
        raise ValueError(
            f"Expected a folder, or one of {sorted(SHIPPED.values())}. Received: --model {name}"
        )
    if chosen.kind == "constituency":
        return treebank.ConstituencyParser.from_preset(name)
    return treebank.DependencyParser.from_preset(name)


def expand(patterns: Sequence[str]) -> list[str]:
    """The files that paths and globs name, in order; `-` stays."""
    files: list[str] = []
    for pattern in patterns:
        found = [pattern] if pattern == "-" else sorted(glob.glob(pattern, recursive=True))
        if not found:
            raise FileNotFoundError(f"Expected existing files. Received: {pattern}")
        files += found
    return files


def read(files: Sequence[str], words: bool) -> Iterator[Any]:
    """Texts or sentences of all files, one after the other."""
    from keras_struct.treebank.text import read_sentences

    format = "words" if words else "text"
    for file in files:
        if file == "-":
            yield from read_sentences(sys.stdin, format)
        else:
            with open(file, encoding="utf-8") as stream:
                yield from read_sentences(stream, format)


def run_parse(chosen: argparse.Namespace, left_out: LeftOut) -> None:
    from keras_struct.layers.whole_files import open_whole
    from keras_struct.runs.progress import progress_bar
    from keras_struct.treebank.formats import DEFAULTS, FORMATS
    from keras_struct.treebank.parser_task import LOOKAHEAD

    files = expand(chosen.files)
    format = chosen.format or DEFAULTS[chosen.kind]
    other = {"constituency": "conllu", "dependency": "brackets"}[chosen.kind]
    if format == other:
        raise ValueError(f"Expected another format for {chosen.kind} trees. Received: {format}")
    if format == "svg" and (chosen.output is None or not chosen.output.is_dir()):
        raise ValueError("Expected an existing folder as --output for svg, a file a sentence")
    if format != "svg":
        check_outputs(chosen.output)
    interactive = "-" in files and sys.stdin.isatty()
    lookahead = chosen.lookahead or (1 if interactive else LOOKAHEAD)
    parses = load(chosen).parse(
        read(files, chosen.words),
        batch_tokens=chosen.batch_tokens,
        probabilities=chosen.probabilities,
        max_words=chosen.max_words,
        lookahead=lookahead,
    )
    quiet = chosen.output is None  # the trees themselves show the progress
    with progress_bar("sentences", None, disable=quiet) as progress:
        task = progress.task_ids[0]
        if format == "svg":
            for number, parse in enumerate(parses, 1):
                with open_whole(chosen.output / f"{number:05d}.svg") as stream:
                    stream.write(FORMATS[format](parse))
                progress.advance(task)
            return
        with open_whole(chosen.output) as stream:
            for parse in parses:
                stream.write(FORMATS[format](parse))
                if quiet:
                    stream.flush()
                progress.advance(task)


def run_evaluate(chosen: argparse.Namespace, left_out: LeftOut) -> None:
    from keras_struct.runs.progress import print_table
    from keras_struct.treebank import evaluate
    from keras_struct.treebank.training import KINDS as TREES

    files = expand(chosen.files)
    gold = [tree for file in files for tree in TREES[chosen.kind][0].read(file)]
    if not gold:
        raise ValueError(f"Expected gold trees. Received: none in {files}")
    scores = evaluate(
        load(chosen), gold, batch_tokens=chosen.batch_tokens, max_words=chosen.max_words
    )
    if chosen.json:
        print(json.dumps({"sentences": len(gold), **scores}))
        return
    row = [f"{100 * value:.2f}" for value in scores.values()]
    print_table(f"{len(gold)} sentences", dict.fromkeys(scores, "right"), [row])


def run_train(chosen: argparse.Namespace, left_out: LeftOut) -> None:
    from keras_struct.runs.progress import epochs_bar
    from keras_struct.treebank.training import train

    set_policy(chosen)
    options = {"structure": chosen.structure} if chosen.kind == "dependency" else {}
    options["decoding"] = chosen.decoding
    with epochs_bar(chosen.epochs) as report:
        train(
            chosen.kind,
            expand(chosen.train),
            expand(chosen.dev),
            chosen.output,
            epochs=chosen.epochs,
            learning_rate=chosen.learning_rate,
            batch_tokens=chosen.batch_tokens,
            frozen_layers=chosen.frozen_layers,
            loss=chosen.loss,
            seed=chosen.seed,
            limit=chosen.limit,
            about=chosen.about,
            start=chosen.start,
            rank=chosen.rank,
            restart=chosen.restart,
            progress=report,
            **options,
        )
    print(chosen.output / "model")


def run_average(chosen: argparse.Namespace, left_out: LeftOut) -> None:
    from keras_struct import treebank
    from keras_struct.treebank.compact_preset import preset_folder

    compact = preset_folder(chosen.models[0]) is not None
    if not compact and chosen.rank is not None:
        raise ValueError(f"Expected a rank for parsers over MiniLM. Received: --rank {chosen.rank}")
    parser = treebank.average([load(chosen, model) for model in chosen.models])
    if not compact:
        parser.save_to_preset(str(chosen.output))
    else:
        treebank.save_compact_preset(parser, chosen.output, chosen.about, chosen.rank)
    print(chosen.output)


def run_export(chosen: argparse.Namespace, left_out: LeftOut) -> None:
    parser = load(chosen)
    print(parser.export_saved_model(chosen.output, overwrite=chosen.overwrite))
