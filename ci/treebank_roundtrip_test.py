import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("treebank_roundtrip.py")


def test_a_table_of_small_treebanks(tmp_path):
    trees, sentences = tmp_path / "a.mrg", tmp_path / "a.conllu"
    trees.write_text("( (S (NP (PRP We))\n  (VP (VBD left))))\n(S+X (RB so))\n")
    sentences.write_text("1\tleft\t_\t_\t_\t_\t0\troot\t_\t_\n\n")
    command = [sys.executable, SCRIPT, sentences, trees]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    assert "/a.conllu | 1 | 1 | 1 | 1 | 0 | – | 0 |" in result.stdout
    assert f"{trees}: tree 2: Expected labels without +" in result.stdout
