"""A trained network with all that belongs to it: `model.json`, written with every checkpoint, checked here.

Weights alone do not say what they compute: the same numbers with another anchor size, another activation or
another scale of the pixels are another detector. So every checkpoint folder holds a description (it appears
in the same rename as the weights), and whoever uses a network builds it from its description, never from
the flags of the run at hand (official/training/loading.py). Flags that were given and contradict the
description are refused with a table of the differences; flags that were not given are taken from it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from typing import Any, Mapping, Sequence

from official import __version__
from official.data.source import Category
from official.errors import UserError
from official.experiment import Experiment, Model, experiment_from
from official.files import read_json
from official.models.backbones.registry import family_of
from official.screen import note

DESCRIPTION = "model.json"
RUN = "run.json"
FORMAT_VERSION = 1

# Of the network's flags, those that matter in training alone: another value is the same function.
TRAINING_ONLY = frozenset(
    (
        "survival_probability",
        "batch_norm_momentum",
        "backbone_batch_norm_momentum",
        "zero_last_gamma",
        "dropout",
    )
)
NETWORK = (*(field.name for field in dataclasses.fields(Model)), "legacy_resize")
# A convolutional network takes any size; a size that is given is a wish, not a contradiction.
SIZE = "image_size"
DECIDING = tuple(name for name in NETWORK if name not in TRAINING_ONLY and name != SIZE)
BACKBONE = ("backbone", "backbone_width", "backbone_depth")
# From images to inputs and from outputs to boxes: what the network was evaluated with; a flag that is given
# replaces it.
DECODING = (
    "crop_style",
    "legacy_decoding",
    "nms_iou",
    "soft_nms_sigma",
    "max_detections",
    "pre_nms_top_k",
    "eval_score_threshold",
)


class ModelError(UserError):
    """A trained network that cannot be used, or not as asked."""


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """What belongs to the weights in one checkpoint folder.

    Attributes:
      flags: the network's (`NETWORK`) and its decoding (`DECODING`), by name.
      categories: in the order of the class indices.
      averaged: whether the checkpoint keeps averaged weights; they are the ones to use.
      phase, step, steps: which phase wrote it, after how many steps of how many.
      total_steps: all the steps that made it, those of the teachers before it included; 0: not known.
      joint_classes: names of the classes of the joint head, empty without one.
      origin: what it started from ("init", "init_checkpoint", "teacher"), or where it was imported from.
      project_version: that wrote it.
      path: the checkpoint folder; "" for one that is not on disk.
    """

    flags: dict[str, Any]
    categories: tuple[Category, ...]
    averaged: bool
    phase: str
    step: int
    steps: int
    total_steps: int = 0
    joint_classes: tuple[str, ...] = ()
    origin: dict[str, Any] = dataclasses.field(default_factory=dict)
    project_version: str = __version__
    path: str = ""

    @property
    def finished(self) -> bool:
        """Whether its phase has taken all its steps."""
        return self.step >= self.steps

    def class_names(self) -> list[str]:
        """In the order of the class indices."""
        return [category.name for category in self.categories]

    def to_json(self) -> dict[str, Any]:
        """The content of `model.json`."""
        # Lists in place of tuples, as it will be read.
        content = json.loads(json.dumps(dataclasses.asdict(self)))
        del content["path"]
        return {"format_version": FORMAT_VERSION, **content, "finished": self.finished}

    def deciding(self) -> dict[str, Any]:
        """What decides the outputs of given weights, by flag."""
        return {**{name: self.flags[name] for name in (*DECIDING, SIZE)}, "averaged": self.averaged}

    def fingerprint(self) -> str:
        """Sixteen hex digits over that and the classes."""
        text = json.dumps([self.deciding(), self.class_names()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def experiment(self, current: Experiment) -> Experiment:
        """A run's experiment with this network in place of its own; decoding flags that it was given stay."""
        own = {n: v for n, v in self.flags.items() if n in NETWORK or n not in current.given}
        return current.with_flags(own)


def described(
    experiment: Experiment,
    categories: Sequence[Category],
    *,
    phase: str,
    step: int,
    steps: int,
    averaged: bool,
    **more: Any,
) -> TrainedModel:
    """The description of a network that `experiment` trains; `more` as the attributes."""
    flags = experiment.flags()
    flags = as_built({name: flags[name] for name in (*NETWORK, *DECODING)})
    return TrainedModel(flags, tuple(categories), averaged, phase, step, steps, **more)


