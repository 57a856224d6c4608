"""How many images each phase of the loop takes per step."""

import pytest

from official.self_training import loop
from official.tasks.registry import build_task
from official.training.trainer import Trainer
from tests import tiny
from tests.training.test_step import two_replicas


def batches_of_phases(monkeypatch, folder, **options):
    """Images per step by phase and stream, read off the first batch that the phase's own trainer makes."""
    found = {}

    class OneBatch:
        def __init__(self, task, experiment, phase, evaluation, strategy, initialize, origin, told=None):
            self.trainer = Trainer(task, experiment, phase, strategy)

        def run(self):
            batch = next(self.trainer.batches())
            found[self.trainer.phase.name] = {name: part["images"].shape[0] for name, part in batch.items()}
            return {}

    monkeypatch.setattr(loop, "PhaseRun", OneBatch)
    source, pool = tiny.scenes_source(), tiny.scenes_source("unlabeled")
    experiment = tiny.experiment(model_dir=str(folder), **options)
    strategy = loop.tf.distribute.get_strategy()
    run = loop.SelfTraining(
        build_task(experiment, source.categories), experiment, strategy, source, pool, None
    )
    teacher = tiny.teacher_result(folder, experiment, source.categories)
    run.train_teacher()
    run.train_student(pool, teacher)
    run.train_control(teacher)
    return found


def test_teacher_and_control_take_their_own_batch(monkeypatch, tmp_path):
    """L2 on PASCAL: a teacher on 256 labelled images a step, a student on 128 + 128 (paper, section 3.2),
    here 6 and 3 + 2.
    """
    found = batches_of_phases(monkeypatch, tmp_path, teacher_batch_size=6, batch_size=3, pseudo_batch_size=2)
    assert found == {"teacher": {"human": 6}, "student": {"human": 3, "pseudo": 2}, "control": {"human": 6}}


def test_without_the_flag_every_phase_takes_the_same(monkeypatch, tmp_path):
    found = batches_of_phases(monkeypatch, tmp_path, batch_size=3, pseudo_batch_size=2)
    assert found == {"teacher": {"human": 3}, "student": {"human": 3, "pseudo": 2}, "control": {"human": 3}}


def test_a_teacher_batch_that_replicas_cannot_share_is_named(tmp_path):
    source = tiny.scenes_source()
    experiment = tiny.experiment(teacher_batch_size=5, batch_size=4, model_dir=str(tmp_path))
    run = loop.SelfTraining(
        build_task(experiment, source.categories), experiment, two_replicas(), source, None, None
    )
    with pytest.raises(ValueError, match="--teacher_batch_size=5: choose a multiple of 2"):
        run.train_teacher()
