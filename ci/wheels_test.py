"""Each wheel holds what its folder holds, and the wheels work without the source tree."""

import ast
import functools
import json
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from ci.metadata import source
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
DISTRIBUTIONS = sorted(
    path.parent
    for pattern in ("*", "packages/*")
    for path in ROOT.glob(f"{pattern}/pyproject.toml")
)
PACKAGES = sorted(
    f"keras_struct.{path.parent.name}"
    for folder in DISTRIBUTIONS
    for path in folder.glob("src/keras_struct/*/__init__.py")
)
# Tests of ours, and what only they use. What tests of others may build upon is shipped.
TESTS = ("*_test.py", "cases.py", "structure_cases.py", "pallas_testing.py", "triton_testing.py")


def pip(*arguments: object) -> None:
    command = [sys.executable, "-m", "pip", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Path]:
    """The wheel of each distribution folder."""
    built = {}
    for folder in DISTRIBUTIONS:
        output = tmp_path_factory.mktemp(folder.name)
        pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", output, folder)
        (built[folder],) = output.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def site(wheels: dict[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every wheel installed, and nothing else."""
    target = tmp_path_factory.mktemp("site")
    pip("install", "--no-deps", "--no-index", "--target", target, *wheels.values())
    return target


def read_metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def shipped_files(folder: Path) -> set[str]:
    """What a wheel is to hold."""
    return {
        path.relative_to(folder / "src").as_posix()
        for path in (folder / "src").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not any(map(path.match, TESTS))
    }


@pytest.mark.parametrize("folder", DISTRIBUTIONS, ids=lambda folder: folder.name)
def test_wheel_ships_every_file_but_the_tests(folder: Path, wheels: dict[Path, Path]) -> None:
    with zipfile.ZipFile(wheels[folder]) as archive:
        shipped = {name for name in archive.namelist() if ".dist-info/" not in name}
        (licence,) = (name for name in archive.namelist() if name.endswith("/licenses/LICENSE"))
        assert archive.read(licence) == (ROOT / "LICENSE").read_bytes()
    assert shipped == shipped_files(folder)
    assert "keras_struct/__init__.py" not in shipped
    packages = {f"keras_struct/{name.split('/')[1]}" for name in shipped}
    assert {f"{package}/py.typed" for package in packages} <= shipped


@pytest.mark.parametrize("folder", DISTRIBUTIONS, ids=lambda folder: folder.name)
def test_a_wheel_can_be_built_from_the_sdist(folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "--target", "sdist"]
    subprocess.run([*command, "--directory", tmp_path], cwd=folder, check=True, capture_output=True)
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    shipped = shipped_files(folder)  # kernels in C++ as sources
    expected = {f"src/{name}" for name in shipped if not name.endswith(".so")}
    assert {"pyproject.toml", "README.md", "LICENSE", *expected} <= names


def imports(path: Path) -> Iterator[str]:
    """The modules of ours that a file imports, names within packages among them."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.startswith("keras_struct."))


@functools.cache
def project(folder: Path) -> dict:
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.mark.parametrize("folder", DISTRIBUTIONS, ids=lambda folder: folder.name)
def test_what_is_shipped_imports_only_what_is_shipped_and_declared(folder: Path) -> None:
    shipped = {file for other in DISTRIBUTIONS for file in shipped_files(other)}
    declared, ahead = {folder.name}, [folder]
    while ahead:
        lines = [Requirement(line).name for line in project(ahead.pop()).get("dependencies", ())]
        found = [x for x in DISTRIBUTIONS if project(x)["name"] in lines]
        ahead += [x for x in found if x.name not in declared]
        declared |= {x.name for x in found}
    for file in shipped_files(folder):
        for name in imports(folder / "src" / file) if file.endswith(".py") else ():
            assert name.split(".")[1].replace("_", "-") in declared, (file, name)
            for module in (name, name.rpartition(".")[0]):
                place = f"{module.replace('.', '/')}.py"
                exists = any((other / "src" / place).exists() for other in DISTRIBUTIONS)
                assert place in shipped or not exists, f"{file} imports {module}, a test"


@pytest.mark.parametrize("folder", DISTRIBUTIONS, ids=lambda folder: folder.name)
def test_metadata_is_what_pypi_shows(folder: Path, wheels: dict[Path, Path]) -> None:
    metadata, shared = read_metadata(wheels[folder]), source()
    assert metadata["Version"] == shared["version"]
    assert metadata["Requires-Python"] == shared["requires-python"]
    assert metadata["Author"] == shared["authors"][0]["name"]
    assert metadata.get_all("Classifier") == sorted(shared["classifiers"])
    assert metadata["License-Expression"].startswith("Apache-2.0")
    assert metadata.get_all("Project-URL") == [", ".join(x) for x in shared["urls"].items()]
    assert metadata["Keywords"] and metadata["Summary"]
    ours = [x for x in metadata.get_all("Requires-Dist") or () if x.startswith("keras-struct")]
    for requirement in map(Requirement, ours):
        assert str(requirement.specifier) == f"=={shared['version']}"


def test_shared_metadata_is_up_to_date() -> None:
    subprocess.run([sys.executable, ROOT / "ci" / "metadata.py", "--check"], check=True)


@pytest.mark.parametrize("folder", DISTRIBUTIONS, ids=lambda folder: folder.name)
def test_wheels_without_weights_are_small(folder: Path, wheels: dict[Path, Path]) -> None:
    limit = 3e6 if folder.name == "ops" else 1e6  # kernels in C++ for each kind of processor
    assert folder.name.endswith("-models") or wheels[folder].stat().st_size < limit


def test_umbrella_has_an_extra_for_each_backend(wheels: dict[Path, Path]) -> None:
    metadata = read_metadata(wheels[ROOT / "packages" / "keras-struct"])
    assert {"jax", "tensorflow", "torch"} <= set(metadata.get_all("Provides-Extra") or ())


def test_packages_import_from_the_wheels_alone(site: Path) -> None:
    program = (
        "import importlib, json, sys\n"
        "found = [importlib.import_module(name) for name in sys.argv[1:]]\n"
        "modules = [(x.__name__, name) for x in found for name in dir(x)\n"
        "           if type(getattr(x, name)) is type(sys) and not name.startswith('_')]\n"
        "print(json.dumps([[x.__file__ for x in found], modules]))\n"
    )
    libraries = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    # -S: without the .pth files, which would lead to the editable sources.
    result = subprocess.run(
        [sys.executable, "-S", "-P", "-c", program, *PACKAGES],
        env={"PYTHONPATH": ":".join([str(site), *libraries]), "KERAS_BACKEND": "numpy"},
        cwd=site,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    files, modules = json.loads(result.stdout.splitlines()[-1])
    assert not modules, "dir() of a package shows what it offers, not its files"
    assert len(files) == len(PACKAGES) > 0
    for file in files:
        assert Path(file).is_relative_to(site)
