"""The documentation site: `make docs` builds it into build/docs."""

import os
import sys
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "numpy")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).parent))

import tomllib

from site_pages import (
    as_restructured_text,
    expand,
    left_out,
    math_as_mathml,
    own_signature,
    write_notebooks,
)

ROOT = Path(__file__).resolve().parents[1]
SHARED = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["distributions"]

project = "keras-struct"
author = SHARED["authors"][0]["name"]
copyright = f"{author}, Apache-2.0"
version = release = SHARED["version"]

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["README.md"]
nitpicky = False
suppress_warnings = ["misc.highlighting_failure"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_type_aliases = {name: name for name in ("ArrayLike", "Pair", "Tensor")}
autodoc_inherit_docstrings = False  # what Keras says of its own methods is said there
autodoc_default_options = {"members": True, "exclude-members": "decoder"}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_custom_sections = [("Call arguments", "params_style"), ("Source", "notes")]

html_theme = "furo"
html_title = "keras-struct"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_math_renderer = "mathml"
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True


def setup(app):
    app.connect("source-read", expand)
    app.connect("build-finished", write_notebooks)
    app.connect("autodoc-process-docstring", as_restructured_text, priority=100)
    app.connect("autodoc-process-signature", own_signature)
    app.connect("autodoc-skip-member", left_out)
    app.add_html_math_renderer("mathml", (math_as_mathml, None), (math_as_mathml, None))
