"""What is known before a training job begins: its data opened, its plan, what is missing, and with
--recipe=auto its flags.
"""

from __future__ import annotations

import dataclasses
import math
import os
from typing import Any

import numpy as np

from official.data.source import Source
from official.errors import FlagError, UserError
from official.experiment import Experiment
from official.jobs.checks import check_flags
from official.jobs.data_checks import anchor_flags, quick_checks, sampled_boxes
from official.jobs.opening import open_eval, open_joint, open_training, open_unlabeled
from official.jobs.recipe import SIZES, Facts, gigabytes_per_image, lines, recipe
from official.jobs.reviewed import with_reviewed
from official.jobs.settling import settled
from official.models.anchor_fit import AS_GOOD, GOOD_RECALL, SCALES, WORTHWHILE, possible_recall
from official.models.backbones.efficientnet import MEMBERS
from official.models.statistics import model_statistics
from official.models.weights.public_weights import is_here
from official.screen import note
from official.tasks.registry import build_task, paper_categories, task_class
from official.training.machine import Machine, machine_of
from official.training.memory import images_in_memory, too_large
from official.training.phases import CONTROL, LABELS, STUDENT, TEACHER
from official.training.run_folder import saved_recipe
from official.training.run_phase import read_result
from official.training.run_plan import RunPlan

FEW_LABELED, FEW_EVALUATED, FEW_UNLABELED = 20, 50, 1.0  # images; unlabelled ones for each labelled one
RECALL_BOXES = 2_000
EVAL_FRACTION = 0.2  # that a recipe holds out where there is no evaluation data


@dataclasses.dataclass(frozen=True)
class Opened:
    """The data of a training job; None for what it does not have.

    Attributes:
      labeled, unlabeled, evaluation, joint: what is trained on, labelled, evaluated on, and classified
        beside.
      held_out: the part of the labelled data that --eval_fraction took for `evaluation`.
    """

    labeled: Source
    unlabeled: Source | None
    evaluation: Source | None
    joint: Source | None
    held_out: Source | None

    def counts(self) -> dict[str, int]:
        """Images by role."""
        roles = {
            "labeled": self.labeled,
            "unlabeled": self.unlabeled,
            "eval": self.evaluation,
            "joint": self.joint,
        }
        return {role: len(source) for role, source in roles.items() if source is not None}


def open_all(experiment: Experiment, *, unlabeled: bool) -> Opened:
    """Opens what a training job reads; see official/jobs/opening.py for what is raised."""
    labeled, rest, held_out = open_training(experiment)
    task = build_task(experiment, labeled.categories)
    joint = open_joint(experiment)
    pool = open_unlabeled(experiment, rest) if unlabeled else None
    evaluation = open_eval(experiment, task, held_out)
    labeled, pool = with_reviewed(experiment, labeled, pool)
    return Opened(labeled, pool, evaluation, joint, held_out)


# --- the plan ---------------------------------------------------------------------------------------


def run_plan(experiment: Experiment, data: Opened | None) -> RunPlan:
    """The plan of a training job; data that is not here: without its numbers."""
    run = experiment.runtime.model_dir
    done = [name for name in (TEACHER, STUDENT, CONTROL) if run and read_result(os.path.join(run, name))]
    return RunPlan(
        experiment, data.counts() if data else {}, done=[*done, LABELS] if STUDENT in done else done
    )


def plan_text(plan: RunPlan, experiment: Experiment, machine: Machine, data: Opened | None) -> str:
    """The plan, on which machine, when the time will be known, and what is missing."""
    lines = [f"plan, on {machine}:", *plan.lines()]
    if any(part.steps and part.name not in plan.done for part in plan.parts):
        lines.append(
            "  before the first step of a phase its graph is built; twenty steps later the time of the phase "
            "and of the run is told"
        )
    lines += [
        f"missing: {line}"
        for line in [*memory_words(experiment, machine), *(missing(experiment, data) if data else [])]
    ]
    return "\n".join(lines)


def memory_words(experiment: Experiment, machine: Machine) -> list[str]:
    """What to do where a step is likely not to fit on a GPU; a rough estimate, of EfficientNets alone."""
    name = experiment.model.backbone
    if not machine.gpus or name not in MEMBERS:
        return []
    each = gigabytes_per_image(
        name, experiment.model.image_size, 4 if experiment.runtime.precision == "float32" else 2
    )
    held = images_in_memory(experiment, _streams(experiment), 1.0 / machine.gpus)
    if held * each <= machine.gpu_memory:
        return []
    fitting = max(1, int(0.9 * machine.gpu_memory / each))
    parts = experiment.training.accumulate * 2 ** math.ceil(math.log2(held / fitting))
    return [
        f"memory: {held:g} images on a GPU need about {held * each:.0f} GB of its {machine.gpu_memory}; "
        f"about {fitting} fit: --accumulate={parts}, which passes a batch in parts, or a smaller "
        "--batch_size and --pseudo_batch_size (and --learning_rate in proportion)"
    ]


