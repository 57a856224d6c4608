"""What a training job refuses before it writes or trains anything."""

import os
import shutil

import pytest
import tensorflow as tf

from official import jobs
from official.data.scenes_source import open_scenes
from official.data.source import Category
from official.errors import FlagError, UserError
from official.files import require_space
from official.jobs.checks import check_flags, check_run, check_thresholds
from official.tasks.registry import build_task
from official.training.trainer import Phase, Trainer
from tests import tiny

NAS = dict(task="segmentation", pyramid="nas_fpn", label_scales="1")

REFUSED = {
    r"--freeze=\(: not a regular": dict(freeze="("),
    "--decay_boundaries=a,b": dict(schedule="step", decay_boundaries="a,b", decay_rates="1,2"),
    "--decay_boundaries=5,3": dict(schedule="step", decay_boundaries="5,3", decay_rates="1,2"),
    "--decay_rates=1,-2": dict(schedule="step", decay_boundaries="3,5", decay_rates="1,-2"),
    "2 decay_boundaries but 1 decay_rates": dict(schedule="step", decay_boundaries="3,5", decay_rates="1"),
    "decay_every": dict(schedule="exponential"),
    "--min_level=5 --max_level=3": dict(min_level=5, max_level=3),
    "--image_size=80.*use 96": dict(image_size=80),
    "levels 3 to 7": dict(backbone="spinenet-49s", image_size=256, max_level=8),
    "--min_level=2 .*levels 3 to 7": dict(backbone="spinenet-49s", image_size=128, min_level=2),
    "--image_size=64.*128": dict(backbone="spinenet-49s", image_size=64, max_level=4),
    "--max_level=5: NAS-FPN": dict(NAS, max_level=5, image_size=160),
    "--image_size=160.*128": dict(NAS, max_level=7, image_size=160),
    "--min_level=4: a segmenter": dict(NAS, max_level=7, image_size=128, min_level=4),
    "--label_scales=1,x": dict(task="segmentation", label_scales="1,x"),
    "--label_scales=inf": dict(task="segmentation", label_scales="inf"),
    "'disc=2' is not a score": dict(class_thresholds="disc=2"),
    "jitter": dict(jitter_min=2.0, jitter_max=1.0),
    "jitter range": dict(task="segmentation", label_scales="1", jitter_min=2.0, jitter_max=1.0),
    "--accumulate: a contrastive": dict(task="contrastive", accumulate=2),
    "--ema_decay=1.0": dict(ema_decay=1.0),
    "--weight_average=1.0": dict(weight_average=1.0),
}  # fmt: skip


@pytest.mark.parametrize("words", REFUSED)
def test_flags_that_cannot_be_used(words):
    with pytest.raises(FlagError, match=words):
        check_flags(tiny.experiment(**REFUSED[words]))


def test_the_students_preset_is_checked_and_all_is_said_at_once():
    with pytest.raises(FlagError) as error:
        check_flags(tiny.experiment(freeze="(", decay_rates="a", ema_decay=1.0))
    assert len(str(error.value).splitlines()) == 3


@pytest.mark.parametrize(
    "flags",
    [{}, dict(max_level=4), dict(NAS, max_level=7, image_size=128), dict(task="segmentation", pyramid="fpn", max_level=5),
     dict(backbone="spinenet-49s", image_size=128, min_level=4, max_level=6), dict(task="classification", image_size=33),
     dict(schedule="step", decay_boundaries="3,5", decay_rates="1e-2,0")],
)  # fmt: skip
def test_flags_that_can_be_used(flags):
    check_flags(tiny.experiment(**flags))


