"""Tasks by their name on the command line."""

from __future__ import annotations

from typing import Sequence

from official.data.source import Category
from official.experiment import Experiment
from official.tasks.classification import ClassificationTask
from official.tasks.contrastive import ContrastiveTask
from official.tasks.detection import DetectionTask
from official.tasks.segmentation import SegmentationTask
from official.tasks.task import Task

TASKS = {task.name: task for task in (DetectionTask, SegmentationTask, ClassificationTask, ContrastiveTask)}


def build_task(experiment: Experiment, categories: Sequence[Category]) -> Task:
    """The task that `--task` names."""
    return TASKS[experiment.model.task](experiment, tuple(categories))
