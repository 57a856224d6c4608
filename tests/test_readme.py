"""The README's program in Keras runs; `python -m tests.test_readme` prints it with small numbers, for
`.ci/run`.
"""

import ast
import os
import re
import subprocess
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SMALL = {
    r"^STEPS = \d+": "STEPS = 1",
    r"count=\d+": "count=12",
    r"score_threshold=[\d.]+": "score_threshold=0.05",
}


def program(small: bool = False) -> str:
    """The Python block of the README that trains; with few steps and images if `small`."""
    with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as file:
        (found,) = [
            block
            for block in re.findall(r"```python\n(.*?)```", file.read(), re.S)
            if "pseudo_label(" in block
        ]
    for old, new in SMALL.items() if small else ():
        found, count = re.subn(old, new, found, flags=re.M)
        assert count, f"the program has no {old}"
    return found


def test_the_program_is_short_and_its_names_are_public():
    import self_training

    tree, lines = ast.parse(program()), [line for line in program().splitlines() if line.strip()]
    assert len(lines) <= 30
    (ours,) = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert ours.module == "self_training" and {name.name for name in ours.names} <= set(self_training.__all__)


@pytest.mark.slow
def test_the_program_runs_in_an_empty_folder(tmp_path):
    environment = {**os.environ, "PYTHONPATH": ROOT, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", program(small=True)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert os.listdir(tmp_path) == ["student.keras"] and done.stdout.count("{'loss'") == 2


if __name__ == "__main__":
    print(program(small=True))
