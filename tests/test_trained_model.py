"""What belongs to a network travels with it: descriptions, teachers, stores and runs are never mixed up."""

import dataclasses
import json
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf

from official import jobs
from official.catalog import ON_A_RUN
from official.data.source import Category
from official.experiment import experiment_from
from official.jobs import opening
from official.jobs.settling import settled
from official.self_training import loop as loops
from official.self_training.label_store import LabelError
from official.tasks.registry import build_task
from official.trained_model import ModelError, adopted, describe, described
from official.training.loading import find_model, is_run, load_model, starting_weights
from official.training.phases import spoiled
from official.training.recovery import find_checkpoint
from official.training.run_folder import FlagsDiffer, saved_flags
from tests import tiny

# Everything that a later run must not have to repeat.
NETWORK = dict(
    input_normalization="unit", weight_average=0.5, anchor_scale=3.0, activation="swish", batch_norm_epsilon=3e-3,
)  # fmt: skip
SHORT = dict(
    teacher_steps=4, student_steps=4, checkpoint_every=2, label_shard_size=8, eval_data="", drawn_images=0, score_floor=0.0,
    labeled_data="scenes:train,count=8", unlabeled_data="scenes:unlabeled,count=8", keep_checkpoints=5, max_detections=10,
    score_threshold=0.0, batch_size=4, pseudo_batch_size=4, joint_batch_size=4,
)  # fmt: skip
JOINT = dict(joint_data="scenes:unlabeled,count=8", joint_weight=0.2, joint_image_size=32)


def tiny_flags(**overrides):
    return {**tiny.FLAGS, **SHORT, **NETWORK, **JOINT, **overrides}


