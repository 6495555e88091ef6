"""The command `keras-struct-protein`: align, search, train, evaluate and export aligners."""

import argparse
import functools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from keras_struct.runs.command import LeftOut, add_options, check_outputs, run_command

PROGRAM = "keras-struct-protein"
DESCRIPTION = """\
Aligns proteins, and trains, scores and exports aligners. A chain is a file, or file:chain; files
are PDB, mmCIF, BinaryCIF or FASTA, also with .gz. The backend is that of Keras: set KERAS_BACKEND
to jax, tensorflow, torch or numpy (numpy does not train).
"""
FORMATS = ("text", "fasta", "cigar", "json")
LOSSES = ("path", "f1")
ALPHABETS = ("3di", "amino_acids")
REFINING = 10  # steps
BLANKS = str.maketrans("\t\r\n", "   ")  # in names of files, which would end a cell of a table
STRUCTURES = ("smith_waterman", "needleman_wunsch", "overlap", "sinkhorn")


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments of the command."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description=DESCRIPTION)
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, text: str, model: bool = True) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        if model:
            sub.add_argument(
                "--model",
                default="structure",
                help="structure, sequence (amino acids alone), proteinmpnn, or a .keras file",
            )
        return sub

    def refinable(sub: argparse.ArgumentParser, more: str = "") -> None:
        sub.add_argument(
            "--refine",
            action="store_const",
            const=REFINING,
            default=0,
            help=f"align anew by the superposition, towards a higher TM-score{more}",
        )

    def chains(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--model-number",
            type=model_numbers,
            default=(1, 1),
            metavar="N[,M]",
            help="of NMR models: of both chains, or of the first and of the other (default: 1)",
        )
        sub.add_argument(
            "--chain-names",
            choices=("author", "label"),
            default="author",
            help="by which mmCIF files name their chains (default: author)",
        )

    sub = command("align", "Align two chains.")
    sub.add_argument("first", help="file, file:chain, or file:A+B for chains as one")
    sub.add_argument("second")
    chains(sub)
    refinable(sub)
    sub.add_argument("--format", choices=FORMATS, default="text")
    sub.add_argument("--output", type=Path, help="file; default: standard output")
    sub.add_argument(
        "--superposed", type=Path, metavar="FILE", help="both chains, superposed: .pdb or .cif"
    )
    sub.add_argument(
        "--transformed", type=Path, metavar="FILE", help="the second file, all of it, superposed"
    )
    sub.add_argument("--picture", type=Path, help="of the alignment map: .png, .svg or .pdf")

    sub = command("search", "Align a chain with every chain of files and folders, best first.")
    sub.add_argument("query")
    sub.add_argument("places", nargs="*", metavar="PLACE", help="files and folders")
    sub.add_argument("--index", type=Path, help="search what `index` wrote, by E-value")
    sub.add_argument(
        "--candidates", type=int, default=1000, help="chains of an index to align (default: 1000)"
    )
    sub.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="look at the parts of an index in this process, or in several of Ray",
    )
    chains(sub)
    add_options(sub, "--strict", "--workers")
    sub.add_argument("--cache", type=Path, help="folder that keeps what is encoded; resumes")
    refinable(sub, "; hits are then ranked by it")
    sub.add_argument("--top", type=int, default=20, help="hits to show (default: 20; 0: all)")
    sub.add_argument("--output", type=Path, help="table of all hits, tab-separated")

    sub = command("index", "Encode the chains of files and folders once, or add them to an index.")
    sub.add_argument("places", nargs="+", metavar="PLACE", help="files and folders")
    sub.add_argument("--output", type=Path, required=True, help="folder of the index")
    chains(sub)
    add_options(sub, "--strict")

    sub = command("train", "Train an aligner on labelled pairs; goes on where it stopped.", False)
    sub.add_argument("--train", nargs="+", required=True, metavar="TSV", help="labelled pairs")
    sub.add_argument("--dev", nargs="+", default=[], metavar="TSV", help="scored each epoch")
    sub.add_argument("--output", type=Path, required=True, help="folder")
    sub.add_argument("--start", metavar="MODEL", help="a model to go on from, not a new one")
    sub.add_argument("--alphabets", nargs="+", choices=ALPHABETS, default=list(ALPHABETS))
    sub.add_argument(
        "--trunk",
        help="proteinmpnn, or the preset of an ESMBackbone of KerasHub, such as esm2_t6_8M",
    )
    sub.add_argument("--fine-tune", action="store_true", help="train the trunk, too")
    sub.add_argument("--dim", type=int, default=64, help="size of the states of residues")
    sub.add_argument("--depth", type=int, default=2, help="convolutions along the chain")
    sub.add_argument("--dropout", type=float, default=0.2)
    sub.add_argument("--structure", choices=STRUCTURES, default="smith_waterman")
    sub.add_argument("--loss", choices=LOSSES, default="path")
    sub.add_argument("--epochs", type=int, default=10)
    sub.add_argument("--learning-rate", type=float, default=1e-3)
    sub.add_argument("--longest", type=int, default=512, help="residues of a chain in training")
    sub.add_argument("--limit", type=int, help="pairs to train on")
    add_options(sub, "--seed", "--restart", "--strict")

    sub = command("evaluate", "Score an aligner on labelled pairs.")
    sub.add_argument("files", nargs="+", metavar="TSV")
    refinable(sub)
    add_options(sub, "--json", "--strict")

    sub = command("export", "Write SavedModels that encode and align in plain TensorFlow.")
    sub.add_argument("output", type=Path, help="folder to write")
    add_options(sub, "--overwrite")
    return parser.parse_args(words)


