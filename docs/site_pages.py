"""What the site does beside Sphinx: includes, docstrings and formulas.

Formulas are written as MathML, which browsers draw without a script. In a page

    <!-- include: layers/README.md#masks -->

stands for that section of a file of the repository, without its heading; without `#` for the whole
file, without its title; with `code` before `-->` for its blocks of code alone. Links of the file
become those of the site.
"""

import inspect
import os
import re
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[1]
INCLUDE = re.compile(r"^<!-- include: (\S+?)(?:#(\S+))?( code)? -->$", re.MULTILINE)
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?![a-z]+:|#)([^)\s#]*)(#[^)\s]*)?\)")
TABLE = re.compile(r"(?:^ *\|.*\|$\n?)+", re.MULTILINE)
# Where the site shows files of the repository; others are named, not linked.
PAGES = {
    "README.md": "index",
    "ops/README.md": "where/what-works",
    "ops/TPU.md": "where/tpu",
    "ops/GPU.md": "where/gpu",
    "packages/treebank/README.md": "packages/treebank",
    "packages/treebank/RESULTS.md": "where/treebank-results",
    "packages/protein/README.md": "packages/protein",
    "packages/protein/RESULTS.md": "where/protein-results",
    "ci/benchmarks/README.md": "where/benchmarks",
    "WORKSPACE.md": "project/architecture",
    "CONTRIBUTING.md": "project/contributing",
    "SECURITY.md": "project/security",
    "CHANGELOG.md": "project/changelog",
} | {
    f"ops/src/keras_struct/ops/{engine}/recurrence.md": f"concepts/{engine.replace('_', '-')}"
    for engine in ("chain", "alignment", "chart", "pcfg", "spanning_tree", "transport")
}


def expand(app, docname, source):
    """Replaces the includes of a page; Sphinx calls it with the text in a list. A tutorial gets a
    link to itself as a notebook."""
    source[0] = with_includes(docname, source[0])
    if is_notebook(docname, source[0]):
        title, rest = source[0].split("\n", 1)
        name = PurePosixPath(docname).name
        link = f'<a href="{name}.ipynb" download>This page as a notebook</a>'
        source[0] = f"{title}\n\n{link}\n{rest}"


def with_includes(docname: str, text: str) -> str:
    return INCLUDE.sub(lambda found: included(docname, *found.groups()), text)


def is_notebook(docname: str, text: str) -> bool:
    return docname.startswith(("tutorials/", "howto/", "concepts/")) and "```python\n" in text


def write_notebooks(app, exception):
    """Beside the pages, after the site is built."""
    from notebook import notebook

    for docname in () if exception else app.env.found_docs:
        text = with_includes(docname, Path(app.env.doc2path(docname)).read_text(encoding="utf-8"))
        if is_notebook(docname, text):
            target = Path(app.outdir) / f"{docname}.ipynb"
            target.write_text(notebook(text), encoding="utf-8")


def included(docname: str, file: str, anchor: str | None, code: str | None) -> str:
    text = (ROOT / file).read_text(encoding="utf-8")
    text = section(text, anchor) if anchor else text.split("\n", 1)[1]
    parts = re.split(r"(^```.*?^```)", text, flags=re.DOTALL | re.MULTILINE)
    if code:
        return "\n\n".join(parts[1::2])
    if not anchor and any(re.search(r"^# ", part, re.MULTILINE) for part in parts[::2]):
        parts[::2] = [re.sub(r"^#", "##", part, flags=re.MULTILINE) for part in parts[::2]]
    parts[::2] = [LINK.sub(lambda x: link(docname, file, x), part) for part in parts[::2]]
    return "".join(parts).strip()


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub and MyST make it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def section(text: str, anchor: str) -> str:
    """What stands below a heading, deeper headings one level up; an anchor must exist."""
    lines, inside, level, fenced = [], False, 0, False
    for line in text.splitlines():
        fenced ^= line.startswith("```")
        heading = None if fenced else re.match(r"(#+) (.*)", line)
        if heading and inside and len(heading[1]) <= level:
            break
        if inside:
            lines.append(line)
        elif heading and slug(heading[2]) == anchor:
            inside, level = True, len(heading[1])
    if not inside:
        raise ValueError(f"Expected a heading of the file. Received: anchor={anchor!r}")
    up = level - 1
    return "\n".join(re.sub(rf"^#{{{up}}}(#+ )", r"\1", line) for line in lines)


def link(docname: str, file: str, found: re.Match) -> str:
    """A relative link of a file of the repository, as one of the site."""
    picture, text, target, anchor = found.groups()
    place = os.path.normpath(PurePosixPath(file).parent / target) if target else file
    if not (ROOT / place).exists():
        raise ValueError(f"{file} links to {target}, which does not exist")
    here = PurePosixPath(docname).parent
    if picture:
        return f"![{text}]({os.path.relpath(ROOT / place, ROOT / 'docs' / here)})"
    if place in PAGES:
        return f"[{text}]({os.path.relpath(PAGES[place], here)}.md{anchor or ''})"
    if place.startswith("ci/benchmarks/"):
        return f"[{text}]({os.path.relpath('where/' + PurePosixPath(place).name, here)})"
    return text if text == place else f"{text} (`{place}`)"


def as_restructured_text(app, what, name, obj, options, lines):
    """Docstrings are Markdown as far as code in single backticks goes; Sphinx calls it with the
    lines of one, before its sections are read."""
    text = TABLE.sub(lambda found: list_table(found.group(0)), "\n".join(lines))
    parts = re.split(r"(`[^`]+`|^ *>>> .*(?:\n.*\S.*)*)", text, flags=re.MULTILINE)
    for i, part in enumerate(parts):
        if i % 2 == 0:
            parts[i] = part.replace("|", "\\|")
        elif part.startswith("`"):
            parts[i] = f"`{' '.join(part.split())}`" + "\n" * part.count("\n")
    lines[:] = "".join(parts).splitlines()


def own_signature(app, what, name, obj, options, signature, returns):
    """The arguments of `__init__`, which those of Keras' `__new__` hide."""
    if what == "class" and "__init__" in vars(obj) and signature and "*args" in signature:
        parameters = list(inspect.signature(obj.__init__).parameters.values())[1:]
        return str(inspect.Signature(parameters)), returns


def left_out(app, what, name, obj, skip, options):
    """Fields of named tuples, which `Attributes:` of their class describe."""
    return True if str(getattr(obj, "__doc__", "")).startswith("Alias for field number") else None


def list_table(text: str) -> str:
    """A Markdown table as a directive."""
    indent = text[: len(text) - len(text.lstrip())]
    head, _, *rows = [line.strip().strip("|").split("|") for line in text.splitlines()]
    lines = [f"{indent}.. list-table::", f"{indent}   :header-rows: 1", ""]
    for row in (head, *rows):
        for number, cell in enumerate(row):
            lines.append(f"{indent}   {'  ' if number else '* '}- {cell.strip()}")
    return "\n".join([*lines, ""])


def math_as_mathml(translator, node):
    import latex2mathml.converter
    from docutils import nodes

    display = "block" if isinstance(node, nodes.math_block) else "inline"
    translator.body.append(latex2mathml.converter.convert(node.astext(), display=display))
    raise nodes.SkipNode
