"""Every flagfile does what its head and the paper's tables say; the tables are tests/golden/*.json."""

import glob
import json
import math
import os
import re

import pytest

from official.experiment import Experiment
from official.flags import experiment_from_flagfile

TESTS = os.path.dirname(os.path.abspath(__file__))
CONFIGS = os.path.join(os.path.dirname(TESTS), "configs")
# Nothing of the paper: ours to choose. Bases claim nothing; the rows that include them are compared.
OWN = ("quickstart", "your_own")
BASES = ("coco_base", "coco_spinenet_base", "pascal_base", "pascal_table8_base")
# What the tables must say of a row: a default that changes must not go unnoticed.
SAID = set(
    "job task labeled_data eval_data labeled_fraction backbone image_size init augment student_augment "
    "jitter_min jitter_max randaugment_magnitude batch_size teacher_batch_size learning_rate "
    "student_learning_rate schedule warmup_steps warmup_learning_rate weight_decay decay_batch_norm "
    "optimizer momentum clip_norm precision teacher_steps joint_data joint_weight".split()
)
SAID_OF_STUDENTS = set(
    "unlabeled_data student_steps alpha pseudo_batch_size student_init score_threshold joint_loss "
    "ema_decay".split()
)
FIGURE = r"\b\d\d\.\d\b"  # an AP, a mIoU
BACKBONES = {"efficientnet": "EfficientNet", "resnet": "ResNet", "spinenet": "SpineNet"}
TRAINED = {
    "voc:VOC2012,split=train": "PASCAL train",
    "voc:VOC2012,split=trainaug": "PASCAL train + aug with human labels",
}
INITS = {"random": "random", "imagenet": "ImageNet", "imagenet++": "ImageNet++", "simclr": "SimCLR"}


def read_table(name):
    with open(os.path.join(TESTS, "golden", name), encoding="utf-8") as file:
        return json.load(file)


PAPER, RECIPES = read_table("paper_rows.json"), read_table("pretraining_recipes.json")


def settings(table, name):
    """{flag: (value, who says so)} of a group of rows, over those of the group that it is based on."""
    group = table["settings"][name]
    found = settings(table, group["based_on"]) if "based_on" in group else {}
    for who in ("paper", "published", "release", "ours"):
        found.update({flag: (value, who) for flag, value in group.get(who, {}).items()})
    return found


def trains_student(row):
    return "student_score" in row or "student_steps" in row.get("ours", {})


def row_flags(row):
    """The flags that a row of the paper's tables decides."""
    found = {key: value for key, value in row.items() if key in Experiment().flags()}
    if "unlabeled" in row:
        found["unlabeled_data"] = PAPER["unlabeled"][row["unlabeled"]]
    return {"job": "self_train" if trains_student(row) else "train", **found}


def origins(table, row):
    """{flag: (value, who says so)} of every flag that the tables state of a row."""
    found = settings(table, row["settings"])
    if table is PAPER:
        found.update({flag: (value, "paper") for flag, value in row_flags(row).items()})
    return {**found, **{flag: (value, "ours") for flag, value in row.get("ours", {}).items()}}


def stated(table, row):
    return {flag: value for flag, (value, _) in origins(table, row).items()}


@pytest.fixture(scope="module")
def experiments():
    """Every flagfile through the real flags, with the files that it includes."""
    old = os.getcwd()
    os.chdir(os.path.dirname(CONFIGS))  # --flagfile=configs/... of a file is relative to the project
    try:
        paths = glob.glob(os.path.join(CONFIGS, "*.cfg"))
        yield {os.path.basename(path)[:-4]: experiment_from_flagfile(path) for path in paths}
    finally:
        os.chdir(old)


def head(name):
    """The comment at the top, without its marks; a line that continues another is joined to it."""
    with open(os.path.join(CONFIGS, f"{name}.cfg"), encoding="utf-8") as file:
        lines = file.read().split("\n--")[0].splitlines()
    return re.sub(r"\n {3,}", " ", "\n".join(line[2:] for line in lines))


def heads(name):
    """The head of a file and of all that it includes."""
    with open(os.path.join(CONFIGS, f"{name}.cfg"), encoding="utf-8") as file:
        included = re.findall(r"^--flagfile=(\w+)\.cfg$", file.read(), re.M)
    return "\n".join([head(name), *(heads(other) for other in included)])


def line_of(text, mark):
    found = re.search(rf"{mark}: +(.*)$", text, re.M)
    return found.group(1) if found else None


def rows():
    return [pytest.param(table, row, id=row["config"]) for table in (PAPER, RECIPES) for row in table["rows"]]


def paper_rows():
    return [pytest.param(row, id=row["config"]) for row in PAPER["rows"]]


def test_every_file_is_a_row_of_the_tables_or_nothing_of_the_paper(experiments):
    listed = [row["config"] for table in (PAPER, RECIPES) for row in table["rows"]]
    assert len(set(listed)) == len(listed)
    own = {name for name in experiments if name.startswith(OWN)}
    assert set(listed) | own | set(BASES) == set(experiments)
    for name in own | set(BASES):
        assert line_of(head(name), "Paper") is None, f"{name} claims a figure of the paper"
    assert not any(re.findall(FIGURE, head(name)) for name in BASES)


@pytest.mark.parametrize("table, row", rows())
def test_every_flag_is_what_the_tables_say(experiments, table, row):
    """Flags that the tables do not state have their defaults."""
    flags, expected = experiments[row["config"]].flags(), stated(table, row)
    assert set(expected) <= set(flags), "a word of the table that is no flag"
    expected = {**Experiment().flags(), **expected}
    wrong = {name: (value, expected[name]) for name, value in flags.items() if value != expected[name]}
    assert not wrong, f"{row['config']}: (here, tables): {wrong}"