@pytest.fixture(scope="module", autouse=True)
def without_export():
    with tiny.without_export():
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(folder, flags, summary) of a run whose network is described by flags far from their defaults."""
    folder = str(tmp_path_factory.mktemp("finished") / "run")
    flags = tiny_flags(model_dir=folder)
    return folder, flags, jobs.run(experiment_from(flags))


@pytest.fixture
def copied(finished, tmp_path):
    """The same in a copy that may be damaged."""
    folder = str(tmp_path / "copy")
    shutil.copytree(finished[0], folder)
    return folder, {**finished[1], "model_dir": folder}


def without(flags, *names):
    return experiment_from({name: value for name, value in flags.items() if name not in names})


def shards(folder):
    names = sorted(n for n in os.listdir(folder) if n.endswith(".tfrecord"))
    return [open(os.path.join(folder, n), "rb").read() for n in names]


# --- the description -------------------------------------------------------------------------------


def test_every_checkpoint_says_what_it_is(finished):
    folder, flags, _ = finished
    for phase, total in (("teacher", 4), ("student", 8)):
        for step in (2, 4):
            path = os.path.join(folder, phase, "checkpoints", f"step_{step:08d}")
            content = json.load(open(os.path.join(path, "model.json")))
            assert {name: content["flags"][name] for name in NETWORK if name != "weight_average"} == {
                name: value for name, value in NETWORK.items() if name != "weight_average"
            }
            assert content["averaged"] and content["phase"] == phase and content["step"] == step
            assert content["finished"] == (step == 4) and content["total_steps"] == total - 4 + step
            assert content["categories"] == [
                {"id": c.id, "name": c.name} for c in tiny.scenes_source().categories
            ]
            assert describe(path).to_json() == content


def test_an_earlier_checkpoint_is_read_through_its_run_and_an_orphan_is_refused(copied, capsys, tmp_path):
    folder, _ = copied
    path = find_checkpoint(folder)
    now = describe(path)
    os.remove(os.path.join(path, "model.json"))
    before = describe(path)
    assert "is of an earlier version" in capsys.readouterr().err
    for field in ("flags", "categories", "averaged", "phase", "step", "steps", "total_steps", "path"):
        assert getattr(before, field) == getattr(now, field), field
    shutil.copytree(path, tmp_path / "step_00000004")
    with pytest.raises(ModelError, match="does not say which network.*Put it back"):
        describe(str(tmp_path / "step_00000004"))


def test_a_description_that_is_damaged_or_of_the_future_is_refused(copied):
    path = find_checkpoint(copied[0])
    place = os.path.join(path, "model.json")
    whole = json.load(open(place))
    for change, message in (
        ({"format_version": 99}, "was written by version"),
        ({"flags": {**whole["flags"], "warp_factor": 9}}, "warp_factor"),
        ({"flags": {**whole["flags"], "activation": 3}}, "activation=3"),
        ({"categories": 5}, "damaged"),
    ):
        json.dump({**whole, **change}, open(place, "w"))
        with pytest.raises(ModelError, match=message):
            describe(path)
    fewer = {name: value for name, value in whole["flags"].items() if name != "head_convs"}
    json.dump({**whole, "flags": fewer}, open(place, "w"))
    assert describe(path).flags["head_convs"] == 4  # the default: a later version added it


def test_flags_that_are_not_given_come_from_the_model_and_contradictions_are_shown(finished, capsys):
    model = describe(find_checkpoint(finished[0]))
    plain = without(finished[1], *NETWORK)
    taken = adopted(plain, model, because="--teacher=x").flags()
    assert {n: taken[n] for n in NETWORK if n != "weight_average"} == {
        n: v for n, v in NETWORK.items() if n != "weight_average"
    }
    assert "--anchor_scale=3.0" in capsys.readouterr().err
    given = experiment_from({**finished[1], "anchor_scale": 4.0, "activation": "relu"})
    with pytest.raises(ModelError) as caught:
        adopted(given, model, because="--teacher=x")
    assert "--anchor_scale: 3.0 there, 4.0 given" in str(caught.value) and "--activation: 'swish'" in str(
        caught.value
    )
    assert "backbone" not in str(caught.value)
    resized = experiment_from({**finished[1], "image_size": 96})
    assert adopted(resized, model, because="x").model.image_size == 96  # a wish, not a contradiction


def test_crops_travel_with_a_classifier():
    """It is evaluated, and labels, with the crops that it was made with, unless others are given."""
    made = tiny.experiment(task="classification", crop_style="noisy_student")
    model = described(made, (Category(1, "a"),), phase="teacher", step=1, steps=1, averaged=False)
    assert model.experiment(tiny.experiment(task="classification")).data.crop_style == "noisy_student"
    given = tiny.experiment(task="classification", crop_style="efficientnet")
    assert (
        model.experiment(given).data.crop_style
        == adopted(given, model, because="x").data.crop_style
        == "efficientnet"
    )


# --- the teacher -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "student",
    (
        dict(),
        dict(student_init="scratch", anchor_scale=5.0, activation="relu", input_normalization="imagenet"),
    ),
)
def test_a_teacher_labels_as_the_network_that_it_is(finished, tmp_path, student):
    """A command that repeats nothing of the network, or is for another one, makes the labels that the run
    itself made.
    """
    folder, flags, _ = finished
    plain = without(
        {**flags, "model_dir": str(tmp_path), "teacher": folder + "/teacher"}, *NETWORK, "image_size"
    )
    given = {name: plain.flags()[name] for name in plain.given}
    experiment = settled(experiment_from({**given, **student}))
    assert experiment.model.anchor_scale == student.get("anchor_scale", NETWORK["anchor_scale"])
    labeled, *_ = opening.open_labeled(experiment)
    pool = opening.open_unlabeled(experiment, None)
    task = build_task(experiment, labeled.categories)
    loop = loops.SelfTraining(task, experiment, tf.distribute.get_strategy(), labeled, pool, None)
    loop.make_labels(loop.train_teacher()["checkpoint"])
    assert shards(tmp_path / "pseudo_labels") == shards(os.path.join(folder, "pseudo_labels"))
    plan = json.load(open(tmp_path / "pseudo_labels" / "plan.json"))
    assert plan["network"]["anchor_scale"] == 3.0 and plan["network"]["averaged"] is True


def test_a_store_notices_another_network_with_the_same_weights(copied):
    folder, flags = copied
    path = find_checkpoint(folder + "/teacher")
    for change, message in (
        ({"anchor_scale": 5.0}, "anchor_scale: 3.0 there, 5.0 now"),
        ({"activation": "relu"}, "activation"),
    ):
        content = json.load(open(os.path.join(path, "model.json")))
        tiny.edit_checkpoint(path, "model.json", flags={**content["flags"], **change})
        with pytest.raises(LabelError, match=message):
            jobs.run(without({**flags, "job": "pseudo_label"}, *NETWORK))
        tiny.edit_checkpoint(path, "model.json", **content)


def test_another_network_is_refused_before_anything_is_claimed(finished, tmp_path):
    folder, flags, _ = finished
    for flag in ("teacher", "init_checkpoint"):
        with pytest.raises(
            ModelError,
            match=f"--{flag}=.* is another network.*\n  --batch_norm_epsilon: 0.003 there, 0.0001 given",
        ):
            jobs.run(
                experiment_from(
                    {**flags, "model_dir": str(tmp_path), flag: folder, "batch_norm_epsilon": 1e-4}
                )
            )
    assert not os.path.exists(tmp_path / "run.json")


def test_averages_belong_to_the_checkpoint_and_not_to_the_flags(finished):
    """With or without --weight_average now, a checkpoint gives the weights that its run is evaluated by."""
    folder, flags, _ = finished
    model = find_model(folder, "x")
    found = [
        load_model(model, experiment_from({**flags, "weight_average": decay}))[1] for decay in (0.0, 0.9)
    ]
    raw = load_model(dataclasses.replace(model, averaged=False), experiment_from(flags))[1]
    for a, b in zip(*(network.get_weights() for network in found)):
        np.testing.assert_array_equal(a, b)
    assert any((a != b).any() for a, b in zip(found[0].get_weights(), raw.get_weights()))


def test_a_backbone_to_start_from_is_the_one_that_the_run_is_evaluated_by(finished, tmp_path):
    folder, flags, _ = finished
    model = find_model(folder, "x")
    network = load_model(model, experiment_from(flags))[1]
    weights = starting_weights(folder, "", model.experiment(experiment_from(flags)).model)
    own = {v.name.split(":")[0]: v.numpy() for v in network.backbone.variables}
    assert weights.normalization == "unit" and set(weights.values) == set(own)
    assert all((weights.values[name] == value).all() for name, value in own.items())
    for place in (
        "student",
        f"student/checkpoints/{os.path.basename(find_checkpoint(folder))}",
    ):  # the same by other names
        again = starting_weights(
            os.path.join(folder, place), "", model.experiment(experiment_from(flags)).model
        )
        assert again.fingerprint() == weights.fingerprint()
    teacher = starting_weights(
        os.path.join(folder, "teacher"), "", model.experiment(experiment_from(flags)).model
    )
    assert teacher.fingerprint() != weights.fingerprint() and teacher.normalization == "unit"
    (tmp_path / "result.json").write_text('{"accuracy": 0.5}')  # somebody else's: no phase of ours
    assert not is_run(str(tmp_path))
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ModelError, match="--init=.*no checkpoint in"):
        starting_weights(str(tmp_path), "", experiment_from(flags).model)


# --- finished or not --------------------------------------------------------------------------------


def interrupt(folder, phase):
    """As a phase that was stopped at step 2 leaves it."""
    shutil.rmtree(os.path.join(folder, phase, "checkpoints", "step_00000004"))
    os.remove(os.path.join(folder, phase, "result.json"))


def test_an_interrupted_student_does_not_stand_for_its_run(copied, capsys):
    folder, flags = copied
    assert describe(find_checkpoint(folder)).phase == "student"
    interrupt(folder, "student")
    found = find_model(folder, "--teacher")
    assert (found.phase, found.finished) == ("teacher", True) and capsys.readouterr().err == ""
    named = find_model(os.path.join(folder, "student"), "--checkpoint")
    assert (named.phase, named.step) == ("student", 2)
    assert "at step 2 of 4; its student is not finished" in capsys.readouterr().err
    interrupt(folder, "teacher")
    with pytest.raises(ValueError, match="no phase of this run is finished; name .*student or .*teacher"):
        find_checkpoint(folder)


# --- data that changes -----------------------------------------------------------------------------


def coco_run(tmp_path, **overrides):
    """Flags of a teacher on four images in COCO format, and the JSON's path."""
    from PIL import Image

    images = tmp_path / "images"
    images.mkdir(exist_ok=True)
    for i in range(4):
        Image.fromarray(np.full((64, 64, 3), 40 * i, np.uint8)).save(images / f"{i}.png")
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 64, "height": 64} for i in range(4)],
        "annotations": [
            {"id": i + 1, "image_id": i, "category_id": 1 + i % 2, "bbox": [4, 4, 30, 30], "area": 900, "iscrowd": 0} for i in range(4)
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }  # fmt: skip
    path = tmp_path / "train.json"
    path.write_text(json.dumps(content))
    flags = {
        **tiny.FLAGS,
        **SHORT,
        "labeled_data": f"coco:{path},{images}",
        "job": "train",
        "model_dir": str(tmp_path / "run"),
    }
    return {**flags, "teacher_steps": 1, **overrides}, path, content


