"""The two sides of a benchmark: this project's detector and keras-cv's stock RetinaNet, same backbone."""

from __future__ import annotations

import os
import time
from typing import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras_cv  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from official.data.source import Annotations, Category, Source  # noqa: E402
from official.experiment import experiment_from  # noqa: E402
from official.models.backbones.efficientnet import build_efficientnet  # noqa: E402
from official.tasks.registry import build_task  # noqa: E402
from official.training.trainer import Phase, Trainer  # noqa: E402

CLASSES = 80
BOXES = 8


def random_source(size: int, count: int = 16) -> Source:
    """Noise images with eight random boxes each, already at the network's size."""
    generator = np.random.default_rng(0)
    pixels = tf.constant(generator.integers(0, 255, (count, size, size, 3), np.uint8))
    objects = []
    for _ in range(count):
        corner = generator.uniform(0, 0.6 * size, (BOXES, 2))
        side = generator.uniform(0.1 * size, 0.4 * size, (BOXES, 2))
        boxes = np.concatenate([corner, corner + side], axis=1).astype(np.float32)
        objects.append({"boxes": boxes, "classes": generator.integers(0, CLASSES, BOXES)})
    return Source(
        word="random",
        ids=np.array([str(i) for i in range(count)]),
        sizes=np.full((count, 2), size, np.int32),
        read_image=lambda index: tf.gather(pixels, index),
        categories=tuple(Category(i, str(i)) for i in range(CLASSES)),
        annotations=Annotations.from_images(objects),
    )


def our_trainer(
    backbone: str, size: int, batch: int, *, pseudo: bool = False, pseudo_batch: int = 1, **flags
) -> Trainer:
    """A trainer on random images with the paper's settings but no augmentation."""
    options = dict(
        backbone=backbone, image_size=size, batch_size=batch, pseudo_batch_size=pseudo_batch, augment="none"
    )
    experiment = experiment_from({**options, "deterministic": False, "learning_rate": 1e-3, **flags})
    source = random_source(size)
    task = build_task(experiment, source.categories)
    phase = Phase("benchmark", 1000, source, source if pseudo else None)
    return Trainer(task, experiment, phase, tf.distribute.get_strategy())


def stock_model(backbone: str, size: int) -> keras_cv.models.RetinaNet:
    """keras-cv's RetinaNet with its default pieces over the same backbone, compiled with momentum SGD."""
    body = build_efficientnet(backbone, input_shape=(size, size, 3))
    model = keras_cv.models.RetinaNet(body, num_classes=CLASSES, bounding_box_format="yxyx")
    model.compile(
        classification_loss="focal",
        box_loss="smoothl1",
        optimizer=tf.keras.optimizers.SGD(1e-3, 0.9),
        jit_compile=False,
    )
    return model


def stock_batch(source: Source, batch: int) -> tuple:
    """The first images as keras-cv wants them."""
    images = tf.stack([tf.cast(source.read_image(i), tf.float32) / 255.0 for i in range(batch)])
    boxes = tf.stack([source.annotations.of(i)["boxes"] for i in range(batch)])
    classes = tf.stack([tf.cast(source.annotations.of(i)["classes"], tf.float32) for i in range(batch)])
    return images, {"boxes": boxes, "classes": classes}


def seconds_each(functions: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds per call, the functions taking turns so that a slow spell hits all of them."""
    for function in functions.values():
        function()
        function()  # graphs are built and caches warm
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            started = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - started)
    return {name: float(np.median(values)) for name, values in times.items()}
