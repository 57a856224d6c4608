"""The wheel: everything below one name, with the dependencies that requirements.txt pins."""

import os
import re
import subprocess
import sys
import zipfile

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@pytest.fixture(scope="module")
def setup_file():
    """What setup.py defines, without setting anything up."""
    path = os.path.join(ROOT, "setup.py")
    with open(path, encoding="utf-8") as file:
        source = file.read().partition("\nsetup(")[0]
    names = {}
    exec(compile(source, path, "exec"), names)
    return names


@pytest.fixture(scope="module")
def project():
    tomllib = pytest.importorskip("tomllib", reason="tomllib is in Python 3.11")
    with open(os.path.join(ROOT, "pyproject.toml"), "rb") as file:
        return tomllib.load(file)["project"]


def pins(name):
    with open(os.path.join(ROOT, name), encoding="utf-8") as file:
        return dict(re.findall(r"^([\w.-]+)==([^\s;]+)", file.read(), re.M))


def test_imports_get_the_prefix(setup_file):
    source = (
        "from official.data import pipeline\nimport os\n\ndef f():\n    from augment import (\n        "
        "Policy)\n"
        "    from augmentations import x\n    from . import y\n    return 'from official import z'\n"
    )
    assert setup_file["prefixed"](source, "a.py") == source.replace(
        "from official.data", "from self_training.official.data"
    ).replace("from augment import", "from self_training.augment import")
    with pytest.raises(ValueError, match="b.py:2: write `from PACKAGE import NAME`"):
        setup_file["prefixed"]("import os\nimport official.data\n", "b.py")


def test_every_file_can_be_moved_below_the_name(setup_file):
    """No import of ours is left, and none is of a kind that cannot be rewritten."""
    for package in setup_file["PACKAGES"]:
        folder = os.path.join(ROOT, *package.split("."))
        for name in sorted(os.listdir(folder)):
            if name.endswith(".py"):
                with open(os.path.join(folder, name), encoding="utf-8") as file:
                    found = setup_file["prefixed"](file.read(), os.path.join(folder, name))
                assert not re.search(r"^\s*(from|import) (official|augment|losses)\b", found, re.M), name


def test_the_wheel_wants_what_the_requirements_pin(project):
    from packaging.requirements import Requirement

    chosen = {Requirement(line).name: Requirement(line).specifier for line in project["dependencies"]}
    pinned = pins("requirements.txt")
    assert all(chosen[name].contains(pinned[name]) for name in chosen)
    with open(os.path.join(ROOT, "requirements.txt"), encoding="utf-8") as file:
        ours = re.findall(r"^([\w.-]+)==", file.read().partition("# What those need")[0], re.M)
    assert sorted(chosen) == sorted(ours)
    extras = project["optional-dependencies"]
    assert dict(line.split("==") for line in extras["pretrained"]) == pins("requirements-pretrained.txt")
    dev = dict(line.partition(";")[0].split("==") for line in extras["dev"])
    assert dev.items() <= pins("requirements-dev.txt").items()


def test_public_names_are_there_and_come_when_they_are_used():
    code = (
        "import sys, self_training as s; assert 'tensorflow' not in sys.modules; assert set(s.__all__) <= "
        "set(dir(s))\n"
        "for name in s.__all__: assert getattr(s, name) is not None, name\n"
        "try: s.nothing\nexcept AttributeError as error: assert 'RetinaNet' in str(error)\n"
        "else: raise SystemExit('no error')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_wheel_holds_everything(tmp_path):
    """Needs the network or a package mirror: pip makes an environment with setuptools to build in."""
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", tmp_path, ROOT], check=True
    )
    (wheel,) = tmp_path.glob("self_training-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in names if not name.split("/")[0].endswith(".dist-info")} == {
        "self_training"
    }
    for root, _, files in os.walk(ROOT):
        folder = os.path.relpath(root, ROOT)
        if folder.split(os.sep)[0] in ("official", "augment", "losses") and "__pycache__" not in folder:
            for name in files:
                if name != "BUILD" and not name.endswith(".pyc"):
                    assert f"self_training/{folder}/{name}" in names, name
    assert {"self_training/main.py", "self_training/configs/quickstart.cfg"} <= names
