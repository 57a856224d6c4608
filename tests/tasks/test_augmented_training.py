"""Every preset feeds every task that takes presets: shapes, finite numbers, the same bits for any number of
threads, and a step.
"""

import numpy as np
import pytest

from official.tasks.registry import build_task
from tests import tiny
from tests.training.test_step import make_trainer, run


def batches(task, preset, threads, count=2):
    source = tiny.scenes_source(task=task)
    experiment = tiny.experiment(task=task, augment=preset, augment_reference_size=640)
    dataset = build_task(experiment, source.categories).training_dataset(
        source, batch_size=8, replica_batch_size=8, seed=3, stream="human", threads=threads,
    )  # fmt: skip
    return list(dataset.take(count).as_numpy_iterator())


def presets():
    """All that differ in kind; S2 is S3 without the wide crops, and S3 is S4 with another draw of operations:
    tests/augment has both.
    """
    for task in ("detection", "segmentation", "classification"):
        for preset in ("s1", "s2", "s3", "s4"):
            marks = [pytest.mark.slow] if preset in ("s2", "s3") else []
            yield pytest.param(task, preset, marks=marks, id=f"{preset}-{task}")


@pytest.mark.parametrize("task, preset", presets())
def test_batches_are_static_finite_and_repeat(task, preset):
    one, four = batches(task, preset, 1), batches(task, preset, 4)
    for a, b in zip(one, four):
        side = a["images"].shape[1]
        assert a["images"].shape == (8, side, side, 3) and side == (32 if task == "classification" else 64)
        assert np.isfinite(a["images"]).all()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])
        if task == "classification":
            assert a["class"].shape == (8,) and set(a["class"]) <= set(range(5))
        elif task == "segmentation":
            assert a["masks"].shape == (8, 64, 64) and set(np.unique(a["masks"])) <= {0, 1, 2, 3, 4, 5, 255}
        else:
            real = a["boxes"][a["classes"] >= 0]
            assert a["boxes"].shape == (8, 16, 4) and (real[:, 2:] > real[:, :2]).all() and (real <= 64).all()


@pytest.mark.parametrize("task", ("detection", "segmentation"))
def test_a_joint_step_with_the_strongest_preset(task):
    metrics, weights = run(make_trainer(task=task, augment="s4"), 1)
    assert np.isfinite(metrics[0]["loss"]) and all(np.isfinite(w).all() for w in weights)


def test_constants_follow_the_set_of_operations():
    """RandAugment for images cuts smaller than AutoAugment, whatever the task's set is called."""
    from official.tasks.augmentation import augmentation

    def settings(**options):
        return augmentation(tiny.experiment(**options).augment, "image").settings

    assert settings(augment="s4").cutout_const == 40 and settings(augment="s3").cutout_const == 100
    assert settings(augment="s4", randaugment_ops="boxes").translate_const == 250
    assert settings(augment="s3", box_rounding="exact").exact_boxes and not settings(augment="s3").exact_boxes
    assert settings(augment="s2", solarize_posterize="weakening").solarize_posterize == "weakening"


def test_the_student_may_have_another_preset(monkeypatch, tmp_path):
    """The teacher's S1 with wider jitter, the student's S3 as the paper has it; empty means the teacher's."""
    from official.self_training import loop

    seen = {}

    class Recorded:
        def __init__(self, task, experiment, phase, *_):
            seen[phase.name] = (task.augment, experiment.augment.augment)

        def run(self):
            return {}

    monkeypatch.setattr(loop, "PhaseRun", Recorded)
    source = tiny.scenes_source()
    for student, expected in (("s3", ("v0", 0.5, 2.0, "s3")), ("", ("", 0.1, 1.9, "s1"))):
        options = dict(augment="s1", jitter_min=0.1, jitter_max=1.9, student_augment=student)
        experiment = tiny.experiment(model_dir=str(tmp_path), **options)
        teacher = tiny.teacher_result(tmp_path, experiment, source.categories)
        run_ = loop.SelfTraining(
            build_task(experiment, source.categories), experiment, None, source, source, None
        )
        run_.train_teacher()
        run_.train_student(source, teacher)
        run_.train_control(teacher)
        found = {
            name: (p.autoaugment, p.jitter_min, p.jitter_max, preset) for name, (p, preset) in seen.items()
        }
        assert found == {"teacher": ("", 0.1, 1.9, "s1"), "control": expected, "student": expected}
