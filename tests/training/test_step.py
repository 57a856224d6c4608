"""The step does not depend on replicas, XLA or scale; alpha = 0 is supervised; large alpha is survived."""

import dataclasses
import functools
import os
import tempfile

import numpy as np
import pytest
import tensorflow as tf

from official.files import read_json
from official.models.backbones.registry import build_backbone
from official.models.weights.import_efficientnet import tf1_names
from official.tasks.registry import build_task
from official.training.trainer import NonFiniteError, Phase, Trainer
from tests import tiny

KEPT = (
    "human_loss",
    "pseudo_loss",
    "loss",
    "human_loss_average",
    "pseudo_loss_average",
    "loss_ratio",
    "gradient_norm",
)


def two_replicas():
    return tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )


TASKS = tuple(tiny.TASKS)
JOINT = dict(joint_weight=0.2, joint_batch_size=8, joint_image_size=32)
# The network whose steps were recorded, with all kinds of layers.
SQUEEZING = tiny.SQUEEZING
# Detection is tried with its third stream.
VARIANTS = ("detection+joint", *TASKS[1:])


def these(*fast):
    """The variants, those that are not named before a release alone: between them the same code compiles for
    minutes.
    """
    return [pytest.param(name, marks=[pytest.mark.slow] * (name not in fast)) for name in VARIANTS]


def variant(name):
    """Arguments of `make_trainer`."""
    task, joint = name.partition("+")[::2]
    return dict(task=task, joint=bool(joint), **(JOINT if joint else {}), **SQUEEZING)


def make_trainer(*, pseudo=True, strategy=None, human=None, joint=False, **overrides):
    experiment, task = tiny.experiment(**overrides), overrides.get("task", "detection")
    pseudo = pseudo and task in tiny.SELF_TRAINED
    extra = tiny.scenes_source("unlabeled", task="classification") if joint else None
    human = human or tiny.scenes_source(task=task)
    pool = tiny.scenes_source("unlabeled", task=task) if pseudo else None
    task = build_task(experiment, human.categories)
    strategy = strategy or tf.distribute.get_strategy()
    return Trainer(task, experiment, Phase("student", 8, human, pool, joint=extra), strategy)


def run(trainer, steps=4, *, saved_to="", save_at=2):
    """Metrics per step and the final weights; the state after `save_at` steps is written to `saved_to`."""
    metrics = []
    for _, batch in zip(range(steps), trainer.batches()):
        metrics.append({name: float(value) for name, value in trainer.train_step(batch).items()})
        if saved_to and trainer.step == save_at:
            tf.train.Checkpoint(**trainer.checkpointed()).write(saved_to)
    return metrics, [variable.numpy() for variable in trainer.model.variables]


@functools.lru_cache
def trained(name, replicas):
    """A trainer of one or two replicas behind four steps, what they gave, and the state that it had after
    two.
    """
    trainer = make_trainer(strategy=two_replicas() if replicas == 2 else None, **variant(name))
    saved = os.path.join(tempfile.mkdtemp(prefix="state_"), "state")
    return trainer, run(trainer, saved_to=saved), saved


def reference(name="detection"):
    return trained(name, 1)[1]


@functools.lru_cache
def supervised():
    """The trainer of three steps without a pseudo stream; its metrics; all weights after the first step and
    after the third.
    """
    trainer = make_trainer(pseudo=False)
    metrics, weights = [], []
    for _, batch in zip(range(3), trainer.batches()):
        metrics.append({name: float(value) for name, value in trainer.train_step(batch).items()})
        weights.append([variable.numpy() for variable in trainer.model.variables])
    return trainer, metrics, weights[0], weights[2]


