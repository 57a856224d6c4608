"""The one way from a checkpoint folder to a network: found, described, built from its description, filled.

find_model   a run, a phase or a checkpoint folder -> its description (official/trained_model.py)
load_model   a description -> a task and a network with the weights
fill_model   the same weights into a network that is there (a student's)
"""

from __future__ import annotations

import os

import tensorflow as tf

from official.errors import UserError
from official.experiment import Experiment, Model, Training
from official.files import read_json
from official.models.backbones.efficientnet import is_lite
from official.models.backbones.registry import build_backbone
from official.models.weights.import_checkpoint import read_weights
from official.models.weights.import_efficientnet import check_kind
from official.models.weights.named_weights import Weights, epsilon_of, shapes_of, variable_name
from official.models.weights.public_weights import weights_file
from official.screen import note
from official.tasks.registry import build_task
from official.tasks.task import Task
from official.trained_model import RUN, SIZE, ModelError, TrainedModel, describe
from official.training.recovery import RESULT, find_checkpoint, last_checkpoint, restore_checkpoint
from official.training.weight_average import WeightAverage


def find_model(path: str, flag: str, take: str = "") -> TrainedModel:
    """What `path` means (see `find_checkpoint`); says so if its phase is not finished, or if it was chosen by
    its score.

    Args:
      flag: that named it, for messages; take: see `taken_checkpoint`.

    Raises:
      ValueError: nothing trained there, or nothing finished where a run was named.
    """
    model = describe(find_checkpoint(path, take))
    handed_on = taken_of(model.path)
    if take == "best" or handed_on == "best":
        note(
            f"{flag}: {model.path} is the best of the evaluated checkpoints, chosen on the evaluation data: "
            f"its score there is too good"
        )
    elif not model.finished and not handed_on:
        note(
            f"{flag}: {model.path} is at step {model.step} of {model.steps}; its {model.phase} is not "
            f"finished"
        )
    return model


def taken_of(path: str) -> str:
    """How the checkpoint folder `path` was taken, "last" or "best", if the result of its phase names it; else
    "".
    """
    result = read_json(os.path.join(os.path.dirname(path), os.pardir, RESULT))
    named = os.path.basename(result.get("checkpoint", ""))
    return (
        ("best" if "taken" in result else "last") if named == os.path.basename(os.path.normpath(path)) else ""
    )


def load_model(
    model: TrainedModel, experiment: Experiment, *, resized: bool = False
) -> tuple[Task, tf.keras.Model]:
    """The task and the network that a description tells of, with the weights of its checkpoint.

    Args:
      experiment: what is not the network's own (batch sizes, thresholds, threads).
      resized: for the experiment's --image_size instead of the one that it was trained on.
    """
    own = model.experiment(experiment)
    if resized:
        own = own.with_flags({SIZE: experiment.model.image_size})
    task = build_task(own, model.categories)
    network = task.build_model()
    fill_model(model, network)
    return task, network


def fill_model(model: TrainedModel, network: tf.keras.Model) -> None:
    """Puts a checkpoint's weights into a network: the averaged ones where it keeps an average."""
    if not model.averaged:
        restore_checkpoint(tf.train.Checkpoint(model=network), model.path, partial=True)
        return
    average = WeightAverage(network, 0.5)  # the decay does not matter: it is read and put into the network
    restore_checkpoint(tf.train.Checkpoint(weight_average=average), model.path, partial=True)
    average.put_into(network)


def fill_joint_head(model: TrainedModel, joint_network: tf.keras.Model) -> None:
    """Puts the classification head of joint training into a network; its backbone gets weights that are not
    averaged.
    """
    restore_checkpoint(tf.train.Checkpoint(joint_model=joint_network), model.path, partial=True)


# --- backbones for --init -------------------------------------------------------------------------


def is_run(path: str) -> bool:
    """Whether `path` is a run folder of this project, one of its phases, or a checkpoint of one."""
    return os.path.isfile(os.path.join(path, RUN)) or bool(last_checkpoint(path))


def starting_weights(
    init: str, options: Training, model_options: Model, backbone: tf.keras.Model | None = None
) -> Weights:
    """The backbone weights that --init names: of a finished run, or of a file
    (`import_checkpoint.read_weights`).

    Args:
      options: where named weights are looked for, and whether they may be fetched.
      backbone: names the variables that are wanted; by default one that `model_options` describe.

    Raises:
      ValueError: absent, not finished, damaged, or of a kind that is not known.
    """
    backbone = backbone or build_backbone(model_options)
    if not is_run(init):
        name = model_options.backbone
        return read_weights(
            weights_file(init, options.weights_dir, name, download=options.download), backbone
        )
    model = _finished(init)
    network = load_model(model, Experiment())[1].backbone
    found, wanted = {variable_name(v): v.numpy() for v in network.variables}, shapes_of(backbone)
    check_kind(f"run {init}", is_lite(model.flags["backbone"]), wanted)
    return Weights(
        values={name: value for name, value in found.items() if name in wanted},
        origin=(
            f"run {init} ({model.flags['task']}, {model.flags['backbone']}, {model.phase} at step "
            f"{model.step})"
        ),
        unused=tuple(sorted(set(found) - set(wanted))),
        normalization=model.flags["input_normalization"],
        epsilon=epsilon_of(network),
        pool=model.flags["resnet_pool"],
    )


def _finished(run: str) -> TrainedModel:
    try:
        return describe(find_checkpoint(run))
    except ModelError:
        raise
    except UserError as error:
        raise ModelError(f"--init={run}: {error}") from error
