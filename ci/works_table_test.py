import json
import subprocess
import sys
from pathlib import Path

from keras_struct.ops import dispatch

FOLDER = Path(__file__).parent


def test_the_table_is_up_to_date():
    subprocess.run([sys.executable, FOLDER / "works_table.py", "--check"], check=True)


def test_every_structure_was_run():
    record = json.loads((FOLDER / "works.json").read_text(encoding="utf-8"))
    assert set(record["cells"]) == set(dispatch.structures())
    assert len({frozenset(cells) for cells in record["cells"].values()}) == 1
