"""The job classify_check: is an import right? Weights with their own head classify labelled images.

    python main.py --job=classify_check --backbone=efficientnet-lite0 --init=imagenet \
        --eval_data=folder:ILSVRC_sample --model_dir=runs/check

The folder has a folder per class, named as the head's channels: by the names in --classes, by ImageNet's
numbers (n01440764 …) or by the channels' own numbers; or there are as many as channels, in their order.
Images are cut and scaled as in the network's own evaluation: what is published for the weights must come out,
within the error of the sample.
"""

from __future__ import annotations

import os
from typing import Any, Sequence

import tensorflow as tf

from official.data.source import Category, DataError, Source
from official.data.text_lists import imagenet_wnids
from official.errors import FlagError
from official.experiment import Experiment
from official.jobs.opening import opened
from official.models.backbones.efficientnet import MEMBERS
from official.models.weights.import_checkpoint import classifier_channels, read_weights
from official.models.weights.named_weights import Weights, assign_weights
from official.models.weights.public_weights import weights_file
from official.tasks.registry import build_task
from official.training.distribution import set_up_runtime
from official.training.run_folder import RunFolder


def classify_check(experiment: Experiment) -> dict[str, Any]:
    """Top-1 and top-5 of the weights that --init names, head included, on --eval_data.

    Raises:
      FlagError: no weights or no data; WeightsError: no head in the file; DataError: classes not its own.
    """
    options = experiment.training
    if options.init == "random" or not experiment.data.eval_data:
        raise FlagError(
            "job=classify_check needs --init (weights with their head) and --eval_data=folder:IMAGES"
        )
    set_up_runtime(experiment.runtime)
    folder = RunFolder(experiment)
    backbone = experiment.model.backbone
    path = weights_file(options.init, options.weights_dir, backbone, download=options.download)
    channels = classifier_channels(path)
    source = opened(experiment, "eval", experiment.data.eval_data, label_kind="classes")
    source = _on_channels(source, channels)
    experiment = experiment.with_flags({"task": "classification", "image_size": _image_size(experiment)})
    experiment, model, weights = _filled(experiment, source.categories, path)
    task = build_task(experiment, source.categories)
    metrics = task.evaluate(model, source, os.path.join(folder.path, "classify_check"), "evaluating")
    right, count = round(metrics["top1"] * len(source)), len(source)
    print(
        f"{weights.origin}\n{right:,} of {count:,} images right (top-1 {metrics['top1']:.4f}), top-5"
        f" {metrics['top5']:.4f}; {channels} classes, {experiment.model.image_size} px, pixels on the scale"
        f" {weights.normalization!r}"
    )
    found = {name: metrics[name] for name in task.metrics}
    return folder.summarize({"classify_check": {**found, "images": count, "weights": weights.origin}})


def _image_size(experiment: Experiment) -> int:
    """--image_size, or else the size that the network is published for."""
    if "image_size" in experiment.given:
        return experiment.model.image_size
    member = MEMBERS.get(experiment.model.backbone)
    return member.image_size if member else 224


def _filled(
    experiment: Experiment, categories: Sequence[Category], path: str
) -> tuple[Experiment, tf.keras.Model, Weights]:
    """The experiment with what the weights decide, the classifier with them in it, and the weights."""
    network = build_task(experiment, categories).build_model()
    weights = read_weights(path, network)
    decided = {n: v for n, v in weights.needs().items() if experiment.flags()[n] == "auto"}
    experiment = experiment.with_flags(decided)
    network = build_task(experiment, categories).build_model()
    assign_weights(network, weights)
    return experiment, network, weights


def _on_channels(source: Source, channels: int) -> Source:
    """The source with the head's channels as its classes.

    Raises:
      DataError: nothing says which class is which channel.
    """
    names = [category.name for category in source.categories]
    if len(names) == channels:
        return source
    wnids = imagenet_wnids()
    of_imagenet = channels == len(wnids) and set(names) <= set(wnids)
    known = wnids if of_imagenet else [str(channel) for channel in range(channels)]
    if not set(names) <= set(known):
        raise DataError(
            f"{source.word} has {len(names)} classes ({', '.join(names[:3])} …), the weights' head has "
            f"{channels}: name its channels with --classes=FILE, one a line, or the folders by number (0, 1 "
            "…) or, of ImageNet, by WordNet's (n01440764 …)"
        )
    return source.aligned_to([Category(i, name) for i, name in enumerate(known)])