@pytest.mark.parametrize("row", paper_rows())
def test_the_tables_state_what_decides_a_row(row):
    missing = (SAID | (SAID_OF_STUDENTS if trains_student(row) else set())) - set(stated(PAPER, row))
    assert not missing


def title(row, flags):
    """The first line of a head."""
    family, size = flags["backbone"].split("-")
    detects = flags["task"] == "detection"
    parts = ["RetinaNet" if detects else "NAS-FPN", f"{BACKBONES[family]}-{size.upper()}"]
    if not flags["student_augment"]:
        parts.append(f"Augment-{flags['augment'].upper()}")
    share = f"{100 * flags['labeled_fraction']:.0f} %"
    parts.append(f"COCO {share}" if detects else TRAINED[flags["labeled_data"]])
    learning = f"{INITS[flags['init']]} init"
    if flags["joint_weight"]:
        learning += " + joint training with ImageNet"
    if trains_student(row):
        sources = {flag: name for name, flag in PAPER["unlabeled"].items()}
        learning += f" + self-training on {sources[flags['unlabeled_data']]}"
    parts.append(learning)
    if flags["student_init"] == "scratch":
        parts.append("student from scratch")
    if flags["student_augment"]:
        parts.append(f"student with Augment-{flags['student_augment'].upper()}")
    return f"{', '.join(parts)} ({printed(row['tables'])})."


def printed(tables):
    if isinstance(tables[0], str):
        return tables[0]
    return f"Table{'s' if len(tables) > 1 else ''} {', '.join(map(str, tables))}"


def claim(row, flags):
    """The figures in a head, with the values that the tables print beside them."""
    unit = "AP" if flags["task"] == "detection" else "mIoU on val"
    scores = [f"{who} {row[f'{who}_score']}" for who in ("teacher", "student") if f"{who}_score" in row]
    scores[0] += f" {unit}"
    beside = [f"{key.removeprefix('joint_')} {row[key]}" for key in ("alpha", "joint_weight") if key in row]
    beside += ["test-dev {}, {}".format(*row["test_dev"])] if "test_dev" in row else []
    text = ", ".join(scores) if trains_student(row) else scores[0].removeprefix("teacher ")
    text += f" ({', '.join(beside)})" if beside else ""
    silent = trains_student(row) and "student_score" not in row
    return text + ("; the paper has no student for this row." if silent else ".")


@pytest.mark.parametrize("row", paper_rows())
def test_a_head_claims_the_figures_of_its_own_row(row):
    """Title, steps and figures, word for word as the tables give them; the command is the file's own."""
    text, flags = head(row["config"]), stated(PAPER, row)
    assert text.splitlines()[0] == title(row, flags)
    assert f"--flagfile=configs/{row['config']}.cfg" in line_of(text, "Command")
    student = f" teacher, {flags['student_steps']:,} student" if trains_student(row) else ""
    assert line_of(text, "Steps") == f"{flags['teacher_steps']:,}{student}."
    assert line_of(text, "Paper") == claim(row, flags)
    if "size" in row:
        assert "{} parameters, {} multiply-adds".format(*row["size"]) in line_of(text, "Hardware")
    assert re.findall(FIGURE, text) == re.findall(FIGURE, claim(row, flags)), "a figure of another row"


@pytest.mark.parametrize("row", [pytest.param(row, id=row["config"]) for row in RECIPES["rows"]])
def test_a_recipe_claims_what_is_published(row):
    text = head(row["config"])
    assert (text.splitlines()[0], line_of(text, "Expected")) == (row["title"], row["expected"])


@pytest.mark.parametrize("table, row", rows())
def test_a_head_says_what_is_not_the_papers(table, row):
    """A flag that is our choice is named after `Ours:`, one set as the release has it after `Release:`."""
    text, defaults, said = heads(row["config"]), Experiment().flags(), origins(table, row).items()
    ours = {flag for flag, (_, who) in said if who == "ours"}
    release = {flag for flag, (value, who) in said if who == "release" and value != defaults[flag]}
    for mark, names in (("Ours", ours), ("Release", release)):
        lines = " ".join(re.findall(rf"^{mark}: +(.*)$", text, re.M))
        assert names <= set(re.findall(r"--(\w+)", lines)), f"{mark}: {lines!r}"


def test_schedules_of_pretraining_follow_from_epochs_and_batch():
    """1,281,167 images; EfficientNet's and SimCLR's own formulas."""
    images, batch = 1_281_167, 4096
    flags = {row["config"].removeprefix("imagenet_"): stated(RECIPES, row) for row in RECIPES["rows"]}
    for name in ("b7_supervised", "b7_noisy_student"):
        found = flags[name]
        assert found["batch_size"] == batch and found["teacher_steps"] == 350 * images // batch
        assert found["warmup_steps"] == 5 * images // batch and found["learning_rate"] == 0.016 * batch / 256
        assert found["decay_every"] == pytest.approx(2.4 * images / batch, rel=1e-3)
    student = flags["b7_noisy_student"]
    assert student["student_steps"] == 350 * images // batch and student["pseudo_batch_size"] == 3 * batch
    simclr, linear = flags["r50_simclr"], flags["r50_linear_eval"]
    assert simclr["teacher_steps"] == 100 * images // batch + 1
    assert simclr["warmup_steps"] == 10 * images // batch
    assert simclr["learning_rate"] == pytest.approx(0.075 * math.sqrt(batch))
    assert linear["teacher_steps"] == 90 * images // batch + 1
    assert linear["learning_rate"] == 0.1 * batch / 256
