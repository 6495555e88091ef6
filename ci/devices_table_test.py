import runpy
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
RUN = runpy.run_path(str(FOLDER / "devices_run.py"))
collectives, foreign = RUN["collectives"], RUN["foreign"]
STEP = """
%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %c = f32[] add(%a, %b)
}
%body (x: (f32[4])) -> (f32[4]) {
  %y = f32[4]{0} all-reduce(%x), to_apply=%add
}
ENTRY %step (p: f32[4]) -> f32[4] {
  %w = (f32[4]) while(%p), condition=%holds, body=%body
  %g = (f32[3,2]{1,0}, f32[]) all-reduce(%p, %q), to_apply=%add, metadata={op_name="gradient"}
  %d = pred[] all-reduce(%p), to_apply=%and
  %m = f32[8,3]{1,0} all-gather(%p), dimensions={0}
}
"""


def test_collectives_of_a_program_are_found_and_judged():
    found = collectives(STEP)
    kinds = [(x.kind, x.numbers, x.decides, x.looped, x.name) for x in found]
    assert kinds == [
        ("all-reduce", 4, False, True, ""),
        ("all-reduce", 7, False, False, "gradient"),
        ("all-reduce", 1, True, False, ""),
        ("all-gather", 24, False, False, ""),
    ]
    assert foreign("data", found, weights=6) == [found[0], found[3]]
    assert foreign("model", found, weights=6) == [found[0]]
    many = [found[1]._replace(numbers=100)]
    assert foreign("data", many, weights=6) == many


def test_the_table_is_up_to_date():
    subprocess.run([sys.executable, FOLDER / "devices_table.py", "--check"], check=True)
