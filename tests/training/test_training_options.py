"""Every option of optimizer, trainer and loop reaches what it is about, with a value that is no default."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import config as _config

from official.data.source import Annotations, Category
from official.experiment import Experiment, Optimizer, Runtime
from official.models.weights.named_weights import Weights, write_weights
from official.self_training import loop
from official.tasks.registry import build_task
from official.training.distribution import build_strategy, set_up_runtime
from official.training.keras_model import joint_task
from official.training.optimizer import LARS, Adam, Momentum, RMSprop, build_optimizer, current_learning_rate
from tests import tiny
from tests.self_training.test_label_store import label
from tests.training.test_step import make_trainer

# --- optimizer ---------------------------------------------------------------------------------------


def rates(steps, total=100, replaced=0.0, **options):
    """The learning rate at the given steps."""
    optimizer = build_optimizer(Optimizer(**options), total, learning_rate=replaced)
    found = []
    for step in steps:
        optimizer.iterations.assign(step)
        found.append(float(current_learning_rate(optimizer)))
    return found


def test_learning_rate_and_warmup():
    """From 0.1 to 0.5 over 10 steps; then half a cosine over the other 90."""
    options = dict(learning_rate=0.5, warmup_steps=10, warmup_learning_rate=0.1)
    np.testing.assert_allclose(rates([0, 5, 10, 55, 100], **options), [0.1, 0.3, 0.5, 0.25, 0.0], atol=1e-6)
    np.testing.assert_allclose(rates([10, 99], schedule="constant", **options), [0.5, 0.5])
    np.testing.assert_allclose(rates([0, 10], replaced=0.9, **options), [0.1, 0.9], rtol=1e-6)
    assert rates([3], total=4, schedule="constant", **options)[0] < 0.5  # a warm-up no longer than the phase


def test_step_and_exponential_schedules():
    options = dict(
        schedule="step", learning_rate=0.5, warmup_steps=0, decay_boundaries="30, 60", decay_rates="0.2,0.05"
    )
    np.testing.assert_allclose(rates([29, 30, 59, 60], **options), [0.5, 0.2, 0.2, 0.05], rtol=1e-6)
    options = dict(schedule="exponential", learning_rate=0.5, warmup_steps=0, decay_every=7, decay_factor=0.5)
    np.testing.assert_allclose(rates([6, 7, 14], **options), [0.5, 0.25, 0.125], rtol=1e-6)


@pytest.mark.parametrize(
    "name, kind",
    [("momentum", Momentum), ("nesterov", Momentum), ("rmsprop", RMSprop), ("lars", LARS), ("adam", Adam)],
)
def test_optimizers_have_their_settings(name, kind):
    found = build_optimizer(Optimizer(optimizer=name, momentum=0.6, lars_coefficient=0.02), 2000)
    assert type(found) is kind and (name == "adam" or found.momentum == 0.6)
    assert getattr(found, "nesterov", False) == (name == "nesterov")
    assert name != "lars" or found.coefficient == 0.02


# --- trainer -----------------------------------------------------------------------------------------


@pytest.fixture
def eagerly():
    """A step or two without compiling them, which would take longer than they do."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.mark.parametrize("joint_loss", ["normalized", "standard"])