def test_files_and_places(tmp_path):
    strategy = tf.distribute.get_strategy()
    file = tmp_path / "file"
    file.write_text("x")
    refused = {
        "--student_init=/nowhere": dict(student_init="/nowhere"),
        "--labeled_ids /nowhere": dict(labeled_ids="/nowhere"),
        "is a file, not a folder": dict(label_store=str(file / "store")),
        "cannot be written": dict(label_store="/proc/nowhere/store"),
    }
    for words, flags in refused.items():
        with pytest.raises(FlagError, match=words):
            check_run(tiny.experiment(model_dir=str(tmp_path / "run"), **flags), strategy, pseudo=True)
    check_run(tiny.experiment(student_init="/nowhere"), strategy, pseudo=False)  # no student is trained
    check_run(tiny.experiment(label_store=str(tmp_path / "a" / "b")), strategy, pseudo=True)
    assert sorted(os.listdir(tmp_path)) == ["file"]


def test_batches_of_all_phases_are_shared_evenly(monkeypatch):
    class Two:
        num_replicas_in_sync = 2

    odd = {"batch_size": 3, "pseudo_batch_size": 3, "teacher_batch_size": 3, "joint_batch_size": 3}
    for name, value in odd.items():
        with pytest.raises(FlagError, match=f"--{name}=3: choose a multiple of 2"):
            check_run(
                tiny.experiment(joint_weight=0.5, **{"joint_batch_size": 4, name: value}), Two(), pseudo=True
            )
    with pytest.raises(
        FlagError, match="--batch_size=3"
    ):  # the student's, where the teacher has one of its own
        check_run(tiny.experiment(teacher_batch_size=4, batch_size=3), Two(), pseudo=True)
    check_run(
        tiny.experiment(teacher_batch_size=4, batch_size=3, joint_batch_size=3, pseudo_batch_size=3),
        Two(),
        pseudo=False,
    )


def test_thresholds_of_classes_that_are_not_there():
    with pytest.raises(FlagError, match=r"names \['dsic'\]; the classes are \['disc'\]"):
        check_thresholds(tiny.experiment(class_thresholds="dsic=0.5"), [Category(1, "disc")])
    check_thresholds(tiny.experiment(class_thresholds="disc=0.5"), [Category(1, "disc")])


@pytest.mark.parametrize(
    "flags", [dict(class_thresholds="dsic=0.5"), dict(freeze="("), dict(eval_data="scenes:nope")]
)
def test_a_refused_command_leaves_no_run_behind(tmp_path, flags):
    with pytest.raises(UserError):
        jobs.run(tiny.experiment(model_dir=str(tmp_path / "run"), **flags))
    assert not (tmp_path / "run" / "run.json").exists() and not (tmp_path / "run" / "teacher").exists()


def test_a_full_disk_is_noticed_before_training(tmp_path, monkeypatch):
    free = shutil.disk_usage(tmp_path)._replace(free=10 * 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: free)
    require_space(str(tmp_path / "a" / "b"), 10 * 2**20, "2 checkpoints")
    with pytest.raises(UserError, match="2 checkpoints take about 11 MiB, and the disk has 10 MiB free"):
        require_space(str(tmp_path / "a" / "b"), 11 * 2**20, "2 checkpoints")


def test_a_network_cut_off_at_level_4_trains_what_it_uses():
    """And with all its kernels frozen there is nothing to decay; both crashed inside the first step."""
    small = {**tiny.LITE, "backbone_width": 0.1, "backbone_depth": 0.1, "head_convs": 0, "drawn_images": 0}
    small.update(min_level=4, max_level=4)
    experiment = tiny.experiment(
        **small, freeze=".*kernel", warmup_steps=0, augment="none", batch_size=2, clip_norm=0.0
    )
    source = open_scenes("train", 4, size=64, seed=0)
    trainer = Trainer(
        build_task(experiment, source.categories),
        experiment,
        Phase("teacher", 1, source),
        tf.distribute.get_strategy(),
    )
    trained = [v.name for v in trainer.variables]
    assert (
        trained
        and not any("kernel" in name for name in trained)
        and not any("block6" in name for name in trained)
    )
    assert any("block6" in v.name for v in trainer.model.backbone.trainable_variables)
    metrics = trainer.train_step(next(trainer.batches()))
    assert float(metrics["loss"]) > 0.0 and float(metrics["weight_decay_loss"]) == 0.0
    assert trainer.checkpoint_bytes() >= 4 * sum(int(tf.size(v)) for v in trainer.model.variables)