def assert_same(found, expected, tolerance):
    for step, (a, b) in enumerate(zip(found[0], expected[0])):
        for name in b:
            assert a[name] == pytest.approx(b[name], rel=tolerance, abs=1e-6), (step, name)
    for a, b in zip(found[1], expected[1]):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_step_is_the_recorded_one(name):
    """Losses, counts, gradient norm of four steps and the norms of all weights behind them: see
    tests/golden/README.md.
    """
    recorded = read_json(os.path.join(os.path.dirname(__file__), "..", "golden", "steps.json"))[name]
    metrics, weights = reference(name)
    for metric, values in recorded["metrics"].items():
        np.testing.assert_allclose(
            [step[metric] for step in metrics], values, rtol=1e-3, atol=1e-6, err_msg=metric
        )
    assert len(weights) == len(recorded["norms"])
    for weight, (called, norm) in zip(weights, recorded["norms"].items()):
        np.testing.assert_allclose(np.linalg.norm(weight), norm, rtol=1e-3, atol=1e-5, err_msg=called)


@pytest.mark.parametrize("name", these("detection+joint"))
def test_one_replica_of_eight_is_two_of_four(name):
    """Losses, averages, gradient norm and all weights after four steps, to 2e-3 (float32 sums in another
    order).
    """
    assert_same(trained(name, 2)[1], reference(name), 2e-3)


@pytest.mark.parametrize("name", these())
def test_a_run_goes_on_with_another_number_of_replicas(name):
    """Two steps on one replica and two on two, and the other way round: the four steps of one, to 2e-3."""
    metrics, weights = reference(name)
    for before, after in ((1, 2), (2, 1)):
        trainer = trained(name, after)[0]
        tf.train.Checkpoint(**trainer.checkpointed()).read(trained(name, before)[2]).assert_consumed()
        assert trainer.step == 2
        assert_same(run(trainer, 2), (metrics[2:], weights), 2e-3)


@pytest.mark.parametrize("name", these("detection+joint"))
def test_whole_step_under_xla_agrees(name):
    assert_same(run(make_trainer(xla=True, **variant(name))), reference(name), 2e-3)


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not():
    tf.config.experimental.enable_op_determinism()
    trainer, other = make_trainer(), make_trainer(seed=1)
    assert any((a != b).any() for a, b in zip(trainer.model.get_weights(), other.model.get_weights()))
    drawn, others = next(trainer.batches()), next(other.batches())
    for stream in ("human", "pseudo"):
        assert (drawn[stream]["images"].numpy() != others[stream]["images"].numpy()).any()
    first, second = run(trainer, 2), run(make_trainer(), 2)
    assert first[0] == second[0]
    assert all((a == b).all() for a, b in zip(first[1], second[1]))


def test_alpha_zero_is_the_supervised_step():
    """The tasks share the step: for the others it is enough that the stream is left out, as for detection."""
    with_pseudo = make_trainer(alpha=0.0)
    _, metrics, _, weights = supervised()
    assert_same(run(with_pseudo, 3), (metrics, weights), 1e-5)
    for trainer in (with_pseudo, *(make_trainer(alpha=0.0, task=task) for task in tiny.SELF_TRAINED[1:])):
        assert set(trainer.sources) == {"human"}


@pytest.mark.parametrize("name", ("detection+joint", "segmentation", "classification"))
def test_joint_loss_is_made_of_its_parts(name):
    """L = (L_h + alpha ratio L_p) / (1 + alpha) + w L_cls + L2, with the averages of Appendix B, at every
    step.
    """
    human = pseudo = 0.0
    for step in reference(name)[0]:
        human = 0.9997 * human + 0.0003 * step["human_loss"]
        pseudo = 0.9997 * pseudo + 0.0003 * step["pseudo_loss"]
        assert step["loss_ratio"] == pytest.approx(human / pseudo, rel=1e-4)
        expected = (step["human_loss"] + step["loss_ratio"] * step["pseudo_loss"]) / 2 + step[
            "weight_decay_loss"
        ]
        expected += 0.2 * step.get("joint_loss", 0.0)
        assert step["loss"] == pytest.approx(expected, rel=1e-5)
        assert step["human_loss"] == pytest.approx(
            step["human_class_loss"] + step.get("human_box_loss", 0.0), rel=1e-5
        )
        assert step["pseudo_weight"] == pytest.approx(step["loss_ratio"] / 2, rel=1e-5)


def test_weight_decay_counts_kernels_only():
    trainer, metrics, weights, _ = supervised()
    names = {v.name for v in trainer.decayed}
    assert all("kernel" in name for name in names)
    assert any("depthwise_kernel" in name for name in names)
    squares = sum(
        (w.astype(np.float64) ** 2).sum()
        for w, v in zip(weights, trainer.model.variables)
        if "kernel" in v.name
    )
    assert metrics[1]["weight_decay_loss"] == pytest.approx(0.5e-4 * squares, rel=1e-4)


