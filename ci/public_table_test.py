import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("public_table.py")


def test_the_lists_of_public_names_are_up_to_date():
    subprocess.run([sys.executable, SCRIPT, "--check"], check=True)
