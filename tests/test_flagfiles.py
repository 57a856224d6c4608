"""Flagfiles that name others: where they are looked for, and what is said of those that are wrong."""

import os
import re
import subprocess
import sys

import pytest

from official.errors import FlagError
from official.experiment import FORMERLY, experiment_from
from official.files import write_json
from official.flagfiles import OWN, expanded
from official.flags import experiment_from_flagfile
from official.training.phases import changed_flags
from official.training.run_folder import saved_flags

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(**contents):
        for name, text in contents.items():
            path = tmp_path / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return str(tmp_path)

    return write


def test_files_are_found_beside_the_file_that_names_them(files):
    files(
        deep__a="--alpha=1\n--flagfile=b\n--seed=2",
        deep__b="--flagfile=more/c",
        deep__more__c="--alpha=3",
        b="--alpha=9",
    )
    assert expanded(["--flagfile=deep/a", "--x"]) == ["--alpha=1", "--alpha=3", "--seed=2", "--x"]
    assert expanded(["--flagfile", "deep/b"]) == expanded(["-flagfile=deep/b"]) == ["--alpha=3"]


def test_the_current_folder_is_looked_in_next(files):
    files(deep__a="--flagfile=other/c", other__c="--alpha=3")
    assert expanded(["--flagfile=deep/a"]) == ["--alpha=3"]


def test_our_own_files_are_found_from_anywhere(files):
    files()
    quickstart = expanded([f"--flagfile={OWN}/quickstart.cfg"])
    assert "--job=self_train" in quickstart
    assert (
        expanded(["--flagfile=configs/quickstart.cfg"])
        == expanded(["--flagfile=quickstart.cfg"])
        == quickstart
    )
    files(configs__quickstart="")
    with pytest.raises(FlagError):
        expanded(["--flagfile=elsewhere/quickstart.cfg"])


def test_what_a_line_may_be(files):
    files(
        a=(
            "\ufeff# words\n\n  // more words\n --alpha=0.5 \n--labeled_data=coco:a "
            "b.json,x\n--nocontrol\n--control\n"
        )
    )
    assert expanded(["--flagfile=a"]) == [
        "--alpha=0.5",
        "--labeled_data=coco:a b.json,x",
        "--nocontrol",
        "--control",
    ]


def test_what_is_wrong_is_named_with_its_line(files):
    folder = files(a="# x\n\nalpha=1\n", b="--flagfile=missing\n", c="--flagfile=d", d="--flagfile=c")
    for name, words in {
        "a": f"{folder}/a:3: 'alpha=1' is not a flag",
        "b": f"{folder}/b: --flagfile=missing: no such file; looked for {folder}/missing",
        "c": f"{folder}/c names {folder}/d names {folder}/c",
        "z": f"--flagfile=z: no such file; looked for {folder}/z",
    }.items():
        with pytest.raises(FlagError, match=re.escape(words)):
            expanded([f"--flagfile={name}"])
    with open("bytes", "wb") as file:
        file.write(b"--alpha=\xff\n")
    with pytest.raises(FlagError, match="bytes: cannot be read as text"):
        expanded(["--flagfile=bytes"])


def test_nothing_after_two_dashes_is_touched(files):
    files(a="--alpha=1")
    assert expanded(["--flagfile=a", "--", "--flagfile=a"]) == ["--alpha=1", "--", "--flagfile=a"]


def test_a_flagfile_means_the_same_from_anywhere(files, monkeypatch):
    files()
    there = experiment_from_flagfile(os.path.join(ROOT, "configs", "coco_s4_self_training.cfg"))
    monkeypatch.chdir(ROOT)
    assert there == experiment_from_flagfile("configs/coco_s4_self_training.cfg")
    assert there.data.eval_data.startswith("tfds:coco")  # from the base that it names


def test_the_command_says_it_in_a_line(tmp_path):
    (tmp_path / "a.cfg").write_text("--flagfile=none.cfg\n")
    command = [sys.executable, os.path.join(ROOT, "main.py"), f"--flagfile={tmp_path}/a.cfg"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert (
        done.stderr.strip()
        .splitlines()[-1]
        .startswith(f"error: {tmp_path}/a.cfg: --flagfile=none.cfg: no such file")
    )
    assert "Traceback" not in done.stderr


def test_the_version_is_said_without_tensorflow():
    code = "import sys, main; main.start(['main.py', '--version']); sys.exit('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and re.fullmatch(r"self-training \d+\.\d+\.\d+\n", done.stdout)


def test_names_of_the_version_before_are_understood_for_one_version(files, capsys):
    files(old="--pictures=3\n--blur_per_picture\n--flagfile=deeper", deeper="--pictures_per_class=7")
    new = ["--drawn_images=3", "--blur_per_image", "--pseudo_images_per_class=7"]
    assert expanded(["--flagfile=old", "--noblur_per_picture", "-pictures", "4"]) == [
        *new, "--noblur_per_image", "-drawn_images", "4"
    ]  # fmt: skip
    said = capsys.readouterr().err
    assert "--blur_per_picture is now called --blur_per_image" in said and said.count("is now called") == 5
    assert expanded(["--pictures_of=1", "--unlabeled_data=folder:--pictures"]) == [
        "--pictures_of=1", "--unlabeled_data=folder:--pictures"
    ]  # fmt: skip
    experiment = experiment_from_flagfile("old", blur_per_picture=False)
    assert experiment.runtime.drawn_images == 3 and experiment.augment.blur_per_image is False
    assert {"drawn_images", "blur_per_image"} <= experiment.given and not experiment.given & set(FORMERLY)


def test_a_run_of_the_version_before_is_understood(files):
    folder, now = files(), experiment_from({"pseudo_images_per_class": 7, "drawn_images": 2})
    write_json(os.path.join(folder, "run.json"), {"flags": {"pictures_per_class": 7, "pictures": 2}})
    assert saved_flags(folder) == {"pseudo_images_per_class": 7, "drawn_images": 2}
    there = now.decisive_flags()
    there["pictures_per_class"] = there.pop("pseudo_images_per_class")
    assert changed_flags(there, now) == {}
    there["pictures_per_class"] = 9
    assert changed_flags(there, now) == {"pseudo_images_per_class": (9, 7)}
    assert not set(FORMERLY) & set(now.flags()) and set(FORMERLY.values()) <= set(now.flags())
