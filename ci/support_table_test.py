import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("support_table.py")


def test_the_tables_in_the_readmes_are_up_to_date():
    subprocess.run([sys.executable, SCRIPT, "--check"], check=True)
