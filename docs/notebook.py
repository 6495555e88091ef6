"""A page of the site as a Jupyter notebook: its text and its blocks of Python, without outputs."""

import json
import re

PYTHON = re.compile(r"^```python\n(.*?)^```\n?", re.DOTALL | re.MULTILINE)
PROMPT = re.compile(r"^(?:>>> |\.\.\. ?)(.*)$", re.MULTILINE)


def notebook(text: str) -> str:
    """The text of an `.ipynb` file (format 4.5). Of a block with `>>>` what is typed is kept."""
    cells: list[dict] = []
    parts = PYTHON.split(re.sub(r"^<!-- .* -->\n", "", text, flags=re.MULTILINE))
    for number, part in enumerate(parts):
        is_code = number % 2 == 1
        if is_code and ">>> " in part:
            part = "\n".join(PROMPT.findall(part))
        if not part.strip():
            continue
        cell: dict = {"id": f"cell-{number}", "metadata": {}, "source": part.strip()}
        if is_code:
            cells.append({"cell_type": "code", "execution_count": None, "outputs": [], **cell})
        else:
            cells.append({"cell_type": "markdown", **cell})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    found = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"