def test_data_that_changed_between_two_starts_is_refused_with_the_difference(tmp_path):
    flags, path, content = coco_run(tmp_path)
    jobs.run(experiment_from(flags))
    before = {name: (tmp_path / "run" / name).read_bytes() for name in ("run.json", "data/labeled_ids.json")}

    def refused(message, **changes):
        path.write_text(json.dumps({**content, **changes}))
        with pytest.raises(FlagsDiffer, match=message):
            jobs.run(experiment_from(flags))
        assert before == {name: (tmp_path / "run" / name).read_bytes() for name in before}

    swapped = [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]
    refused(
        r"class 0: 'cat' \(id 1\) there, 'dog' \(id 1\) now\n  class 1: 'dog' \(id 2\) there, 'cat'",
        categories=swapped,
    )
    refused("1 images are gone: 3", images=content["images"][:3], annotations=content["annotations"][:3])
    moved = [{**content["annotations"][0], "bbox": [5, 4, 30, 30]}, *content["annotations"][1:]]
    refused("1 images have another size, file or label: 0", annotations=moved)
    path.write_text(json.dumps(content))
    elsewhere = tmp_path / "moved"
    elsewhere.mkdir()
    shutil.move(tmp_path / "images", elsewhere / "images")
    shutil.move(path, elsewhere / "train.json")
    again = {
        **flags,
        "labeled_data": f"coco:{elsewhere}/train.json,{elsewhere}/images",
    }  # the same data in another place
    assert jobs.run(experiment_from(again))["teacher"]["steps"] == 1


