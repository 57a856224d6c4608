"""Learning rates, and sixty whole steps of momentum, weight decay and clipping, against the original's.

Origin, conventions and declared differences: tests/golden/original/README.md.
"""

import numpy as np
import pytest
import tensorflow as tf

from official.data.scenes_source import open_scenes
from official.experiment import experiment_from
from official.tasks.task import Task
from official.training.optimizer import build_optimizer
from official.training.trainer import Phase, Trainer
from tests.golden.vectors import load

VECTORS, INDEX = load("schedules")
TOY = INDEX["toy"]


def flags_of(schedule):
    """The original's settings as ours."""
    shared = {name: schedule[name] for name in ("warmup_learning_rate", "warmup_steps")}
    if schedule["kind"] == "cosine":
        return {**shared, "schedule": "cosine", "learning_rate": schedule["learning_rate"]}
    boundaries, rates = schedule["learning_rate_steps"], schedule["learning_rate_levels"]
    return {
        **shared, "schedule": "step", "learning_rate": schedule["init_learning_rate"],
        "decay_boundaries": ",".join(map(str, boundaries)), "decay_rates": ",".join(map(str, rates)),
    }  # fmt: skip


@pytest.mark.parametrize("schedule", INDEX["schedules"], ids=lambda schedule: schedule["name"])
def test_learning_rates(schedule):
    """Sixty steps of each, those around warm-up and boundaries among them."""
    steps, rates = (VECTORS[f"{schedule['name']}_{part}"] for part in ("steps", "rates"))
    optimizer = build_optimizer(experiment_from(flags_of(schedule)).optimizer, schedule["total_steps"])
    found = []
    for step in steps:
        optimizer.iterations.assign(step)
        found.append(float(optimizer._learning_rate(optimizer.iterations)))
    np.testing.assert_allclose(found, rates, rtol=0, atol=2e-7 * rates.max())


class Regression(Task):
    """`inputs @ kernel + bias`, the squared errors of every row; nothing but what the trainer calls."""

    name, label_kind, metrics, categories = "regression", "boxes", ("loss",), ()

    def __init__(self):
        pass

    def build_model(self):
        inputs = tf.keras.Input([5], name="images")
        outputs = tf.keras.layers.Dense(3, name="dense")(inputs)
        return tf.keras.Model({"images": inputs}, {"outputs": outputs})

    def encode(self, batch):
        return {"wanted": batch["wanted"]}

    def count(self, targets):
        return tf.cast(tf.shape(targets["wanted"])[0], tf.float32)

    def normalizer(self, count):
        return count

    def loss_sums(self, outputs, targets):
        return {"squares": tf.reduce_sum((outputs["outputs"] - targets["wanted"]) ** 2)}

    def _unused(self, *_, **__):
        raise NotImplementedError

    preparation = look = score = label = predict = write_predictions = export = _unused
    draw = shown = human_labels = batch_labels = _unused


@pytest.fixture(scope="module")
def run():
    """Loss, gradient norm and rate of sixty steps of the trainer, and the weights after each."""
    options = {
        name: TOY[name] for name in ("weight_decay", "clip_norm", "momentum", "schedule", "learning_rate")
    }
    warmup = {name: TOY[name] for name in ("warmup_learning_rate", "warmup_steps")}
    experiment = experiment_from(
        {**options, **warmup, "batch_size": len(VECTORS["toy_inputs"]), "image_size": 16}
    )
    phase = Phase("teacher", TOY["total_steps"], open_scenes("train", 1, size=16))
    trainer = Trainer(Regression(), experiment, phase, tf.distribute.get_strategy())
    kernel, bias = trainer.model.get_layer("dense").variables
    kernel.assign(VECTORS["toy_kernel0"])
    bias.assign(VECTORS["toy_bias0"])
    batch = {
        "human": {"images": tf.constant(VECTORS["toy_inputs"]), "wanted": tf.constant(VECTORS["toy_targets"])}
    }
    found = {name: [] for name in ("loss", "gradient_norm", "learning_rate", "kernel", "bias")}
    for _ in range(TOY["total_steps"]):
        metrics = trainer.train_step(batch)
        for name in ("loss", "gradient_norm", "learning_rate"):
            found[name].append(float(metrics[name]))
        found["kernel"].append(kernel.numpy())
        found["bias"].append(bias.numpy())
    return found


@pytest.mark.parametrize("name", ["loss", "gradient_norm", "learning_rate", "kernel", "bias"])
def test_sixty_steps(run, name):
    """The loss holds the L2 term, the norm is before clipping; weights are those after the step."""
    np.testing.assert_allclose(run[name], VECTORS[f"toy_{name}"], rtol=1e-6, atol=1e-6)


def test_some_of_them_are_clipped(run):
    clipped = (np.array(run["gradient_norm"]) > TOY["clip_norm"]).sum()
    assert clipped == TOY["clipped_steps"] and 0 < clipped < TOY["total_steps"]