def model_numbers(text: str) -> tuple[int, int]:
    """The models that `2`, or `2,1`, means: of the first chain, and of the others."""
    numbers = [int(part) for part in text.split(",")]
    if len(numbers) > 2:
        raise ValueError(f"Expected one or two numbers. Received: {text}")
    return numbers[0], numbers[-1]


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; for the exit status see `run_command`."""
    chosen = arguments(words)
    run: dict[str, Callable[[argparse.Namespace, LeftOut], None]] = {
        "align": run_align,
        "search": run_search,
        "index": run_index,
        "train": run_train,
        "evaluate": run_evaluate,
        "export": run_export,
    }
    return run_command(
        PROGRAM,
        functools.partial(run[chosen.command], chosen),
        getattr(chosen, "strict", False),
    )


def load(chosen: argparse.Namespace) -> Any:
    """The aligner that the arguments name."""
    from keras_struct.protein import ProteinAligner

    return ProteinAligner.from_preset(chosen.model)


def run_align(chosen: argparse.Namespace, left_out: LeftOut) -> None:
    from keras_struct.layers.whole_files import open_whole
    from keras_struct.protein import draw, read_chain, write_superposed, write_transformed
    from keras_struct.protein.alignment import FORMATS as WRITERS
    from keras_struct.protein.picture import check_picture_output
    from keras_struct.protein.structure_files import file_and_chain
    from keras_struct.protein.superposed_files import check_structure_output

    inputs = [file_and_chain(place)[0] for place in (chosen.first, chosen.second)]
    structures = [path for path in (chosen.superposed, chosen.transformed) if path is not None]
    check_outputs(chosen.output, *structures, chosen.picture, inputs=inputs)
    for path in structures:
        check_structure_output(path)
    if chosen.picture is not None:
        check_picture_output(chosen.picture)
    number, other = chosen.model_number
    options = (chosen.chain_names, left_out)
    pair = read_chain(chosen.first, number, *options), read_chain(chosen.second, other, *options)
    (alignment,) = load(chosen).align([pair], maps=chosen.picture is not None, refine=chosen.refine)
    with open_whole(chosen.output) as stream:
        stream.write(WRITERS[chosen.format](alignment))
    written: list[tuple[Path, Path]] = []
    if chosen.superposed is not None:
        written.append((chosen.superposed, write_superposed(alignment, chosen.superposed)))
    if chosen.transformed is not None:
        source, _ = file_and_chain(chosen.second)
        found = write_transformed(alignment, source, chosen.transformed, other)
        written.append((chosen.transformed, found))
    if chosen.picture is not None:
        draw(alignment, chosen.picture)
    for wanted, path in written:
        if wanted != path:
            print(f"{PROGRAM}: {path} is mmCIF, since PDB cannot hold it", file=sys.stderr)


def run_search(chosen: argparse.Namespace, left_out: LeftOut) -> None:
    from keras_struct.protein import protein_files, read_chain, search
    from keras_struct.protein.structure_files import file_and_chain
    from keras_struct.runs.checks import check_count
    from keras_struct.runs.cluster import engine
    from keras_struct.runs.progress import progress_bar

    if chosen.top < 0:
        raise ValueError(f"Expected a number of hits, or 0 for all. Received: --top {chosen.top}")
    if bool(chosen.places) == (chosen.index is not None):
        raise ValueError("Expected files and folders, or an index. Received: both, or neither")
    check_count("candidates", chosen.candidates)
    if chosen.engine == "ray" and chosen.index is None:
        raise ValueError("Expected an index with --engine ray. Received: files and folders")
    files = protein_files(chosen.places) if chosen.places else []
    check_outputs(chosen.output, inputs=[file_and_chain(chosen.query)[0], *files])
    number, other = chosen.model_number
    query = read_chain(chosen.query, number, chosen.chain_names, left_out)
    with engine(chosen.engine, chosen.workers, "keras-struct-protein"):
        if chosen.index is not None:
            run_index_search(chosen, query)
            return
    with progress_bar("files", len(files)) as progress:
        hits = search(
            load(chosen),
            query,
            files,
            cache=chosen.cache,
            model=other,
            names=chosen.chain_names,
            skipped=lambda file, error: left_out(error),
            progress=lambda done: progress.update(progress.task_ids[0], completed=done),
        )
    if not hits:
        raise ValueError(f"Expected chains to align. Received: none in {len(files)} files")
    top = chosen.top or len(hits)
    shown = hits[:top] if chosen.output is None else hits
    if chosen.refine:
        shown = _refined(shown, chosen.refine)
    show_hits(chosen, query, shown, top, f"{len(hits)} chains")


def run_index_search(chosen: argparse.Namespace, query: Any) -> None:
    from keras_struct.protein import IndexSearch, StructureIndex

    aligner, index = load(chosen), StructureIndex(chosen.index)
    search: IndexSearch
    if chosen.engine == "ray":
        from keras_struct.protein.ray_engine import RaySearch

        search = RaySearch(aligner, index, chosen.workers)
    else:
        search = IndexSearch(aligner, index)
    top = min(chosen.top or chosen.candidates, chosen.candidates)
    hits = search(query, top=top, candidates=chosen.candidates)
    if not hits:
        raise ValueError(f"Expected chains to align. Received: none in {chosen.index}")
    shown = _refined(hits, chosen.refine) if chosen.refine else hits
    show_hits(chosen, query, shown, top, f"best of {len(search.index)} chains")


def show_hits(
    chosen: argparse.Namespace, query: Any, shown: list[Any], top: int, title: str
) -> None:
    """Print the best hits, and write all that are shown."""
    from keras_struct.layers.whole_files import open_whole, stream_of
    from keras_struct.runs.progress import print_table

    measured: list[Any] = [(hit, hit.alignment.measures()) for hit in shown]
    if chosen.refine:
        measured.sort(key=lambda pair: -pair[1].get("tm_score_first", -1.0))
    rows = [_row(hit, measures) for hit, measures in measured]
    columns = ["chain", "score", "aligned", "identity", "TM-score", "RMSD", "lDDT", "file"]
    if chosen.index is not None:
        columns.insert(1, "E-value")
    sides = {name: "left" if name in ("chain", "file") else "right" for name in columns}
    if chosen.output is None or stream_of(chosen.output) is not sys.stdout:
        print_table(f"{query.name}: {title}", sides, rows[:top])
    if chosen.output is not None:
        with open_whole(chosen.output) as stream:
            stream.write("\t".join([*columns, "cigar"]) + "\n")
            for (hit, _), row in zip(measured, rows, strict=True):
                cells = [cell.translate(BLANKS) for cell in (*row, hit.alignment.cigar())]
                stream.write("\t".join(cells) + "\n")


def run_index(chosen: argparse.Namespace, left_out: LeftOut) -> None:
    from keras_struct.protein import build_index, protein_files
    from keras_struct.runs.progress import progress_bar

    files = protein_files(chosen.places)
    with progress_bar("files", len(files)) as progress:
        count = build_index(
            load(chosen),
            files,
            chosen.output,
            model=chosen.model_number[1],
            names=chosen.chain_names,
            skipped=lambda file, error: left_out(error),
            progress=lambda done: progress.update(progress.task_ids[0], completed=done),
        )
    print(f"{chosen.output}: {count} chains added")


def _refined(hits: list[Any], steps: int) -> list[Any]:
    """The hits with refined alignments, where both chains have coordinates."""
    from keras_struct.protein import Hit, refine

    with_both = [
        k
        for k, hit in enumerate(hits)
        if hit.alignment.first.backbone is not None and hit.alignment.second.backbone is not None
    ]
    found = refine([hits[k].alignment for k in with_both], steps)
    refined = dict(zip(with_both, found, strict=True))
    return [Hit(hit.file, refined.get(k, hit.alignment), hit.e_value) for k, hit in enumerate(hits)]


def _row(hit: Any, found: dict[str, Any]) -> list[str]:
    def text(name: str, digits: int) -> str:
        value = found.get(name)
        return "-" if value is None else f"{value:.{digits}f}"

    return [
        hit.alignment.second.name,
        *([] if hit.e_value is None else [f"{hit.e_value:.2g}"]),
        f"{hit.alignment.score:.1f}",
        str(found["aligned"]),
        text("identity", 3),
        text("tm_score_first", 3),
        text("rmsd", 2),
        text("lddt", 3),
        str(hit.file),
    ]


def new_encoder(chosen: argparse.Namespace) -> Any:
    """An encoder with the sizes, and the trunk, that the arguments name."""
    from keras_struct import protein

    sizes = {name: getattr(chosen, name) for name in ("alphabets", "dim", "depth", "dropout")}
    if chosen.trunk is None:
        return protein.ResidueEncoder(**sizes)
    if chosen.trunk == "proteinmpnn":
        trunk = protein.load_proteinmpnn()
    else:
        import keras_hub

        trunk = protein.ESMEncoder(keras_hub.models.ESMBackbone.from_preset(chosen.trunk))
    return protein.PretrainedEncoder(trunk, **sizes)


def run_train(chosen: argparse.Namespace, left_out: LeftOut) -> None:
    import keras

    from keras_struct.protein import ProteinAligner, train
    from keras_struct.runs.checks import check_seed
    from keras_struct.runs.progress import epochs_bar

    check_seed(chosen.seed)
    keras.utils.set_random_seed(chosen.seed)  # of a new model, too
    if chosen.start is not None:
        aligner = ProteinAligner.from_preset(chosen.start)
    else:
        aligner = ProteinAligner.create(new_encoder(chosen), structure=chosen.structure)
    trunk = getattr(aligner.encoder, "trunk", None)
    if trunk is not None:
        trunk.trainable = chosen.fine_tune
    elif chosen.fine_tune:
        raise ValueError("Expected a model with a trunk. Received: --fine-tune and none")
    with epochs_bar(chosen.epochs) as report:
        train(
            chosen.train,
            chosen.dev,
            chosen.output,
            aligner,
            epochs=chosen.epochs,
            learning_rate=chosen.learning_rate,
            loss=chosen.loss,
            longest=chosen.longest,
            seed=chosen.seed,
            limit=chosen.limit,
            restart=chosen.restart,
            skipped=left_out,
            progress=report,
        )
    print(chosen.output / "model.keras")


def run_evaluate(chosen: argparse.Namespace, left_out: LeftOut) -> None:
    from keras_struct.protein import evaluate, read_labelled_pairs
    from keras_struct.runs.progress import print_table

    pairs = [pair for file in chosen.files for pair in read_labelled_pairs(file, left_out)]
    scores = evaluate(load(chosen), pairs, chosen.refine)
    if chosen.json:
        print(json.dumps({"pairs": len(pairs), **scores}))
        return
    columns = {name.replace("_", " "): "right" for name in scores}
    print_table(f"{len(pairs)} pairs", columns, [[f"{value:.4f}" for value in scores.values()]])


def run_export(chosen: argparse.Namespace, left_out: LeftOut) -> None:
    print(load(chosen).export(chosen.output, overwrite=chosen.overwrite))
