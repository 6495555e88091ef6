"""Compiles the C++ kernels into the wheel, which is pure where there is no compiler."""

import runpy
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path("src/keras_struct/ops/cpp")


class CompiledKernels(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        try:
            files = runpy.run_path(str(Path(self.root) / FOLDER / "build.py"))["build"]()
        except RuntimeError as error:
            self.app.display_warning(f"Without kernels in C++, the compiler failed: {error}")
            return
        if files:
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{platform}"
            build_data["artifacts"] += [f"/{FOLDER}/{file.name}" for file in files]
