"""Settles what a run's starting weights decide, before anything is claimed: network, scale of the pixels,
first weights.
"""

from __future__ import annotations

from typing import Any, Mapping

from official.experiment import Experiment
from official.trained_model import BACKBONE, DECIDING, DECODING, TrainedModel, adopted, as_built
from official.training.loading import find_model, is_run, starting_weights
from official.training.phases import begun_phases
from official.training.run_folder import saved_flags

_SETTLED = (*DECIDING, *DECODING, "image_size", "init", "init_checkpoint")


def settled(experiment: Experiment) -> Experiment:
    """The experiment with what its starting weights decide: network flags that were not given, the scale of
    the pixels.

    --teacher decides the network of a student that starts from it, and what the control starts from;
    --init_checkpoint the whole network; --init=RUN the size of the backbone. A run folder that has begun has
    settled it already.

    Raises:
      ValueError: nothing trained there, or another network than the flags that were given describe.
    """
    options = experiment.training
    saved = saved_flags(experiment.runtime.model_dir)
    foreign = options.teacher or options.init_checkpoint or is_run(options.init)
    if saved and foreign and begun_phases(experiment.runtime.model_dir):
        return experiment.with_flags({n: saved[n] for n in _SETTLED if n in saved and _open(experiment, n)})
    if options.teacher:
        experiment = _settled_by_teacher(experiment, find_model(options.teacher, "--teacher"))
    if options.init_checkpoint:
        model = find_model(options.init_checkpoint, "--init_checkpoint")
        experiment = adopted(experiment, model, because=f"--init_checkpoint={options.init_checkpoint}")
    elif is_run(options.init):
        model = find_model(options.init, "--init")
        experiment = adopted(experiment, model, because=f"--init={options.init}", names=BACKBONE)
    return _with_needs(experiment, saved)


def _open(experiment: Experiment, name: str) -> bool:
    return name not in experiment.given or experiment.flags()[name] == "auto"


def _settled_by_teacher(experiment: Experiment, teacher: TrainedModel) -> Experiment:
    options = experiment.training
    if options.student_init == "teacher":
        remedy = ", or start the student elsewhere (--student_init=scratch)"
        experiment = adopted(experiment, teacher, because=f"--teacher={options.teacher}", remedy=remedy)
    same: dict[str, Any] = {
        n: teacher.origin[n]
        for n in ("init", "init_checkpoint")
        if _open(experiment, n) and n in teacher.origin
    }
    return experiment.with_flags(same if options.control else {})


def _with_needs(experiment: Experiment, saved: Mapping[str, Any]) -> Experiment:
    """With the scale of the pixels and the padding that the starting weights want, where a flag leaves it
    open.
    """
    flags, options = experiment.flags(), experiment.training
    needs = {
        name: saved.get(name, "auto")
        for name in ("input_normalization", "resnet_pool")
        if flags[name] == "auto"
    }
    if "auto" in needs.values():
        found = as_built(flags)
        if options.init != "random" and not options.init_checkpoint:
            found = starting_weights(options.init, options, experiment.model).needs()
        needs = {name: found[name] if value == "auto" else value for name, value in needs.items()}
    return experiment.with_flags(needs)
