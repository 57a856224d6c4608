"""The table of mutants fits the code: each old text is there once, each mutant is Python, each test is."""

import ast
import os

import pytest

from tests import mutants

TABLE = mutants.read_table()


def test_enough_and_each_with_a_name_of_its_own():
    assert len(TABLE) >= 80
    assert len({m.name for m in TABLE}) == len(TABLE)
    assert len({(m.file, m.old, m.new) for m in TABLE}) == len(TABLE)


@pytest.mark.parametrize("file", sorted({m.file for m in TABLE}))
def test_old_texts_occur_once_and_new_ones_are_python(file):
    with open(os.path.join(mutants.ROOT, file), encoding="utf-8") as opened:
        text = opened.read()
    for mutant in (m for m in TABLE if m.file == file):
        assert mutant.tests, mutant.name
        changed = mutant.applied_to(text)
        if file.endswith(".py"):
            assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(text)), mutant.name


@pytest.mark.parametrize("file", sorted({test.split("::")[0] for m in TABLE for test in m.tests}))
def test_the_tests_exist(file):
    wanted = {t.split("::")[1].split("[")[0] for m in TABLE for t in m.tests if t.startswith(f"{file}::")}
    path = os.path.join(mutants.ROOT, file)
    if os.path.isdir(path):
        return
    with open(path, encoding="utf-8") as opened:
        found = {node.name for node in ast.parse(opened.read()).body if isinstance(node, ast.FunctionDef)}
    assert wanted <= found, wanted - found


def test_the_table_is_read_as_its_head_says(tmp_path):
    path = tmp_path / "table.txt"
    path.write_text(
        "# a comment\nfile a.py\ntests t.py u.py::x\n\none\n- a + b\n+ a - b\n\ntwo\ntests v.py\n- c\n+ d\n"
    )
    assert mutants.read_table(str(path)) == [
        mutants.Mutant("one", "a.py", "a + b", "a - b", ("t.py", "u.py::x")),
        mutants.Mutant("two", "a.py", "c", "d", ("v.py",)),
    ]
    path.write_text("file a.py\n- old without a name\n")
    with pytest.raises(ValueError, match=":2: .*out of place"):
        mutants.read_table(str(path))
    with pytest.raises(ValueError, match="occurs 2 times in a.py"):
        mutants.Mutant("n", "a.py", "x", "y", ()).applied_to("x x")