def _streams(experiment: Experiment) -> dict[str, int]:
    options, whole = experiment.training, experiment.runtime.job == "self_train"
    return {"human": options.batch_size} | ({"pseudo": options.pseudo_batch_size} if whole else {})


def missing(experiment: Experiment, data: Opened) -> list[str]:
    """What a run lacks to be worth its time, each with what to do about it."""
    found: list[str] = []
    options = experiment.training
    if not task_class(experiment.model.task).needs_labels:
        return found
    if data.evaluation is None:
        found.append(
            "evaluation data: nothing will say how good the result is; --eval_fraction=0.2 holds out a fifth "
            "of the labelled images"
        )
    elif len(data.evaluation) < FEW_EVALUATED:
        found.append(
            f"evaluation images: there are {len(data.evaluation)}, on which a small difference cannot be "
            f"told from chance"
        )
    if len(data.labeled) < FEW_LABELED:
        found.append(
            f"labels: {len(data.labeled)} labelled images teach very little; --job=review_labels chooses "
            f"which to label next"
        )
    if data.unlabeled is not None and len(data.unlabeled) < FEW_UNLABELED * len(data.labeled):
        found.append(
            f"unlabelled images: {len(data.unlabeled)} beside {len(data.labeled)} labelled ones add little"
        )
    if data.unlabeled is not None and not options.control:
        found.append("a control: nothing will say whether the pseudo labels helped; --control trains it")
    if (
        options.init == "random"
        and not (options.init_checkpoint or options.teacher)
        and len(data.labeled) < 2000
    ):
        found.append(
            f"weights to start from: {len(data.labeled)} images teach a random network little; "
            f"--init=imagenet"
        )
    return found


# --- a rehearsal ------------------------------------------------------------------------------------


def rehearse(experiment: Experiment) -> dict[str, Any]:
    """--dry_run of a training job: checks the flags, opens the data, prints what would be done; writes and
    trains nothing.

    What is not on this machine, data or weights, is said, and the plan made without it: it may be for another
    machine.
    """
    options, machine = experiment.runtime, machine_of(experiment.runtime.machine)
    whole, absent = options.job == "self_train", []
    prepared = with_recipe(experiment, unlabeled=whole, keep_lists=False)
    experiment, data = prepared.experiment, prepared.data
    check_flags(experiment)
    check_shares(experiment, machine)
    try:
        settled(experiment)
    except UserError as error:
        absent.append(str(error))
    if data is None:
        try:
            data = open_all(without_folder(experiment), unlabeled=whole)
        except UserError as error:
            absent.append(str(error))
    plan = run_plan(experiment, data)
    if data:
        roles = {"labeled": data.labeled, "unlabeled": data.unlabeled, "eval": data.evaluation}
        for line in quick_checks(experiment, roles):
            note(f"WARNING: {line}")
    print(plan_text(plan, experiment, machine, data))
    build = build_task(experiment, paper_categories(experiment.model.task)).build_model
    words = too_large(experiment, build, images_in_memory(experiment, _streams(experiment)), machine)
    if words:
        print(f"missing: memory: {words}")
    for line in absent:
        print(f"not here: {line}")
    hours = _hours(plan, experiment, machine, data)
    return {"parts": [dataclasses.asdict(part) for part in plan.parts], "hours": hours, "absent": absent}


def without_folder(experiment: Experiment) -> Experiment:
    """The experiment without a run folder, so that no list of what was skipped is written to it."""
    return experiment.with_flags({"model_dir": ""})


def check_shares(experiment: Experiment, machine: Machine) -> None:
    """Raises FlagError where the GPUs of the machine that is planned for cannot share a batch evenly."""
    devices, flags = max(1, experiment.runtime.num_devices or machine.gpus), experiment.flags()
    for name in ("batch_size", "pseudo_batch_size", "teacher_batch_size"):
        if flags[name] % devices:
            raise FlagError(
                f"--{name}={flags[name]}: choose a multiple of {devices}, the number of devices that share it"
            )


