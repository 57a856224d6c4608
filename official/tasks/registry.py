"""Tasks by their name on the command line, and by the network that is one's own."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

import tensorflow as tf

from official import catalog
from official.data.source import Category
from official.errors import FlagError
from official.experiment import Experiment
from official.tasks.task import Task

TASKS: dict[str, type[Task]] = {name: catalog.load(place) for name, place in catalog.TASKS.items()}


def task_class(name: str) -> type[Task]:
    """The task that `--task` names.

    Raises:
      FlagError: no such task.
    """
    if name not in TASKS:
        raise FlagError(f"--task={name} is unknown; the tasks are {', '.join(TASKS)}")
    return TASKS[name]


def build_task(experiment: Experiment, categories: Sequence[Category]) -> Task:
    """The task that `--task` names, with its classes.

    Raises:
      FlagError: no such task.
    """
    return task_class(experiment.model.task)(experiment, tuple(categories))


def paper_categories(task: str) -> tuple[Category, ...]:
    """As many classes as the paper's networks of a task have."""
    return tuple(Category(i, str(i)) for i in range(task_class(task).paper_classes))


def task_of(
    network: tf.keras.Model, options: Mapping[str, Any], classes: int | Sequence[str | Category]
) -> tuple[str, dict[str, Any], int | Sequence[str | Category]]:
    """(name of the task, options with those that the network decides, classes) of a network that was built
    already.

    Raises:
      ValueError: it is no task's, it decides one of the options, or it has another number of classes.
    """
    found = [task for task in TASKS.values() if isinstance(network, task.network)]
    if not found:
        kinds = [task.network.__name__ for task in TASKS.values()]
        raise ValueError(f"{type(network).__name__} is no network of a task; those are {kinds}")
    flags = Experiment().flags()
    decided = {
        name: value for name, value in network.arguments().items() if name in flags and name != "backbone"
    }
    both = sorted(name for name in options if name in decided and options[name] != decided[name])
    if both:
        raise ValueError(f"the network decides {both}: give the options to {type(network).__name__}")
    count = classes if isinstance(classes, int) else len(classes)
    if count and count != network.num_classes:
        raise ValueError(f"{count} classes, but the network has {network.num_classes}")
    return found[0].name, {**options, **decided}, classes or network.num_classes
