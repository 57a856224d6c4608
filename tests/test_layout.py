"""The house: imports go down, flags stay upstairs, configs parse, Bazel knows every file."""

import ast
import glob
import os
import re

import pytest

from official.experiment import Experiment

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FLOORS = {
    "main": 9,
    "official.jobs": 8,
    "official.flags": 8,
    "official.study": 8,
    "official.report": 4.5,  # tasks may import it, models may not
    "official.self_training": 7,
    "official.training": 6,
    "official.tasks": 5,
    "official.export": 5,
    "official.export.tflite": 5,
    "official.trained_model": 4,
    "official.models": 4,
    "official.evaluation": 4,
    "official.data": 3,
    "official.experiment": 2,
    "official.catalog": 2,
    "official.files": 2,
    "official.lock": 2,
    "official.errors": 1,
    "official.screen": 1,
    "official.hashing": 2,
    "augment": 2,
    "losses": 2,
}


def modules():
    paths = ["main.py"] + [
        p
        for d in ("official", "augment", "losses")
        for p in glob.glob(f"{d}/**/*.py", root_dir=ROOT, recursive=True)
    ]
    return [p for p in paths if os.path.getsize(os.path.join(ROOT, p))]


def floor(module):
    matches = [name for name in FLOORS if module == name or module.startswith(name + ".")]
    return FLOORS[max(matches, key=len)] if matches else None


def parse(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return ast.parse(file.read())


@pytest.mark.parametrize("path", modules())
def test_imports_only_go_down(path):
    here = floor(path[:-3].replace("/", ".").removesuffix(".__init__"))
    for node in ast.walk(parse(path)):
        names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            there = floor(name)
            if there is not None and here is not None:
                assert there <= here, f"{path}:{node.lineno} imports {name}, a floor above it"
            if path.startswith(("augment/", "losses/")):
                assert not name.startswith("official"), f"{path} must not need official"


@pytest.mark.parametrize("path", modules())
def test_every_module_says_what_it_is_for(path):
    assert ast.get_docstring(parse(path)), path


@pytest.mark.parametrize("path", modules())
def test_flags_are_read_upstairs_only(path):
    if path not in ("main.py", "official/flags.py"):
        assert "FLAGS" not in open(os.path.join(ROOT, path)).read(), path


def configs():
    return sorted(glob.glob(os.path.join(ROOT, "configs", "*.cfg")))


@pytest.mark.parametrize("path", configs(), ids=os.path.basename)
def test_configs_name_real_flags_and_say_what_they_are(path):
    known = Experiment().flags()
    lines = open(path, encoding="utf-8").read().splitlines()
    assert lines[0].startswith("# ") and any("main.py --flagfile=configs/" in line for line in lines[:4])
    for line in lines:
        if line and not line.startswith("#"):
            name = re.match(r"--(?:no)?(\w+)", line).group(1)
            assert name in known or line[2:].split("=")[0] in known or name == "flagfile", f"{path}: {line}"


@pytest.mark.parametrize("path", configs(), ids=os.path.basename)
def test_configs_are_experiments(path, monkeypatch):
    """Each parses with the files that it includes, and its trainer's schedule fits its steps."""
    from official.flags import experiment_from_flagfile
    from official.training.optimizer import build_optimizer

    monkeypatch.chdir(ROOT)
    experiment = experiment_from_flagfile(path)
    build_optimizer(experiment.optimizer, experiment.training.teacher_steps)
    assert (experiment.loss.joint_weight > 0) == bool(experiment.data.joint_data)


def test_the_table_of_configs_is_up_to_date():
    import runpy

    made = runpy.run_path(os.path.join(ROOT, "configs", "make_readme.py"))["readme"]()
    assert made == open(os.path.join(ROOT, "configs", "README.md"), encoding="utf-8").read(), (
        "run python configs/make_readme.py"
    )


def test_every_option_has_help():
    import dataclasses

    from official.experiment import GROUPS

    for group in GROUPS.values():
        for field in dataclasses.fields(group):
            assert len(field.metadata["help"]) > 5, field.name


def test_bazel_packages_cover_the_tree():
    for path in modules():
        folder = os.path.dirname(path)
        assert os.path.isfile(os.path.join(ROOT, folder, "BUILD")), f"{folder or '.'} has no BUILD"
    build = open(os.path.join(ROOT, "tests", "BUILD"), encoding="utf-8").read()
    assert 'glob(["**/test_*.py"])' in build
    for path in glob.glob("tests/**/*.py", root_dir=ROOT, recursive=True):
        if "golden" not in path and os.path.basename(path) not in (
            "__init__.py",
            "conftest.py",
            "tiny.py",
            "tiny_backbone.py",
            "run_pytest.py",
            "tf1_networks.py",
            "torch_networks.py",
            "forked_main.py",
            "foreign_readers.py",
            "mutants.py",
            "pycocotools_oracle.py",
        ):
            assert os.path.basename(path).startswith("test_"), f"{path} is no Bazel target"


@pytest.mark.parametrize("path", sorted(glob.glob("official/*/BUILD", root_dir=ROOT)))
def test_bazel_deps_are_the_imports(path):
    folder = os.path.dirname(path)
    build = open(os.path.join(ROOT, path), encoding="utf-8").read()
    for module in (m for m in modules() if os.path.dirname(m) == folder):
        for node in ast.walk(parse(module)):
            name = node.module if isinstance(node, ast.ImportFrom) and node.module else ""
            parts = name.split(".")
            if parts[0] in ("augment", "losses"):
                label = f"//{parts[0]}"
            elif parts[0] == "official" and len(parts) > 1 and f"official/{parts[1]}" != folder:
                label = (
                    f"//official/{parts[1]}"
                    if os.path.isdir(os.path.join(ROOT, "official", parts[1]))
                    else f"//official:{parts[1]}"
                )
            else:
                continue
            assert f'"{label}"' in build, f"{module} imports {name}; {path} lacks {label}"