def _hours(plan: RunPlan, experiment: Experiment, machine: Machine, data: Opened | None) -> dict[str, float]:
    teraflops, devices = experiment.serving.teraflops, max(1, machine.gpus)
    if not teraflops:
        return {}
    categories = (
        data.labeled.categories
        if data and data.labeled.categories
        else paper_categories(experiment.model.task)
    )
    model = build_task(experiment, categories).build_model()
    found = plan.accelerator_hours(
        model_statistics(model, experiment.model.image_size)["multiply_adds"], teraflops, devices
    )
    each = ", ".join(f"{name} {hours:,.1f}" for name, hours in found.items())
    print(
        f"at {teraflops:g} teraflops on each of {devices} devices: at least {sum(found.values()):,.1f} hours "
        f"({each})"
    )
    return found


# --- the recipe -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Prepared:
    """An experiment as it will be run.

    Attributes:
      experiment: with the flags of --recipe=auto, if that was asked for.
      data: that had to be opened for it; None: not yet.
      chosen, lines: the flags that were chosen now, and the flagfile that they stand for; empty if none were.
    """

    experiment: Experiment
    data: Opened | None = None
    chosen: dict[str, Any] = dataclasses.field(default_factory=dict)
    lines: tuple[str, ...] = ()


def with_recipe(experiment: Experiment, *, unlabeled: bool, keep_lists: bool = True) -> Prepared:
    """The experiment with the flags of --recipe=auto, and the data that was opened for it; as it is without
    that flag.

    A run that has begun keeps what was chosen for it, on whatever machine it goes on.

    Raises:
      FlagError: a task without a recipe, or a machine that is not described; UserError: data that cannot be
        opened.
    """
    if experiment.runtime.recipe == "none":
        return Prepared(experiment)
    saved = saved_recipe(experiment.runtime.model_dir)
    if saved:
        return Prepared(experiment.with_flags(_open_flags(experiment, saved)))
    machine = machine_of(experiment.runtime.machine)
    held = (
        {}
        if experiment.data.eval_data or "eval_fraction" in experiment.given
        else {"eval_fraction": EVAL_FRACTION}
    )
    experiment = experiment.with_flags(held)
    data = open_all(experiment if keep_lists else without_folder(experiment), unlabeled=unlabeled)
    facts = facts_of(experiment, data)
    choices = recipe(experiment.model.task, machine, facts)
    given = {name: value for name, value in experiment.flags().items() if name in experiment.given}
    text = lines(choices, given, machine, facts)
    text += (
        ["# no --eval_data: so much of the labelled images is held out", f"--eval_fraction={EVAL_FRACTION}"]
        if held
        else []
    )
    note("\n".join(text))
    chosen = _open_flags(experiment, {**{choice.flag: choice.value for choice in choices}, **held})
    return Prepared(experiment.with_flags(chosen), data, chosen, tuple(text))


def _open_flags(experiment: Experiment, chosen: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in chosen.items() if name not in experiment.given}


def facts_of(experiment: Experiment, data: Opened) -> Facts:
    """What a recipe is made from."""
    side = int(np.median(data.labeled.sizes.max(axis=1)))
    recall: dict[int, float] = {}
    scales: dict[int, float] = {}
    if data.labeled.annotations is not None:
        boxes, sizes = sampled_boxes(data.labeled, RECALL_BOXES)
        for size in SIZES if len(boxes) else ():
            scale, recall[size] = _best_scale(experiment, boxes, sizes, size)
            scales |= {} if scale == experiment.model.anchor_scale else {size: scale}
    unlabeled = len(data.unlabeled) if data.unlabeled is not None else 0
    options = experiment.training
    weights = frozenset(
        name for name in MEMBERS if options.download or is_here("imagenet", options.weights_dir, name)
    )
    return Facts(len(data.labeled), unlabeled, len(data.labeled.categories), side, recall, scales, weights)


def _best_scale(
    experiment: Experiment, boxes: np.ndarray, sizes: np.ndarray, size: int
) -> tuple[float, float]:
    """The --anchor_scale for an input size, and the share of boxes that have a good anchor with it.

    That of the flags, unless another one is worth it; of those that are as good the nearest to it.
    """
    flags, iou = dataclasses.replace(anchor_flags(experiment), image_size=size), experiment.loss.match_iou
    there = round(possible_recall(boxes, sizes, flags, iou), 4)
    if there >= GOOD_RECALL or "anchor_scale" in experiment.given:
        return flags.anchor_scale, there
    near = sorted(SCALES, key=lambda scale: abs(np.log(scale / flags.anchor_scale)))
    tried = {
        scale: round(possible_recall(boxes, sizes, dataclasses.replace(flags, anchor_scale=scale), iou), 4)
        for scale in near
    }
    best = next(scale for scale in near if tried[scale] >= max(tried.values()) - AS_GOOD)
    return (best, tried[best]) if tried[best] >= there + WORTHWHILE else (flags.anchor_scale, there)