def test_jobs_on_a_finished_run_do_not_inherit_the_machine(copied, monkeypatch):
    from absl import flags

    from official import flags as ours

    folder, saved = copied
    machine = dict(tpu="local", num_devices=8, strategy="mirrored", threads=16)
    run = json.load(open(os.path.join(folder, "run.json")))
    run["flags"].update(machine)
    json.dump(run, open(os.path.join(folder, "run.json"), "w"))
    values = flags.FlagValues()
    ours.define_flags(values)
    values(["program", "--job=evaluate", f"--model_dir={folder}", "--threads=2"])
    monkeypatch.setattr(ours.flags, "FLAGS", values)
    found = ours.experiment_from_flags(ON_A_RUN)
    assert found.flags() | machine == {
        **saved_flags(folder),
        **machine,
        "job": "evaluate",
        "model_dir": folder,
    }
    assert (found.runtime.tpu, found.runtime.num_devices, found.runtime.strategy, found.runtime.threads) == (
        "",
        0,
        "auto",
        2,
    )
    assert found.given == {"job", "model_dir", "threads"} and found.model.anchor_scale == 3.0


# --- the chain of phases ----------------------------------------------------------------------------


def test_what_does_not_change_a_finished_phase_does_not_lock_it(copied, capsys):
    """Without a student yet, other thresholds and student flags go on from teacher and labels."""
    folder, flags = copied
    shutil.rmtree(os.path.join(folder, "student"))
    teacher = os.stat(os.path.join(folder, "teacher", "result.json")).st_mtime_ns
    labels = os.stat(os.path.join(folder, "pseudo_labels", "manifest.json")).st_mtime_ns
    with pytest.raises(
        FlagsDiffer, match=r"--label_scales.*\(labels\)[^$]*--model_dir=NEW --teacher=.*/teacher$"
    ):
        jobs.run(experiment_from({**flags, "label_scales": "1"}))
    with pytest.raises(FlagsDiffer, match=r"--learning_rate: .* now \(teacher, labels\)"):
        jobs.run(experiment_from({**flags, "learning_rate": 1.0}))
    found = jobs.run(
        experiment_from({**flags, "alpha": 0.5, "class_thresholds": "disc=0.2", "student_steps": 1})
    )
    assert (
        "going on from teacher, labels with --alpha=0.5 --class_thresholds=disc=0.2 --student_steps=1"
        in capsys.readouterr().err
    )
    assert found["student"]["steps"] == 1
    assert os.stat(os.path.join(folder, "teacher", "result.json")).st_mtime_ns == teacher
    assert json.load(open(os.path.join(folder, "run.json")))["flags"]["alpha"] == 0.5
    assert os.path.getsize(os.path.join(folder, "pseudo_labels", "manifest.json")) and labels
    store = f"--teacher={folder}/teacher --label_store={folder}/pseudo_labels"
    with pytest.raises(FlagsDiffer, match=rf"--alpha: 0.5 there, 1.0 now \(student\)\n(.|\n)*{store}"):
        jobs.run(experiment_from({**flags, "class_thresholds": "disc=0.2", "student_steps": 1}))


