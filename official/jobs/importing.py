"""The job import_checkpoint: others' weights become a file for --init, a released network a finished run."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import tensorflow as tf

from official.data.source import DataError
from official.experiment import Experiment
from official.jobs.class_names import named_classes
from official.jobs.settling import settled
from official.models.backbones.registry import build_backbone
from official.models.weights.import_checkpoint import class_channels, read_network
from official.models.weights.named_weights import (
    LICENCE_NOTE,
    Weights,
    assign_weights,
    differences,
    write_weights,
)
from official.tasks.registry import build_task, task_class
from official.trained_model import described
from official.training.distribution import set_up_runtime
from official.training.loading import starting_weights
from official.training.recovery import IMPORTED, Checkpoints
from official.training.run_folder import RunFolder


def import_checkpoint(experiment: Experiment) -> dict[str, Any]:
    """Turns others' backbone weights (--checkpoint) into a weight file (--output), and says what went where.

    Without --output, a whole network of the original detection stack becomes a finished run in --model_dir.
    """
    serving = experiment.serving
    if not serving.checkpoint or (serving.output and not serving.output.endswith(".npz")):
        raise DataError(
            "job=import_checkpoint needs --checkpoint=FILE, and --output=FILE.npz or, for a whole "
            "network, none"
        )
    return _import_backbone(experiment) if serving.output else _import_network(experiment)


def _import_backbone(experiment: Experiment) -> dict[str, Any]:
    folder, output = RunFolder(experiment), experiment.serving.output
    weights = starting_weights(experiment.serving.checkpoint, experiment.training, experiment.model)
    backbone = build_backbone(dataclasses.replace(experiment.model, **weights.needs()))
    count = assign_weights(backbone, weights)
    write_weights(output, weights)
    _print_variables(backbone)
    print(
        f"{count} variables of {experiment.model.backbone} from {weights.origin} -> {output}\n"
        f"not used: {', '.join(weights.unused) or 'nothing'}\npixels on the scale {weights.normalization!r}, "
        f"batch norm epsilon {weights.epsilon:g}\nfingerprint {weights.fingerprint()}\n{LICENCE_NOTE}"
    )
    for note in differences(backbone, weights):
        print(note)
    content = {**_content(weights, count), "normalization": weights.normalization}
    return folder.summarize({"imported": content, "output": output})


def _import_network(experiment: Experiment) -> dict[str, Any]:
    """A released detector or segmenter as a run that evaluate, predict, export and pseudo_label take."""
    path, task_name = experiment.serving.checkpoint, experiment.model.task
    network = task_class(task_name).released_network
    if not network:
        raise DataError(
            f"a whole network is a detector or a segmenter, not --task={task_name}; give --output=FILE.npz"
        )
    channels = class_channels(path, network)
    categories, names_note = named_classes(network, channels, experiment.serving.classes)
    experiment, flags_note = _as_trained(experiment)
    experiment = settled(experiment)
    set_up_runtime(experiment.runtime)
    folder = RunFolder(experiment)
    model = build_task(experiment, categories).build_model()
    weights = read_network(path, model, [category.id for category in categories])
    content = {
        **_content(weights, assign_weights(model, weights)),
        "channels": channels,
        "classes": len(categories),
    }
    folder.claim()
    folder.note_categories(categories)
    known = described(experiment, categories, phase=IMPORTED, step=1, steps=1, averaged=False, origin=content)
    keeper = Checkpoints(os.path.join(folder.path, IMPORTED, "checkpoints"), {"model": model})
    checkpoint = keeper.save(1, description=known.to_json())
    _print_variables(model)
    print(
        f"{content['variables']} variables from {weights.origin}\n"
        f"not used: {', '.join(weights.unused) or 'nothing'}\nbatch norm epsilon: as the flags say\n"
        f"{names_note}\n{flags_note}\ncheckpoint {checkpoint}\n{LICENCE_NOTE}"
    )
    return folder.summarize({"imported": content, "checkpoint": checkpoint})


def _as_trained(experiment: Experiment) -> tuple[Experiment, str]:
    """With the flags of the network's own stack, but for those that were given; and what to say of it."""
    own = task_class(experiment.model.task).original_flags
    quirks = {flag: text for flag, text in own.items() if flag not in experiment.given}
    of_the_job = {"checkpoint": "", "classes": ""}  # and not of the run that it makes
    done = experiment.with_flags({**dict.fromkeys(quirks, True), **of_the_job})
    if not quirks:
        return done, "resizes and decodes as the flags say"
    flags = " ".join(f"--{flag}" for flag in quirks)
    what = " and ".join(quirks.values())
    return done, f"{what}, as this network was trained and scored: this run has the flags {flags} now"


def _content(weights: Weights, variables: int) -> dict[str, Any]:
    return {
        "origin": weights.origin,
        "variables": variables,
        "unused": list(weights.unused),
        "sha256": weights.fingerprint(),
    }


def _print_variables(model: tf.keras.Model) -> None:
    for variable in model.variables:
        print(f"{variable.name:<48} {tuple(variable.shape)}")
