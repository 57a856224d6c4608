"""When a phase ends and which of its checkpoints goes on: --patience and --take, also over starts that were
stopped.
"""

import dataclasses
import json
import os
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf

from official.data.source import Category
from official.errors import UserError
from official.experiment import Experiment, experiment_from
from official.jobs.checks import check_flags
from official.jobs.training import table
from official.self_training.loop import SelfTraining
from official.study.plan import _control
from official.study.spec import StudyError
from official.training import run_phase
from official.training.loading import find_model
from official.training.phases import changed_flags, spoiled
from official.training.recovery import find_checkpoint, taken_checkpoint
from official.training.run_folder import RunFolder
from official.training.run_phase import PhaseRun, since_best
from official.training.trainer import Phase
from tests import tiny

STEPS = 20
SCORES = {2: 0.1, 4: 0.3, 6: 0.3, 8: 0.2, 10: 0.1, 12: 0.5, 14: 0.2, 16: 0.4, 18: 0.1, 20: 0.2}


class Counting:
    """A trainer whose one weight is the number of steps that it took."""

    def __init__(self, task, experiment, phase, strategy):
        self.model = tf.Module()
        self.model.weight = tf.Variable(0, dtype=tf.int64)
        self.weight_average = self.joint_model = None
        self.batch_sizes, self.sources, self.replicas = {"human": 8}, {}, 1
        self.guard = mock.Mock(skipped=tf.constant(0))

    @property
    def step(self):
        return int(self.model.weight)

    def checkpointed(self):
        return {"model": self.model}

    def checkpoint_bytes(self):
        return 8

    def batches(self):
        return iter(lambda: {}, None)

    def train_step(self, batch):
        self.model.weight.assign_add(1)
        return {"loss": tf.constant(1.0)}

    def check(self, metrics):
        pass


class Evaluating:
    """A task that gives the scores above; `seen` are the steps that it evaluated."""

    name, metrics, needs_labels, categories = "detection", ("AP",), False, (Category(1, "a"),)

    def __init__(self):
        self.seen = []

    def evaluate(self, model, source, folder, progress):
        self.seen.append(int(model.weight))
        return {"AP": SCORES[self.seen[-1]]}

    def summary_drawings(self, metrics):
        return {}


@pytest.fixture(autouse=True)
def counting(monkeypatch):
    monkeypatch.setattr(run_phase, "Trainer", Counting)


def two_replicas():
    return tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )


def run(folder, *, may_end=True, **flags):
    options = dict(
        model_dir=str(folder), eval_every=2, drawn_images=0, keep_checkpoints=2, checkpoint_every=5, **flags
    )
    task, phase = Evaluating(), Phase("teacher", STEPS, None, may_end=may_end)
    result = PhaseRun(task, tiny.experiment(**options), phase, [1], tf.distribute.get_strategy()).run()
    return result, task.seen


def weight(path):
    return int(
        tf.train.load_checkpoint(os.path.join(path, "state")).get_tensor(
            "model/weight/.ATTRIBUTES/VARIABLE_VALUE"
        )
    )


def test_how_many_evaluations_brought_nothing():
    assert since_best({}) == (0, "")
    assert since_best({2: 0.1, 4: 0.3}) == (0, "the best so far") and since_best({2: 0.0}) == (0, "")
    assert since_best({2: 0.1, 4: 0.3, 6: 0.3, 8: 0.2}) == (2, "best 0.300 at step 4")  # as good is no gain


def test_all_steps_are_taken_by_default(tmp_path):
    result, seen = run(tmp_path)
    assert result["steps"] == STEPS and result["AP"] == 0.2 and weight(result["checkpoint"]) == STEPS
    assert seen == list(range(2, STEPS + 1, 2)) and not {"taken", "planned_steps"} & set(result)


@pytest.mark.parametrize("patience,end", [(1, 6), (3, 10), (4, 20)])
def test_patience_ends_a_phase_that_no_longer_gains(tmp_path, capsys, patience, end):
    """Of the best at step 4 three evaluations bring nothing; the fourth brings 0.5, of which four bring
    nothing at step 20.
    """
    result, seen = run(tmp_path, patience=patience)
    assert (
        (result["steps"], result["images_seen"]) == (end, 8 * end)
        and seen[-1] == end
        and weight(result["checkpoint"]) == end
    )
    assert result.get("planned_steps") == (STEPS if end < STEPS else None)
    often = f"{patience} evaluations" if patience > 1 else "an evaluation"
    said = (
        f"teacher: ends at step {end} of {STEPS}: no gain in {often}, best 0.300 at step 4 "
        f"(--patience={patience})"
    )
    assert (said in capsys.readouterr().err) == (end < STEPS)
    found = find_model(str(tmp_path), "--teacher")
    assert found.finished and found.step == end and capsys.readouterr().err == ""
    assert run(tmp_path, patience=patience) == (result, [])  # it is finished


def test_the_control_is_not_ended(tmp_path):
    assert run(tmp_path, patience=1, may_end=False)[0]["steps"] == STEPS