def test_one_step_by_its_options(eagerly, joint_loss):
    """Losses are sums over counts, joined by alpha; weights move by the rate times the clipped gradient."""
    options = dict(
        task="classification", soft_labels=False, survival_probability=1.0, dropout=0.0, label_smoothing=0.3,
        alpha=3.0, weight_decay=0.3, clip_norm=0.05, momentum=0.0, learning_rate=0.5, warmup_steps=0,
        schedule="constant", batch_size=6, pseudo_batch_size=4, weight_average=0.75, ema_decay=0.9,
        joint_loss=joint_loss,
    )  # fmt: skip
    trainer = make_trainer(**options)
    assert trainer.batch_sizes == {"human": 6, "pseudo": 4}
    assert trainer.averages.decay == 0.9 and trainer.weight_average.decay == 0.75
    batch = next(trainer.batches())
    before = [v.numpy() for v in trainer.model.trainable_variables]
    squares = sum((v.numpy() ** 2).sum() for v in trainer.decayed)
    normalized = joint_loss == "normalized"
    images = tf.concat([batch["human"]["images"], batch["pseudo"]["images"]], 0)
    labels = np.concatenate([batch["human"]["class"], batch["pseudo"]["class"]])
    with tf.GradientTape() as tape:
        logs = tf.nn.log_softmax(trainer.model({"images": images}, training=True)["logits"])
        losses = -(0.7 * tf.gather(logs, labels, batch_dims=1) + 0.3 * tf.reduce_mean(logs, 1))
        human, pseudo = tf.reduce_mean(losses[:6]), tf.reduce_mean(losses[6:])
        weighed = 3 * tf.stop_gradient(human / pseudo) * pseudo if normalized else 3 * pseudo
        total = (human + weighed) / (4 if normalized else 1)
        total += 0.3 * 0.5 * tf.add_n([tf.reduce_sum(v**2) for v in trainer.decayed])
    gradients = [g.numpy() for g in tape.gradient(total, trainer.model.trainable_variables)]
    norm = np.sqrt(sum((g**2).sum() for g in gradients))
    human, pseudo = float(human), float(pseudo)
    found = {name: float(value) for name, value in trainer.train_step(batch).items()}
    assert found["human_loss"] == pytest.approx(human, rel=1e-4) and found["pseudo_loss"] == pytest.approx(
        pseudo, rel=1e-4
    )
    assert found["weight_decay_loss"] == pytest.approx(0.3 * 0.5 * squares, rel=1e-5)
    assert found["human_loss_average"] == pytest.approx(0.1 * human, rel=1e-4)
    assert found["pseudo_weight"] == pytest.approx(3 / 4 * human / pseudo if normalized else 3, rel=1e-4)
    joined = (human + 3 * human / pseudo * pseudo) / 4 if normalized else human + 3 * pseudo
    assert found["loss"] == pytest.approx(joined + found["weight_decay_loss"], rel=1e-4)
    # Where the averages are of one step the loss does not depend on alpha; its gradient does.
    assert found["gradient_norm"] == pytest.approx(norm, rel=1e-3) and norm > 0.05
    for a, gradient, variable in zip(before, gradients, trainer.model.trainable_variables):
        moved = (a - variable.numpy()) * norm / (0.5 * 0.05)
        np.testing.assert_allclose(moved, gradient, rtol=1e-3, atol=1e-5 * norm, err_msg=variable.name)


def test_the_third_stream_has_its_own_image_size_and_batch():
    experiment = tiny.experiment(joint_image_size=96, joint_batch_size=5, joint_weight=0.3, dropout=0.4)
    source = tiny.scenes_source(task="classification", count=4)
    task = joint_task(experiment, source.categories)
    assert task.experiment.model.image_size == 96 and task.experiment.model.dropout == 0.4
    batch = next(iter(task.training_dataset(source, batch_size=2, replica_batch_size=2, seed=0, stream="s")))
    assert batch["images"].shape == (2, 96, 96, 3)


def test_devices_precision_and_determinism():
    assert build_strategy(Runtime(num_devices=2)).num_replicas_in_sync == 2
    assert build_strategy(Runtime(num_devices=2, strategy="one")).num_replicas_in_sync == 1
    with pytest.raises(ValueError, match="TF_CONFIG"):
        build_strategy(Runtime(strategy="multi_worker"))
    for deterministic, xla, expected in ((False, False, False), (True, True, False), (True, False, True)):
        set_up_runtime(Runtime(deterministic=deterministic, xla=xla, precision="bfloat16"))
        assert _config.is_op_determinism_enabled() == expected
    assert tf.keras.mixed_precision.global_policy().name == "mixed_bfloat16"


# --- the loop ----------------------------------------------------------------------------------------


@pytest.fixture
def phases(monkeypatch):
    """What the loop asks of its phases: name -> (phase, function that gives a trainer its first weights)."""
    seen = {}

    class Recorded:
        def __init__(self, task, experiment, phase, evaluation, strategy, initialize, origin, told=None):
            seen[phase.name] = (phase, initialize)

        def run(self):
            return {}

    monkeypatch.setattr(loop, "PhaseRun", Recorded)
    return seen


def loop_of(source, **options):
    experiment = tiny.experiment(**options)
    task = build_task(experiment, source.categories)
    return loop.SelfTraining(task, experiment, tf.distribute.get_strategy(), source, source, None)


def test_where_the_student_starts(phases, tmp_path):
    """From the teacher, heads and all; as the teacher did, from nothing; or from a backbone's file."""
    source = tiny.scenes_source(task="classification", count=4)
    options = dict(task="classification", weight_average=0.0, model_dir=str(tmp_path))
    taught = loop_of(source, **options)
    teacher = taught.task.build_model()
    generator = np.random.default_rng(0)
    for variable in teacher.variables:
        variable.assign(generator.uniform(0.1, 1.0, variable.shape))
    result = tiny.teacher_result(tmp_path / "teacher", taught.experiment, source.categories, teacher)
    values = {v.name.split(":")[0]: v.numpy() for v in teacher.backbone.variables}
    write_weights(str(tmp_path / "w.npz"), Weights(values, "test", normalization="lite"))

    trainer = make_trainer(**options, human=source, pseudo=False)
    model = trainer.model
    backbone = {v.name for v in model.backbone.variables}

    def given(student_init):
        """Whether a model of zeros gets the teacher's backbone, and its head; None if it is left alone."""
        loop_of(source, **options, student_init=student_init).train_student(source, result)
        start = phases["student"][1]
        for variable in model.variables:
            variable.assign(tf.zeros_like(variable))
        if start is None:
            return None
        start(trainer)
        same = {a.name: (a.numpy() == b.numpy()).all() for a, b in zip(model.variables, teacher.variables)}
        return all(same[n] for n in backbone), all(same[n] for n in same if n not in backbone)

    assert given("teacher") == (True, True)
    assert given("scratch") is None
    assert given(str(tmp_path / "w.npz")) == (True, False)