def as_built(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Flags with what a network is built with in place of what is left to the weights."""
    own = {"input_normalization": family_of(flags["backbone"]).scale, "resnet_pool": "same"}
    return {**flags, **{name: value for name, value in own.items() if flags[name] == "auto"}}


# --- reading --------------------------------------------------------------------------------------


def describe(path: str) -> TrainedModel:
    """What the checkpoint folder `path` holds.

    A checkpoint of an earlier version has no description; what belongs to it is then read from the `run.json`
    of its run, and said.

    Raises:
      ModelError: neither is there, or it cannot be read.
    """
    content = read_json(os.path.join(path, DESCRIPTION))
    if not content:
        return _from_run(path)
    try:
        return _from_json(content, path)
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{os.path.join(path, DESCRIPTION)} is damaged ({type(error).__name__}: {error})"
        ) from error


def _from_json(content: Mapping[str, Any], path: str) -> TrainedModel:
    if content["format_version"] > FORMAT_VERSION:
        version = content["project_version"]
        raise ModelError(f"{path} was written by version {version}; this is {__version__}: use that one")
    fields = {field.name for field in dataclasses.fields(TrainedModel)} & set(content)
    values = {name: content[name] for name in fields}
    values["flags"] = _known_flags(content["flags"], path)
    values["categories"] = _categories(content["categories"])
    values["joint_classes"] = tuple(content.get("joint_classes", ()))
    return TrainedModel(**values, path=path)


def _known_flags(saved: Mapping[str, Any], path: str) -> dict[str, Any]:
    """The network's flags; those that a later version added mean their default.

    Raises:
      ModelError: a flag that this version lacks, or a value of another type.
    """
    known = Experiment().flags()
    strange = sorted(set(saved) - set(known))
    if strange:
        raise ModelError(
            f"{path} was made with {strange}, which version {__version__} does not know: use a newer one"
        )
    for name, value in saved.items():
        if any(isinstance(value, kind) != isinstance(known[name], kind) for kind in (bool, str)):
            raise ModelError(f"{path}: {name}={value!r} in its {DESCRIPTION} is no value of --{name}")
    return as_built({name: saved.get(name, known[name]) for name in (*NETWORK, *DECODING)})


def _categories(saved: Sequence[Mapping[str, Any]]) -> tuple[Category, ...]:
    return tuple(Category(int(c["id"]), str(c["name"])) for c in saved)


def _from_run(path: str) -> TrainedModel:
    phase_folder = os.path.dirname(os.path.dirname(os.path.abspath(path)))
    run = read_json(os.path.join(os.path.dirname(phase_folder), RUN))
    if "categories" not in run:
        raise ModelError(
            f"{path} does not say which network its weights belong to: it has no {DESCRIPTION}, and no run "
            f"folder "
            f"is around it. Put it back where it was trained, <run folder>/<phase>/checkpoints/step_…"
        )
    known = set(Experiment().flags())
    experiment = experiment_from({name: value for name, value in run["flags"].items() if name in known})
    phase = os.path.basename(phase_folder)
    step = int(os.path.basename(os.path.abspath(path)).removeprefix("step_"))
    ended = step if phase == "imported" else step + 1
    steps = read_json(os.path.join(phase_folder, "result.json")).get("steps", ended)
    note(f"{path} is of an earlier version: what belongs to it is taken from the {RUN} of its run")
    return described(
        experiment,
        _categories(run["categories"]),
        phase=phase,
        step=step,
        steps=steps,
        averaged=_keeps_average(path),
        total_steps=_earlier_total(experiment, phase, step),
        project_version="before 1.0",
        path=path,
    )


def _keeps_average(path: str) -> bool:
    import tensorflow as tf

    names = tf.train.load_checkpoint(os.path.join(path, "state")).get_variable_to_shape_map()
    return any(name.startswith("weight_average/") for name in names)


def _earlier_total(experiment: Experiment, phase: str, step: int) -> int:
    options = experiment.training
    if phase == "imported" or (phase == "student" and options.teacher):
        return 0
    return step + (options.teacher_steps if phase == "student" else 0)


# --- flags and descriptions -----------------------------------------------------------------------

# Values that leave it to the weights.
_OPEN = (("input_normalization", "auto"), ("resnet_pool", "auto"))


def adopted(
    experiment: Experiment,
    model: TrainedModel,
    *,
    because: str,
    names: Sequence[str] = DECIDING,
    remedy: str = "",
) -> Experiment:
    """The experiment with the network's flags `names` (and decoding) taken from a description where none was
    given.

    Args:
      because: which flag named the model, for messages, such as "--teacher=runs/a".
      remedy: what to do where flags contradict, besides leaving them out.

    Raises:
      ModelError: a flag was given and has another value there; shows all of them.
    """
    now = experiment.flags()
    loose = (*DECODING, SIZE) if names is DECIDING else ()
    free = {n for n in (*names, *loose) if n not in experiment.given or (n, now[n]) in _OPEN}
    contradicted = [n for n in names if n not in free and now[n] != model.flags[n]]
    if contradicted:
        rows = "".join(f"\n  --{n}: {model.flags[n]!r} there, {now[n]!r} given" for n in contradicted)
        raise ModelError(
            f"{because} is another network than the flags describe:{rows}\nLeave these flags out{remedy}."
        )
    taken = {n: model.flags[n] for n in free if now[n] != model.flags[n]}
    shown = {n: v for n, v in taken.items() if (n, now[n]) not in _OPEN}
    if shown:
        note(f"from {because}: " + " ".join(f"--{n}={v}" for n, v in sorted(shown.items())))
    return experiment.with_flags(taken)


def check_classes(model: TrainedModel, categories: Sequence[Category], because: str) -> None:
    """Raises ModelError, with the differences, unless the classes have the same names in the same order."""
    difference = class_difference(model.categories, categories)
    if [c.name for c in model.categories] != [c.name for c in categories]:
        raise ModelError(f"{because} knows other classes than the labelled data:\n{difference}")


def class_difference(there: Sequence[Category], now: Sequence[Category]) -> str:
    """A line per class index that differs."""
    lines = []
    for i in range(max(len(there), len(now))):
        a, b = (f"{c[i].name!r} (id {c[i].id})" if i < len(c) else "nothing" for c in (there, now))
        if a != b:
            lines.append(f"  class {i}: {a} there, {b} now")
    return "\n".join(lines[:20] + ([f"  … and {len(lines) - 20} more"] if len(lines) > 20 else []))
