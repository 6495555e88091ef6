"""Writes what all distributions share into their pyproject.toml, and the version elsewhere, too.

    python ci/metadata.py [--check]

The one source is `[tool.distributions]` in the pyproject.toml of the repository. With `--check`
nothing is written; the exit status says whether every file is up to date.
"""

import argparse
import json
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "# shared:begin, by ci/metadata.py", "# shared:end"
PIN = re.compile(r'"(keras-struct[a-z-]*(?:\[[a-z,]+\])?)(?:[~=<>]=[^"]*)?"')


def source() -> dict:
    with (ROOT / "pyproject.toml").open("rb") as stream:
        return tomllib.load(stream)["tool"]["distributions"]


def projects() -> list[Path]:
    return sorted([*ROOT.glob("*/pyproject.toml"), *ROOT.glob("packages/*/pyproject.toml")])


def toml(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(x)}" for key, x in value.items()) + " }"
    if isinstance(value, list):
        return "[\n" + "".join(f"    {toml(x)},\n" for x in value) + "]"
    return json.dumps(value, ensure_ascii=False)


def project_text(text: str, shared: dict) -> str:
    """A pyproject.toml with the shared block, and every pin of another distribution, as they are
    to be."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    lines = [f"{key} = {toml(value)}" for key, value in shared.items()]
    head, tail = after.split("dependencies = ", 1) if "dependencies = " in after else (after, "")
    if tail:
        tail = "dependencies = " + PIN.sub(rf'"\1=={shared["version"]}"', tail)
    return before + "\n".join([BEGIN, *lines, END]) + head + tail


def citation_text(text: str, shared: dict) -> str:
    return re.sub(r"(?m)^version: .*$", f"version: {shared['version']}", text)


def models_text(text: str, shared: dict) -> str:
    return re.sub(r'(?m)^ "version": .*$', f' "version": "{shared["version"]}",', text)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, compare only")
    check, shared, stale = parser.parse_args().check, source(), []
    files = {
        **dict.fromkeys(projects(), project_text),
        ROOT / "CITATION.cff": citation_text,
        **dict.fromkeys(ROOT.glob("packages/*/src/keras_struct/*/models.json"), models_text),
    }
    for file, updated in files.items():
        text = file.read_text(encoding="utf-8")
        if (new := updated(text, shared)) != text:
            stale.append(str(file.relative_to(ROOT)))
            if not check:
                file.write_text(new, encoding="utf-8")
    if stale:
        print(("stale: " if check else "written: ") + ", ".join(stale))
    return 1 if stale and check else 0


if __name__ == "__main__":
    sys.exit(main())