def test_weight_decay_on_batch_norm_too():
    """The paper's ResNet-101 study (Table 12): kernels, scales and shifts, but no bias."""
    trainer = make_trainer(pseudo=False, decay_batch_norm=True)
    kinds = {v.name.split("/")[-1] for v in trainer.decayed}
    assert kinds == {"kernel:0", "depthwise_kernel:0", "gamma:0", "beta:0"}
    squares = sum(
        float(tf.reduce_sum(v**2)) for v in trainer.model.trainable_variables if "bias" not in v.name
    )
    assert float(trainer.keras_model.step.weight_decay_loss()) == pytest.approx(0.5e-4 * squares, rel=1e-4)


def decayed(**overrides):
    """Names of the decayed variables and of all that are trained, of the task alone."""
    trainer = make_trainer(pseudo=False, **overrides, **SQUEEZING)
    return {v.name for v in trainer.decayed}, {v.name for v in trainer.variables}


def test_weight_decay_of_a_classifier_is_the_originals():
    """All but batch norm, by the names of the original (tensorflow/tpu efficientnet/main.py): biases too.

    The tiny B0 has 7 squeeze-and-excitations with two biases each, the classifier's bias, and 37 kernels.
    """
    found, trained = decayed(task="classification")
    backbone = build_backbone(tiny.experiment(task="classification", **SQUEEZING).model)
    names = {
        f"{ours}:0": theirs
        for ours, theirs in tf1_names(backbone, "efficientnet-b0").items()
        if "moving" not in ours
    }
    assert names.keys() < trained and len(names) > 60
    assert {n for n in names if n in found} == {
        n for n, theirs in names.items() if "batch_normalization" not in theirs
    }
    assert {n for n in found if n not in names} == {
        "top_conv/kernel:0",
        "predictions/kernel:0",
        "predictions/bias:0",
    }
    assert len(found) == 52 and sum("bias" in n for n in found) == 15
    probe, _ = decayed(task="classification", linear_probe=True)
    assert probe == {
        "predictions/kernel:0",
        "predictions/bias:0",
    }  # google-research/simclr model_util.py, momentum
    with_norm, _ = decayed(task="classification", decay_batch_norm=True)
    assert with_norm == trained


def test_weight_decay_of_simclr_follows_the_optimizer():
    """LARS leaves biases out and decays the probe's kernel; other optimizers decay all but batch norm (simclr
    model_util.py:44-63).
    """
    lars, trained = decayed(task="contrastive", optimizer="lars")
    other, _ = decayed(task="contrastive", optimizer="momentum")
    assert {n for n in trained if "kernel" in n} == lars and "head_supervised/kernel:0" in lars
    assert {
        n for n in trained if "gamma" not in n and "beta" not in n
    } == other and "head_supervised/bias:0" in other


def test_images_without_boxes_train_the_background():
    """keras-cv's loss is exactly 0 on such a batch; here the classifier learns."""
    scenes = tiny.scenes_source()
    nothing = dataclasses.replace(scenes.annotations, crowd=np.ones_like(scenes.annotations.crowd))
    trainer = make_trainer(
        pseudo=False, human=dataclasses.replace(scenes, annotations=nothing), learning_rate=0.001
    )
    metrics, _ = run(trainer, 4)
    assert metrics[0]["human_count"] == 0 and metrics[0]["human_box_loss"] == 0
    assert metrics[0]["human_class_loss"] > 0 and metrics[0]["gradient_norm"] > 0
    assert metrics[3]["human_class_loss"] < metrics[0]["human_class_loss"]


BLOW_UP = dict(
    alpha=1e7, learning_rate=0.2, clip_norm=0.0, warmup_steps=0, on_nan="stop", joint_loss="standard", **tiny.LITE,
)  # fmt: skip