def test_which_phases_depend_on_a_flag():
    """By hand: what is made from what."""
    chain = ["teacher", "labels", "student", "control"]
    for flag, touched in {
        "learning_rate": chain, "labeled_fraction": chain, "anchor_scale": chain, "nms_iou": chain, "seed": chain,
        "label_flip": ["labels", "student"], "score_floor": ["labels", "student"], "unlabeled_data": ["labels", "student"],
        "alpha": ["student"], "score_threshold": ["student"], "student_init": ["student"], "soft_labels": ["student"],
        "student_steps": ["student", "control"], "student_augment": ["student", "control"],
        "control": [], "threads": [], "model_dir": [],
    }.items():  # fmt: skip
        assert list(spoiled({flag: None}, chain)) == touched, flag
    assert list(spoiled({"learning_rate": None}, chain, given_teacher=True)) == ["student", "control"]
    assert list(spoiled({"nms_iou": None}, chain, given_teacher=True)) == chain
    assert list(spoiled({"alpha": None}, ["teacher", "labels"])) == []


def test_flags_that_a_newer_version_added_mean_their_default(copied):
    folder, flags = copied
    place = os.path.join(folder, "run.json")
    content = json.load(open(place))
    for name in ("clip_norm", "huber_delta"):  # 1.0 in this run, and the default
        del content["decisive_flags"][name]
    json.dump(content, open(place, "w"))
    with pytest.raises(FlagsDiffer) as caught:
        jobs.run(experiment_from(flags))
    assert "--clip_norm: 0.0 there, 1.0 now" in str(caught.value) and "huber" not in str(caught.value)


def test_a_run_goes_on_after_it_was_moved_and_by_a_relative_name(finished, tmp_path, monkeypatch):
    folder, flags, summary = finished
    shutil.copytree(folder, tmp_path / "elsewhere" / "run")
    monkeypatch.chdir(tmp_path)
    again = jobs.run(experiment_from({**flags, "model_dir": "elsewhere/run"}))
    assert again["student"]["weights_sha256"] == summary["student"]["weights_sha256"]
    assert again["teacher"]["checkpoint"] == "elsewhere/run/teacher/checkpoints/step_00000004"
    assert (
        json.load(open("elsewhere/run/student/result.json"))["checkpoint"]
        == "student/checkpoints/step_00000004"
    )
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert find_model("run", "x").path == "run/student/checkpoints/step_00000004"


@pytest.mark.slow
def test_seconds_count_all_starts(copied):
    folder, flags = copied
    before = json.load(open(os.path.join(folder, "summary.json")))
    interrupt(folder, "student")
    last = os.path.join(folder, "student", "checkpoints", "step_00000002")
    tiny.edit_checkpoint(last, "checkpoint.json", seconds=1000.0)
    after = jobs.run(experiment_from(flags))
    assert after["student"]["weights_sha256"] == before["student"]["weights_sha256"]
    assert after["student"]["seconds"] > 1000 and after["seconds"]["student"] > 1000
    assert after["seconds"]["teacher"] >= before["seconds"]["teacher"] > 1
    assert after["seconds"]["total"] > before["seconds"]["total"] + 1


# --- control, student, joint head ------------------------------------------------------------------


@pytest.fixture
def phases(monkeypatch):
    """What would be trained, instead of training it: (phase, experiment, initialize, origin) of every run."""
    seen = []

    class Recorded(loops.PhaseRun):
        def run(self):
            seen.append((self.phase, self.experiment, self.initialize, self.origin))
            return {}

    monkeypatch.setattr(loops, "PhaseRun", Recorded)
    return seen


def bare_loop(flags):
    experiment = experiment_from(flags)
    source = tiny.scenes_source()
    return loops.SelfTraining(
        build_task(experiment, source.categories),
        experiment,
        tf.distribute.get_strategy(),
        source,
        source,
        None,
    )