@pytest.mark.parametrize(
    "stopped", ["before it is evaluated", "before it is said to be the end", "before the result"]
)
def test_a_start_that_was_stopped_comes_to_the_same_end(tmp_path, monkeypatch, stopped):
    straight, _ = run(tmp_path / "a", patience=3, take="best")
    with monkeypatch.context() as patch:
        evaluate, save = PhaseRun._evaluate, PhaseRun._save
        if stopped == "before it is evaluated":
            patch.setattr(
                PhaseRun, "_evaluate", lambda self, step: 1 / 0 if step == 10 else evaluate(self, step)
            )
        elif stopped == "before the result":
            patch.setattr(PhaseRun, "_finish", lambda *args: 1 / 0)
        else:
            patch.setattr(PhaseRun, "_save", lambda self, step, **more: 1 / 0 if more else save(self, step))
        with pytest.raises(ZeroDivisionError):
            run(tmp_path / "b", patience=3, take="best")
    again, seen = run(tmp_path / "b", patience=3, take="best")
    same = ("steps", "planned_steps", "AP", "weights_sha256", "taken", "images_seen")
    assert [again[name] for name in same] == [straight[name] for name in same] and min(seen) >= 4
    assert weight(again["checkpoint"]) == weight(straight["checkpoint"])


def test_the_best_checkpoint_goes_on(tmp_path, capsys):
    result, seen = run(tmp_path, take="best")
    assert result["taken"] == {"step": 12, "because": "best", "evaluations": 10} and (
        result["AP"],
        result["steps"],
    ) == (0.5, STEPS)
    assert weight(result["checkpoint"]) == 12 and seen[-1] == 12
    for path in (tmp_path, tmp_path / "teacher"):
        assert find_checkpoint(str(path)) == result["checkpoint"]
        assert weight(find_checkpoint(str(path), "last")) == STEPS
    capsys.readouterr()
    assert find_model(str(tmp_path), "--teacher").step == 12
    said = capsys.readouterr().err
    assert "chosen on the evaluation data" in said and "is not finished" not in said


def test_the_best_of_a_run_that_went_on_with_its_last(tmp_path):
    result, _ = run(tmp_path)
    assert (
        find_checkpoint(str(tmp_path)) == result["checkpoint"]
        and weight(find_checkpoint(str(tmp_path), "best")) == 12
    )
    step = os.path.dirname(result["checkpoint"])
    assert (
        weight(taken_checkpoint(os.path.join(step, "step_00000020"), "best")) == 20
    )  # a checkpoint that was named
    for name in os.listdir(step):
        meta = os.path.join(step, name, "checkpoint.json")
        content = json.load(open(meta))
        json.dump({k: v for k, v in content.items() if k != "score"}, open(meta, "w"))
    with pytest.raises(UserError, match="--take=best: no checkpoint in .* was evaluated"):
        find_checkpoint(str(tmp_path), "best")


def test_the_table_says_so(tmp_path):
    result, _ = run(tmp_path, patience=3, take="best")
    text = table({"teacher": result, "student": {**result, "planned_steps": 30}}, ("AP",))
    assert (
        "teacher: ended after 10 of 20 steps, as it no longer gained" in text
        and "student: ended after 10 of 30 steps" in text
    )
    assert (
        "goes on (teacher step 6 of 10, student step 6 of 10): chosen on the evaluation data, so these "
        "scores are too good"
    ) in text
    assert "0.300" in text


@pytest.mark.parametrize("flags,words", [
    (dict(patience=2), "--patience=2 looks at evaluations while training: it needs --eval_every"),
    (dict(take="best", eval_every=5, eval_data=""), "--take=best looks at evaluations: it needs --eval_data or"),
    (dict(patience=2, eval_every=5, control=True, parallel_phases=True), "begins before that is known"),
])  # fmt: skip
def test_what_they_need(flags, words):
    with pytest.raises(UserError, match=words):
        check_flags(tiny.experiment(**flags))
    check_flags(tiny.experiment(patience=2, take="best", eval_every=5, control=True))


def test_the_control_of_a_study_cannot_know():
    with pytest.raises(StudyError, match="patience and a control do not go together"):
        _control(tiny.experiment(patience=2))
    assert _control(tiny.experiment()).training.teacher_steps == 24


def test_what_they_change_in_a_run():
    """At the defaults the fingerprint is as before there were these flags; else which steps are evaluated
    counts too.
    """
    default = Experiment().decisive_flags()
    assert not {"patience", "take", "eval_every"} & set(default)
    assert Experiment().fingerprint() == experiment_from(dict(eval_every=7)).fingerprint()
    patient = experiment_from(dict(patience=2, eval_every=5))
    assert patient.fingerprint() != experiment_from(dict(patience=2, eval_every=6)).fingerprint()
    assert changed_flags(default, patient) == {"patience": (0, 2), "eval_every": (0, 5)}
    assert changed_flags(patient.decisive_flags(), experiment_from(dict(patience=2, eval_every=6))) == {
        "eval_every": (5, 6)
    }
    assert set(changed_flags(patient.decisive_flags(), Experiment())) == {"patience", "eval_every"}
    assert set(spoiled({"eval_every": (5, 6)}, ["teacher", "labels"])) == {"teacher", "labels"}