def test_standard_loss_blows_up_where_the_normalised_one_does_not():
    """The paper's Fig. 2 in miniature: same alpha, same learning rate, both losses.

    The standard loss runs through 1e25 into a gradient that float32 cannot hold.
    """
    standard = make_trainer(**BLOW_UP)
    metrics, weights = run(standard, 8)
    assert not np.isfinite([[m["loss"], m["gradient_norm"]] for m in metrics]).all()
    with pytest.raises(NonFiniteError, match="not finite at step .*gradient_norm"):
        standard.check({name: tf.constant(value) for name, value in metrics[-1].items()})
    assert all(np.isfinite(w).all() for w in weights)  # the guard kept the last good weights
    normalized, _ = run(make_trainer(**{**BLOW_UP, "joint_loss": "normalized"}), 8)
    assert (
        max(m["loss"] for m in normalized) < 10
        and np.isfinite([m["gradient_norm"] for m in normalized]).all()
    )


def test_skipping_goes_on_and_counts():
    trainer = make_trainer(pseudo=False, on_nan="skip", max_nan_steps=2)
    iterator = trainer.batches()
    good = next(iterator)
    bad = {"human": {**good["human"], "images": good["human"]["images"] * float("nan")}}
    trainer.train_step(good)
    before = [v.numpy() for v in trainer.model.variables]
    trainer.train_step(bad)
    for a, b in zip(before, trainer.model.variables):
        np.testing.assert_array_equal(a, b.numpy())
    trainer.check({})
    trainer.train_step(good)
    assert any((a != b.numpy()).any() for a, b in zip(before, trainer.model.variables))
    assert int(trainer.guard.skipped) == 1 and int(trainer.guard.first_bad) == 1 and trainer.step == 3
    for _ in range(2):
        trainer.train_step(bad)
    with pytest.raises(NonFiniteError, match="step 1 "):
        trainer.check({})


@pytest.mark.parametrize("precision", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
def test_reduced_precision_is_close(precision):
    names = {"bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}
    tf.keras.mixed_precision.set_global_policy(names[precision])
    metrics, _ = run(make_trainer(precision=precision), 2)
    expected = reference()[0]
    for name in ("human_loss", "pseudo_loss"):
        assert metrics[0][name] == pytest.approx(expected[0][name], rel=0.05)
    assert np.isfinite([m["loss"] for m in metrics]).all()


def test_batch_that_replicas_cannot_share():
    with pytest.raises(ValueError, match="--batch_size=7: choose a multiple of 2"):
        make_trainer(strategy=two_replicas(), batch_size=7)


def test_frozen_variables_stay_and_are_not_decayed():
    trainer = make_trainer(pseudo=False, freeze="(stem|block)")
    before = {v.name: v.numpy() for v in trainer.model.trainable_variables}
    run(trainer, 2)
    moved = {v.name for v in trainer.model.trainable_variables if (v.numpy() != before[v.name]).any()}
    assert not any(name.startswith(("stem", "block")) for name in moved)
    assert {"classification_predictor/kernel:0", "box_predictor/kernel:0"} <= moved
    assert not any(v.name.startswith(("stem", "block")) for v in trainer.decayed)
    with pytest.raises(ValueError, match="leaves nothing to train"):
        make_trainer(pseudo=False, freeze=".*")


def test_joint_training_shares_the_backbone_and_keeps_its_statistics():
    """The first step's losses of the task are those without a third stream, and so are the moving averages of
    batch norm.
    """
    joint, (alone, metrics, weights, _) = make_trainer(joint=True, pseudo=False, **JOINT), supervised()
    head = {v.name for v in joint.variables} - {v.name for v in alone.variables}
    assert head == {"predictions/kernel:0", "predictions/bias:0"}
    found, expected = run(joint, 1), (metrics, weights)
    assert found[0][0]["human_loss"] == pytest.approx(expected[0][0]["human_loss"], rel=1e-5)
    for a, b, v in zip(found[1], expected[1], joint.model.variables):
        if "moving" in v.name:
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7, err_msg=v.name)
    kernels = [
        (a, b)
        for a, b, v in zip(found[1], expected[1], joint.model.variables)
        if v.name == "p1_conv/kernel:0"
    ]
    assert (kernels[0][0] != kernels[0][1]).any()  # but its gradient has arrived