def test_the_control_is_fair(finished, phases, capsys):
    """Steps of all teachers and the student, the student's augmentation, the schedule stretched over them."""
    folder, flags, summary = finished
    step = dict(
        schedule="step", decay_boundaries="2,3", decay_rates="0.1,0.01", teacher_steps=1000, student_steps=6
    )
    for phase, before in (("teacher", 4), ("student", 8)):
        given = {**flags, **step, "teacher": os.path.join(folder, phase), "student_augment": "s4"}
        bare_loop(given).train_control(summary[phase])
        control, experiment, _, _ = phases.pop()
        assert control.steps == before + 6 and control.pseudo is None and experiment.augment.augment == "s4"
        assert control.stretch == control.steps / before
        assert "not fair" not in capsys.readouterr().err
    bare_loop({**flags, "init": "imagenet"}).train_control(summary["teacher"])
    assert "WARNING: the control is not fair" in capsys.readouterr().err


@pytest.mark.parametrize("schedule", ("step", "exponential"))
def test_a_stretched_schedule_is_the_same_curve(schedule):
    from official.training.optimizer import build_optimizer

    options = experiment_from(
        dict(
            schedule=schedule,
            decay_boundaries="4,6",
            decay_rates="0.1,0.01",
            decay_every=2,
            decay_factor=0.5,
            warmup_steps=0,
            learning_rate=1.0,
        )
    ).optimizer
    short, long = build_optimizer(options, 8), build_optimizer(options, 24, stretch=3.0)
    for step in range(24):
        assert float(long._learning_rate(tf.constant(step))) == float(
            short._learning_rate(tf.constant(step // 3))
        ), step


def test_a_student_from_scratch_starts_as_the_teacher_did(finished, phases):
    folder, flags, summary = finished
    loop = bare_loop({**flags, "student_init": "scratch", "init_checkpoint": folder})
    loop.train_student(loop.labeled, summary["teacher"])
    _, _, initialize, origin = phases.pop()
    assert origin["init_checkpoint"] == folder
    trainer = _trainer(loop)
    initialize(trainer)
    expected = load_model(find_model(folder, "x"), loop.experiment)[1].get_weights()
    for a, b in zip(trainer.model.get_weights(), expected):
        np.testing.assert_array_equal(a, b)


def test_a_jointly_trained_student_starts_with_the_teachers_head(finished, phases):
    """Head and (averaged) network are the teacher's; other classes are refused."""
    folder, flags, summary = finished
    loop = dataclasses.replace(bare_loop(flags), joint=tiny.scenes_source(task="classification"))
    loop.train_student(loop.labeled, summary["teacher"])
    trainer = _trainer(loop)
    phases.pop()[2](trainer)
    kept = tf.train.load_checkpoint(os.path.join(summary["teacher"]["checkpoint"], "state"))
    names = [
        n for n in kept.get_variable_to_shape_map() if n.startswith("joint_model/") and n.endswith("VALUE")
    ]
    head = next(v for v in trainer.joint_model.trainable_variables if v.name == "predictions/kernel:0")
    assert any(np.array_equal(kept.get_tensor(n), head.numpy()) for n in names)
    expected = load_model(describe(summary["teacher"]["checkpoint"]), loop.experiment)[1].get_weights()
    for a, b in zip(trainer.model.get_weights(), expected):
        np.testing.assert_array_equal(a, b)
    other = dataclasses.replace(
        loop.joint, categories=tuple(Category(c.id, c.name + "!") for c in loop.joint.categories)
    )
    loop = dataclasses.replace(loop, joint=other)
    loop.train_student(loop.labeled, summary["teacher"])
    trainer.phase = dataclasses.replace(trainer.phase, joint=other)
    with pytest.raises(ModelError, match="trained jointly on the classes"):
        phases.pop()[2](trainer)


def _trainer(loop):
    from official.training.trainer import Phase, Trainer

    return Trainer(
        loop.task, loop.experiment, Phase("student", 1, loop.labeled, joint=loop.joint), loop.strategy
    )


def test_a_student_that_has_begun_keeps_its_teacher_and_labels(copied):
    folder, flags = copied
    interrupt(folder, "student")
    place = os.path.join(folder, "student", "checkpoints", "step_00000002")
    origin = json.load(open(os.path.join(place, "model.json")))["origin"]
    origin["made_from"]["teacher"] = "0" * 64
    tiny.edit_checkpoint(place, "model.json", origin=origin)
    with pytest.raises(ModelError, match="was made from another teacher than"):
        jobs.run(experiment_from(flags))