def test_the_control_takes_the_steps_that_were_taken(tmp_path, monkeypatch):
    """Teacher 6 of 12 steps, its checkpoint of step 4 goes on; student 5 of 10: 11 steps, a schedule for 12 x
    11 / 12.
    """
    experiment = tiny.experiment(
        model_dir=str(tmp_path), teacher_steps=12, student_steps=10, patience=2, eval_every=2
    )
    loop = SelfTraining(mock.Mock(categories=(Category(1, "a"),)), experiment, None, None, None, None)
    phases = []
    monkeypatch.setattr(SelfTraining, "_run", lambda self, phase, *rest: phases.append(phase))
    monkeypatch.setattr(SelfTraining, "_as_student", lambda self: self)
    taken = tiny.teacher_result(
        tmp_path / "teacher", experiment.with_flags({"teacher_steps": 4}), (Category(1, "a"),)
    )
    loop.train_control({**taken, "steps": 6}, {"steps": 5})
    loop.train_control(
        {**tiny.teacher_result(tmp_path / "all", experiment, (Category(1, "a"),)), "steps": 12}, {"steps": 10}
    )
    loop.train_control()
    assert [(p.steps, p.stretch, p.may_end) for p in phases] == [
        (11, 11 / 12, False),
        (22, 22 / 12, False),
        (22, 22 / 12, False),
    ]
    assert dataclasses.replace(phases[1]) == phases[2] and np.isclose(phases[0].stretch * 12, 11)


def test_the_summary_keeps_what_the_training_found(tmp_path):
    """Of evaluate: its evaluation and job; of the training: phases, labels, and under "training" its job and
    seconds.
    """

    def of(job, **content):
        return RunFolder(tiny.experiment(model_dir=str(tmp_path), job=job)).summarize(content)

    def there():
        return json.load(open(tmp_path / "summary.json"))

    trained = of(
        "self_train",
        teacher={"AP": 0.1},
        pseudo_labels={"boxes": 3},
        images_seen=9,
        evaluation={"AP": 0.2},
        skipped_inputs={"labeled": {}},
    )
    assert there() == trained
    own = of("evaluate", evaluation={"AP": 0.3}, checkpoint="x", skipped_inputs={"eval": {"a": 1}})
    assert json.load(open(tmp_path / "summary_evaluate.json")) == own and "teacher" not in own
    for job, content in (("evaluate", {}), ("inspect_labels", {"pseudo_labels": {"boxes": 7}})):
        if content:
            of(job, **content)
        found = there()
        assert (found["job"], found["teacher"], found["pseudo_labels"], found["images_seen"]) == (
            job,
            {"AP": 0.1},
            {"boxes": 3},
            9,
        )
        assert (found["evaluation"], found["checkpoint"]) == ({"AP": 0.3}, "x")
        assert found["skipped_inputs"] == {"labeled": {}, "eval": {"a": 1}}
        assert found["training"] == {
            name: trained[name] for name in ("job", "flags_fingerprint", "versions", "seed", "seconds")
        }
    assert of("self_train", teacher={"AP": 0.4}) == there()


class Drawing:
    """A task whose drawings are its images."""

    def training_drawings(self, batch):
        return list(zip(batch["images"].tolist(), batch["index"].tolist()))


@pytest.mark.parametrize("replicas,parts", [(1, 1), (2, 1), (1, 2)])
def test_what_is_drawn_are_the_first_images_of_the_first_batch(tmp_path, replicas, parts):
    """In the order of the batch, with their labels, whichever replica holds them."""
    rows = tf.range(8)
    batches = tf.data.Dataset.from_tensors({"human": {"images": rows * 10, "index": rows}}).rebatch(
        8 // replicas
    )
    strategy = two_replicas() if replicas == 2 else tf.distribute.get_strategy()
    batch = next(iter(strategy.distribute_datasets_from_function(lambda _: batches)))
    phase = Phase("teacher", 1, None)
    for count, shown in ((3, 3), (16, 8), (0, None)):
        options = tiny.experiment(model_dir=str(tmp_path), drawn_images=count, accumulate=parts)
        phase_run = PhaseRun(Evaluating(), options, phase, [1], strategy)
        phase_run.trainer, phase_run.summaries = mock.Mock(tasks={"human": Drawing()}), mock.Mock()
        phase_run.chief = True
        phase_run._show_batch(batch if parts == 1 else (batch, None), 7)
        if shown is None:
            phase_run.summaries.drawings.assert_not_called()
        else:
            drawn = [(10 * i, i) for i in range(shown)]
            phase_run.summaries.drawings.assert_called_once_with("training_human", drawn, 7)
