"""A batch that cannot fit into memory is refused before its first step, not ended by the kernel."""

import pytest
import tensorflow as tf

from official.errors import FlagError
from official.experiment import experiment_from
from official.jobs.check_data import _time
from official.models.statistics import activation_bytes
from official.tasks.registry import build_task
from official.training import memory
from official.training.machine import Machine
from official.training.memory import images_in_memory, too_large
from official.training.trainer import Phase, Trainer
from tests import tiny

keras = tf.keras


def network() -> keras.Model:
    """16 x 16 pixels: 8 filters, batch norm, a depthwise convolution at stride 2, a 1 x 1 one of 4
    filters.
    """
    images = keras.Input([None, None, 3], name="images")
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(8, 3, padding="same")(images))
    x = keras.layers.Conv2D(4, 1)(keras.layers.DepthwiseConv2D(3, 2, padding="same")(x))
    return keras.Model({"images": images}, x)


def test_activations_by_hand():
    assert activation_bytes(network(), 16) == 4 * (2 * 8 * 16 * 16 + 8 * 8 * 8 + 4 * 8 * 8)
    assert activation_bytes(network(), 32) == 4 * activation_bytes(network(), 16)


def test_images_of_a_step_by_hand():
    experiment = experiment_from(dict(image_size=640, joint_image_size=160, accumulate=4))
    assert images_in_memory(experiment, {"human": 64, "pseudo": 128}, share=0.5) == 192 * 0.5 / 4
    assert images_in_memory(experiment, {"human": 64, "joint": 160}) == (64 + 160 / 16) / 4


def test_what_does_not_fit_is_refused_and_what_may_fit_is_not():
    """The network keeps 77,824 B of a 32 px image, so 16,384 images are 1.19 GiB."""
    experiment, images = experiment_from(dict(image_size=32)), float(1 << 14)
    words = too_large(experiment, network, images, Machine(2, 1))
    assert (
        "16384 images of 32 px keeps at least 1 GB, and this machine has 1 GB" in words
        and "of 5518 in all may fit" in words
    )
    assert too_large(experiment, network, images * 0.8, Machine(2, 1)) is None
    assert too_large(experiment.with_flags({"xla": True}), network, images * 1.6, Machine(2, 1)) is None
    assert too_large(experiment.with_flags({"xla": True}), network, images * 1.8, Machine(2, 1))
    assert (
        too_large(experiment, network, images, Machine(2, 1, gpus=1, gpu_memory=1)) is None
    )  # its allocator says so
    assert (
        too_large(experiment, lambda: 1 / 0, 1.0, Machine(2, 1)) is None
    )  # no network is built for a small batch
    assert "lower --image_size" in too_large(experiment, network, images, Machine(2, 0))


def test_the_trainer_and_check_data_say_it(monkeypatch, capsys):
    monkeypatch.setattr(memory, "this_machine", lambda: Machine(2, 0))
    experiment, source = tiny.experiment(), tiny.scenes_source()
    task = build_task(experiment, source.categories)
    with pytest.raises(FlagError, match="--recipe=auto chooses flags for this machine"):
        Trainer(task, experiment, Phase("teacher", 2, source), tf.distribute.get_strategy())
    found = _time(experiment, task, tf.distribute.get_strategy(), {"labeled": source})
    assert found == {} and "time: not measured: a step of" in capsys.readouterr().out
