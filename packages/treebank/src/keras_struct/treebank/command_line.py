"""The command `keras-struct-treebank`: train, average, evaluate, parse and export parsers."""

import argparse
import functools
import glob
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from keras_struct.runs.command import LeftOut, add_options, check_outputs, run_command

DESCRIPTION = """\
Parses English text, and trains, scores and exports parsers. The backend is that of Keras: set
KERAS_BACKEND to jax, tensorflow, torch or numpy (numpy does not train).
"""
KINDS = ("constituency", "dependency")
SHIPPED = {"constituency": "constituency_en", "dependency": "dependency_en"}
INPUT_FORMATS = ("text", "words", "conllu", "jsonl", "parquet")
FORMATS = ("brackets", "conllu", "json", "svg", "parquet")
PART_SENTENCES = 4096  # a multiple of those read ahead: batches are as without parts


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

    def reading(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--encoding", help="of the files (default: UTF-8, or by their mark)")
        add_options(sub, "--strict")

    sub = command("parse", "Parse raw text.", "text files, globs, or - for standard input")
    model(sub)
    sizes(sub)
    reading(sub)
    sub.add_argument(
        "--input-format",
        choices=INPUT_FORMATS,
        help="raw text; a sentence a line with its words between blanks; or CoNLL-U; with --engine "
        "also records (default: text, with --engine by the ending of each file)",
    )
    sub.add_argument(
        "--words",
        action="store_const",
        const="words",
        dest="input_format",
        help="short for --input-format words",
    )
    sub.add_argument("--format", choices=FORMATS, help="default: brackets, or conllu")
    sub.add_argument("--probabilities", action="store_true", help="of every part, in json and svg")
    sub.add_argument(
        "--output",
        type=Path,
        help="file (svg: folder), appears when it is whole; the same command goes on after an "
        "interruption (default: standard output)",
    )
    sub.add_argument(
        "--engine",
        choices=("local", "ray"),
        help="parse files, folders and URLs into a folder of parts, each of which appears whole, "
        "in this process or in several of Ray",
    )
    add_options(sub, "--workers")
    sub.add_argument("--resume", action="store_true", help="make the parts that are missing")
    sub.add_argument(
        "--part-sentences",
        type=int,
        default=PART_SENTENCES,
        help=f"of a part (default: {PART_SENTENCES})",
    )
    sub.add_argument(
        "--column",
        default="text",
        help="of JSON lines and Parquet, with a text or a list of words (default: text)",
    )
    sub.add_argument(
        "--lookahead", type=int, help="sentences read ahead (default: 2048; 1 at a terminal)"
    )

    sub = command("evaluate", "Score a parser on gold trees.", "files of brackets or CoNLL-U")
    model(sub)
    sizes(sub)
    reading(sub)
    add_options(sub, "--json")

    sub = command("score", "Score trees of any parser on gold trees, without a model.", None)
    sub.add_argument("gold", metavar="GOLD", help="file of brackets or CoNLL-U")
    sub.add_argument("predicted", metavar="PREDICTED", help="file of trees of the same sentences")
    reading(sub)
    sub.add_argument("--evalb", metavar="PRM", help="parameter file of EVALB (constituency)")
    add_options(sub, "--json")

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
    add_options(sub, "--seed")
    policy(sub)
    reading(sub)
    sub.add_argument("--limit", type=int, help="sentences to train on")
    sub.add_argument("--about", default="", help="what the treebanks are, kept with the model")
    add_options(sub, "--restart")

    sub = command("average", "One parser from several trained from the same start.", None)
    sub.add_argument("models", nargs="+", metavar="MODEL", help="shipped names or folders")
    sub.add_argument("--output", type=Path, required=True, help="folder of the new model")
    sub.add_argument("--rank", type=int, help="of the changes that are stored (default: full)")
    sub.add_argument("--about", default="", help="kept with the model")
    policy(sub)

    sub = command("export", "Write a SavedModel that parses in plain TensorFlow.", None)
    model(sub)
    sub.add_argument("output", type=Path, help="folder to write")
    add_options(sub, "--overwrite")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; for the exit status see `run_command`."""
    chosen = arguments(words)
    run: dict[str, Callable[[argparse.Namespace, LeftOut], None]] = {
        "parse": run_parse,
        "evaluate": run_evaluate,
        "score": run_score,
        "train": run_train,
        "average": run_average,
        "export": run_export,
    }
    return run_command(
        "keras-struct-treebank",
        functools.partial(run[chosen.command], chosen),
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


def expand(patterns: Sequence[str], left_out: LeftOut) -> list[str]:
    """The files that paths and globs name, in order; `-` stays.

    A pattern that names none is left out, but if all do it is an error.
    """
    found = [
        [p] if p == "-" or os.path.exists(p) else sorted(glob.glob(p, recursive=True))
        for p in patterns
    ]
    missing = [pattern for pattern, files in zip(patterns, found, strict=True) if not files]
    if len(missing) == len(patterns):
        raise FileNotFoundError(f"Expected existing files. Received: {', '.join(missing)}")
    for pattern in missing:
        left_out(FileNotFoundError(f"Expected existing files. Received: {pattern}"))
    return [file for files in found for file in files]


def run_parse(chosen: argparse.Namespace, left_out: LeftOut) -> None:
    format = chosen.format or {"constituency": "brackets", "dependency": "conllu"}[chosen.kind]
    other = {"constituency": "conllu", "dependency": "brackets"}[chosen.kind]
    if format == other:
        raise ValueError(f"Expected another format for {chosen.kind} trees. Received: {format}")
    if chosen.engine is not None:
        run_parse_parts(chosen, format, left_out)
        return
    chosen.input_format = chosen.input_format or "text"
    if (
        chosen.resume
        or chosen.workers is not None
        or "parquet" in (format, chosen.input_format)
        or chosen.input_format == "jsonl"
    ):
        raise ValueError(
            "Expected --engine with --resume, --workers, Parquet or JSON lines to read. Received: "
            "no --engine"
        )
    files = expand(chosen.files, left_out)
    if format != "svg":
        check_outputs(chosen.output, inputs=files)
    elif chosen.output is None or not chosen.output.is_dir():
        raise ValueError("Expected an existing folder as --output for svg, a file a sentence")
    from keras_struct.treebank import parse_command

    parse_command.run_parse(chosen, files, load(chosen), left_out)


def run_parse_parts(chosen: argparse.Namespace, format: str, left_out: LeftOut) -> None:
    from keras_struct.runs.checks import check_count
    from keras_struct.runs.cluster import engine
    from keras_struct.treebank import corpus
    from keras_struct.treebank.corpus_files import files_of_folder, files_of_url, is_url

    check_count("part_sentences", chosen.part_sentences)
    if chosen.output is None or format == "svg" or "-" in chosen.files:
        raise ValueError(
            "Expected files to read, --output FOLDER and a format other than svg. Received: "
            f"{' '.join(chosen.files)}, --output {chosen.output}, --format {format}"
        )
    if ":/" in str(chosen.output):
        raise ValueError(f"Expected a folder of this machine. Received: --output {chosen.output}")
    if chosen.output.exists() and not chosen.output.is_dir():
        raise NotADirectoryError(f"Expected a folder. Received: {chosen.output}")
    check_outputs(chosen.output / "part" if chosen.output.is_dir() else chosen.output)
    output, files = chosen.output.resolve(), []
    for pattern in chosen.files:
        try:
            paths = files_of_url(pattern) if is_url(pattern) else expand([pattern], left_out)
        except FileNotFoundError as error:
            left_out(error)
            continue
        for path in paths:
            if is_url(path) or not os.path.isdir(path):
                files.append(path)
            else:
                files += files_of_folder(path)
    if not files:
        raise FileNotFoundError(f"Expected existing files. Received: {', '.join(chosen.files)}")
    inside = [f for f in files if not is_url(f) and output in Path(f).resolve().parents]
    if inside:
        raise ValueError(f"Expected files outside of {chosen.output}. Received: {inside[0]}")
    with engine(chosen.engine, chosen.workers, "keras-struct-treebank"):
        corpus.run_parse(chosen, files, load(chosen), left_out)


def run_evaluate(chosen: argparse.Namespace, left_out: LeftOut) -> None:
    files = expand(chosen.files, left_out)
    from keras_struct.treebank import evaluate
    from keras_struct.treebank.gold_trees import KINDS as TREES

    read = TREES[chosen.kind].read
    gold = [tree for file in files for tree in read(file, left_out, chosen.encoding)]
    if not gold:
        raise ValueError(f"Expected gold trees. Received: none in {', '.join(files)}")
    scores = evaluate(
        load(chosen), gold, batch_tokens=chosen.batch_tokens, max_words=chosen.max_words
    )
    show_scores(chosen, len(gold), scores)


def run_score(chosen: argparse.Namespace, left_out: LeftOut) -> None:
    check_inputs(chosen.gold, chosen.predicted, *([chosen.evalb] if chosen.evalb else []))
    from keras_struct.treebank.scoring import score_files

    sentences, scores = score_files(
        *(chosen.kind, chosen.gold, chosen.predicted, left_out, chosen.encoding, chosen.evalb)
    )
    show_scores(chosen, sentences, scores)


def check_inputs(*files: str) -> None:
    missing = [file for file in files if file != "-" and not os.path.exists(file)]
    if missing:
        raise FileNotFoundError(f"Expected existing files. Received: {', '.join(missing)}")
    if files.count("-") > 1:
        raise ValueError("Expected standard input once. Received: - twice")


def show_scores(chosen: argparse.Namespace, sentences: int, scores: dict[str, float]) -> None:
    if chosen.json:
        print(json.dumps({"sentences": sentences, **scores}))
        return
    from keras_struct.runs.progress import print_table

    row = [f"{100 * value:.2f}" for value in scores.values()]
    print_table(f"{sentences} sentences", dict.fromkeys(scores, "right"), [row])


def run_train(chosen: argparse.Namespace, left_out: LeftOut) -> None:
    from keras_struct.runs.progress import epochs_bar
    from keras_struct.treebank.training import train

    set_policy(chosen)
    options = {"structure": chosen.structure} if chosen.kind == "dependency" else {}
    options["decoding"] = chosen.decoding
    with epochs_bar(chosen.epochs) as report:
        train(
            chosen.kind,
            expand(chosen.train, left_out),
            expand(chosen.dev, left_out) if chosen.dev else [],
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
            skipped=left_out,
            encoding=chosen.encoding,
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
