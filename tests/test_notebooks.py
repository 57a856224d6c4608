"""The notebooks run from top to bottom: their code cells one after the other in one namespace, with small
numbers.
"""

import glob
import json
import os
import re

import numpy as np
import pytest

from official.data.pseudo_labels import BoxLabels
from official.data.source import Category
from official.self_training.label_store import LabelStore
from official.self_training.labeler import label_source
from tests import tiny

FOLDER = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "notebooks")
NAMES = ("circle", "square", "triangle", "cross", "ring")


def notebook(name):
    with open(os.path.join(FOLDER, name), encoding="utf-8") as file:
        return json.load(file)


def code(name, **numbers):
    """The code cells, with other numbers in the place of some."""
    cells = ["".join(cell["source"]) for cell in notebook(name)["cells"] if cell["cell_type"] == "code"]
    for old, new in numbers.items():
        assert any(old in cell for cell in cells), old
        cells = [cell.replace(old, new) for cell in cells]
    return cells


def run(cells):
    """What the cells leave behind."""
    import matplotlib

    matplotlib.use("Agg")
    namespace = {"__name__": "__main__"}
    for number, cell in enumerate(cells):
        exec(compile(cell, f"cell {number}", "exec"), namespace)
    matplotlib.pyplot.close("all")
    return namespace


@pytest.mark.parametrize("path", sorted(glob.glob(os.path.join(FOLDER, "*.ipynb"))), ids=os.path.basename)
def test_notebooks_are_of_format_4_without_outputs(path):
    """What nbformat asks for, a title, and code that is Python; what they printed on somebody's machine is
    not kept.
    """
    content = notebook(path)
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5) and content["metadata"]["kernelspec"][
        "name"
    ] == "python3"
    assert content["cells"][0]["cell_type"] == "markdown" and content["cells"][0]["source"][0].startswith(
        "# "
    )
    assert len({cell["id"] for cell in content["cells"]}) == len(content["cells"])
    for cell in content["cells"]:
        assert isinstance(cell["source"], list) and isinstance(cell["metadata"], dict)
        assert re.fullmatch(r"[\w-]{1,64}", cell["id"])
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            compile("".join(cell["source"]), path, "exec")


@pytest.mark.slow
def test_the_short_program(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    numbers = {"STEPS, SIZE, THRESHOLD = 3000, 128, 0.4": "STEPS, SIZE, THRESHOLD = 5, 64, 0.05"}
    left = run(code("short_program.ipynb", **numbers, **{"count=2000": "count=12", "count=200": "count=12"}))
    assert len(left["counts"]) == 12 and len(left["student_history"]["loss_ratio"]) == 5
    assert 0 <= left["student_metrics"]["MaP"] <= 1 and (tmp_path / "student.keras").is_file()


class Teacher:
    """Finds, in image i, i % 3 boxes of falling scores."""

    name, label_kind = "detection", "boxes"
    categories = tuple(Category(i + 1, name) for i, name in enumerate(NAMES))

    def label(self, model, source, first, last):
        for i in range(first, last):
            count = i % 3
            yield BoxLabels(
                boxes=np.array([[1, 2, 10 + k, 20] for k in range(count)], np.float32).reshape(-1, 4),
                scores=np.array([0.9 - 0.04 * i - 0.3 * k for k in range(count)], np.float32),
                classes=np.array([(i + k) % 5 for k in range(count)], np.int32),
            )


@pytest.mark.slow
def test_a_label_store_is_opened_looked_at_and_exported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = tiny.scenes_source("unlabeled", 12, labeled=False)
    store = LabelStore(str(tmp_path / "runs/notebook/pseudo_labels"))
    label_source(Teacher(), None, source, store, tiny.experiment(label_shard_size=4), "t")
    left = run(code("label_store.ipynb", **{"scenes:unlabeled,count=300": "scenes:unlabeled,count=12"}))
    rows = list(Teacher().label(None, None, 0, 12))
    expected = [  # 0.4, but 0.6 for circles
        label
        for row in rows
        for label, score in zip(row.classes, row.scores)
        if score >= (0.6 if label == 0 else 0.4)
    ]
    assert left["counts"].tolist() == np.bincount(expected, minlength=5).tolist() and 0 < len(expected) < 12
    assert left["table"]["0.1"] == np.bincount(np.concatenate([r.classes for r in rows])[np.concatenate([r.scores for r in rows]) >= 0.1], minlength=5).tolist()  # fmt: skip
    with open(tmp_path / "exported/pseudo_labels_coco.json", encoding="utf-8") as file:
        assert len(json.load(file)["annotations"]) == len(expected)
