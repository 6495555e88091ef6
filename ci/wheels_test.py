"""Each wheel holds what its folder holds, and the wheels work without the source tree."""

import json
import subprocess
import sys
import sysconfig
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("folder", DISTRIBUTIONS, ids=lambda folder: folder.name)
def test_wheel_ships_every_file_but_the_tests(folder: Path, wheels: dict[Path, Path]) -> None:
    source = folder / "src"
    expected = {
        path.relative_to(source).as_posix()
        for path in source.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.endswith("_test.py")
    }
    with zipfile.ZipFile(wheels[folder]) as archive:
        shipped = {name for name in archive.namelist() if ".dist-info/" not in name}
        (licence,) = (name for name in archive.namelist() if name.endswith("/licenses/LICENSE"))
        assert archive.read(licence) == (ROOT / "LICENSE").read_bytes()
    assert shipped == expected
    assert "keras_struct/__init__.py" not in shipped


@pytest.mark.parametrize("folder", DISTRIBUTIONS, ids=lambda folder: folder.name)
def test_wheels_without_weights_are_small(folder: Path, wheels: dict[Path, Path]) -> None:
    assert folder.name.endswith("-models") or wheels[folder].stat().st_size < 1e6


def test_distributions_share_one_version(wheels: dict[Path, Path]) -> None:
    versions = {folder.name: read_metadata(wheel)["Version"] for folder, wheel in wheels.items()}
    assert len(set(versions.values())) == 1, versions


def test_umbrella_has_an_extra_for_each_backend(wheels: dict[Path, Path]) -> None:
    metadata = read_metadata(wheels[ROOT / "packages" / "keras-struct"])
    assert {"jax", "tensorflow", "torch"} <= set(metadata.get_all("Provides-Extra") or ())


def test_packages_import_from_the_wheels_alone(site: Path) -> None:
    program = (
        "import importlib, json, sys\n"
        "print(json.dumps([importlib.import_module(name).__file__ for name in sys.argv[1:]]))\n"
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
    files = json.loads(result.stdout.splitlines()[-1])
    assert len(files) == len(PACKAGES) > 0
    for file in files:
        assert Path(file).is_relative_to(site)