def test_how_long_and_how_fast_the_phases_are(phases, tmp_path):
    options = dict(teacher_steps=7, student_steps=5, student_learning_rate=0.04, model_dir=str(tmp_path))
    run_ = loop_of(tiny.scenes_source(count=4), **options)
    teacher = tiny.teacher_result(tmp_path, run_.experiment, run_.task.categories)
    run_.train_teacher()
    run_.train_control(teacher)
    run_.train_student(run_.labeled, teacher)
    found = {name: (phase.steps, phase.learning_rate) for name, (phase, _) in phases.items()}
    assert found == {"teacher": (7, 0.0), "control": (12, 0.0), "student": (5, 0.04)}
    trainer = make_trainer(pseudo=False, task="classification", learning_rate=0.5)
    assert trainer.optimizer.get_config()["learning_rate"]["config"]["learning_rate"] == 0.5


def test_which_labels_are_used(tmp_path):
    """Sixteen images with 0, 1 or 2 boxes, a then b, of scores 0.9 - i / 160 and 0.4 less."""
    label(tmp_path / "store")
    unlabeled = tiny.scenes_source("unlabeled", labeled=False)
    scores = {k: [0.9 - 0.1 * i / 16 - 0.4 * k for i in range(16) if i % 3 > k] for k in (0, 1)}

    def used(**options):
        run_ = loop_of(
            unlabeled, label_store=str(tmp_path / "store"), model_dir=str(tmp_path), drawn_images=0, **options
        )
        pseudo, numbers = run_.read_labels()
        assert numbers["boxes"] == len(pseudo.annotations.boxes)
        return len(pseudo), np.bincount(pseudo.annotations.classes, minlength=2).tolist()

    def count(*limits):
        return [sum(s >= limit for s in scores[k]) for k, limit in enumerate(limits)]

    assert used(score_threshold=0.46) == (16, count(0.46, 0.46))
    assert used(score_threshold=0.85) == (16, count(0.85, 0.85)) and 0 < count(0.85, 0.85)[0] < 10
    assert used(score_threshold=0.85, class_thresholds="b=0.46") == (16, count(0.85, 0.46))
    kept, boxes = used(score_threshold=0.85, empty_pseudo_images="drop")
    assert boxes == count(0.85, 0.85) and kept == boxes[0]
    _, numbers = loop_of(
        unlabeled, label_store=str(tmp_path / "store"), model_dir=str(tmp_path), drawn_images=0,
        score_threshold=0.85, ignore_above=0.46,
    ).read_labels()  # fmt: skip
    assert (numbers["boxes"], numbers["uncertain_boxes"]) == (
        sum(count(0.85, 0.85)), sum(count(0.46, 0.46)) - sum(count(0.85, 0.85)),
    )  # fmt: skip


def test_thresholds_that_leave_what_people_draw(tmp_path):
    """Human labels: every image has two boxes of class a; half as many are asked for, so one an image."""
    label(tmp_path / "store")
    unlabeled = tiny.scenes_source("unlabeled", labeled=False)
    people = [{"boxes": np.tile([0.0, 0.0, 8.0, 8.0], (2, 1)), "classes": [0, 0]}] * len(unlabeled)
    labeled = unlabeled.with_annotations(
        Annotations.from_images(people), (Category(1, "a"), Category(2, "b"))
    )
    options = dict(label_store=str(tmp_path / "store"), model_dir=str(tmp_path), drawn_images=0)
    run_ = loop_of(unlabeled, score_threshold="auto", label_density=0.25, **options)
    pseudo, numbers = dataclasses.replace(run_, labeled=labeled).read_labels()
    assert numbers["threshold"] == "auto" and np.bincount(pseudo.annotations.classes).tolist() == [
        8
    ]  # 16 * 2 / 4
    best = sorted((0.9 - 0.1 * i / 16 for i in range(16) if i % 3 > 0), reverse=True)[:8]
    np.testing.assert_allclose(np.sort(pseudo.annotations.scores)[::-1], best, rtol=1e-6)


def test_these_are_not_the_defaults():
    """A test with the default value would not notice that an option is ignored."""
    defaults = Experiment().flags()
    used = dict(
        alpha=3.0,
        weight_decay=0.01,
        clip_norm=0.05,
        momentum=0.6,
        ema_decay=0.9,
        student_learning_rate=0.04,
        warmup_steps=10,
    )
    assert all(defaults[name] != value for name, value in used.items())
