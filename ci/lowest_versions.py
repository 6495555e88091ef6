"""Prints the lowest versions that the distributions of this project declare, as constraints of pip.

    python ci/lowest_versions.py > build/lowest.txt

`make test-lowest` installs them and runs the tests. A requirement counts by its `>=`; where several
distributions name a package, by the highest of them, since they are installed together.
"""

import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
# What is released beside a package, under the same version.
BESIDE = {"jax": ["jaxlib"], "tensorflow": ["tensorflow-cpu"]}


def requirements() -> Iterator[Requirement]:
    for path in sorted([*ROOT.glob("*/pyproject.toml"), *ROOT.glob("packages/*/pyproject.toml")]):
        project = tomllib.loads(path.read_text())["project"]
        extras = project.get("optional-dependencies", {}).values()
        for line in [*project.get("dependencies", []), *(x for extra in extras for x in extra)]:
            yield Requirement(line)


def lowest(found: Iterable[Requirement]) -> dict[str, Version]:
    versions: dict[str, Version] = {}
    for requirement in found:
        for specifier in requirement.specifier:
            if specifier.operator == ">=":
                for name in [requirement.name, *BESIDE.get(requirement.name, [])]:
                    version = Version(specifier.version)
                    versions[name] = max(version, versions.get(name, version))
    return versions


if __name__ == "__main__":
    for name, version in sorted(lowest(requirements()).items()):
        print(f"{name}=={version}")
