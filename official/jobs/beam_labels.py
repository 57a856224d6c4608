"""Labels on Apache Beam: numbers of shards go through a pipeline, whoever gets one writes that shard.

The store is the one that --num_shards fills: the same plan, shards that appear by rename with their checksum,
the manifest at the end. So a bundle that is tried twice writes the same bytes twice, and a start that was
killed goes on with the shards that are missing. Every process has one network, which its threads share; the
data is opened once in each.
"""

from __future__ import annotations

import functools
import shlex
import threading
from typing import Any, Iterator

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from official.experiment import Experiment, experiment_from
from official.jobs.reviewed import unlabeled_pool
from official.self_training.label_store import LabelStore
from official.self_training.labeler import label_shard, plan_of, shard_count
from official.trained_model import describe
from official.training.distribution import set_up_runtime
from official.training.loading import load_model
from official.training.recovery import weights_sha256

_opening = threading.Lock()


class _Opened:
    """Teacher, data and store of one process."""

    def __init__(self, experiment: Experiment, teacher_path: str, folder: str) -> None:
        set_up_runtime(experiment.runtime)
        teacher = describe(teacher_path)
        self.task, self.model = load_model(teacher, experiment)
        self.experiment, self.source = self.task.experiment, unlabeled_pool(experiment)
        self.store = LabelStore(folder)
        self.labelling = threading.Lock()  # TensorFlow shares the cores among its own threads
        sha256 = weights_sha256(self.model.variables)
        # Raises where this process sees other images, weights or flags than the one that began.
        self.store.start(plan_of(self.task, self.source, self.experiment, sha256, teacher.deciding()))


@functools.lru_cache(maxsize=1)
def _opened_once(flags: tuple, given: frozenset, teacher_path: str, folder: str) -> _Opened:
    return _Opened(experiment_from(dict(flags), given), teacher_path, folder)


def _opened(*arguments: Any) -> _Opened:
    with _opening:
        return _opened_once(*arguments)


class LabelShards(beam.DoFn):
    """Number of a shard -> the same, once it is in the store."""

    def __init__(self, *arguments: Any) -> None:
        """Args: those of `_opened`, all of which can be pickled."""
        self.arguments = arguments

    def setup(self) -> None:
        """Loads the network, in a process that has none yet."""
        _opened(*self.arguments)

    def process(self, shard: int) -> Iterator[int]:
        """Labels a shard unless it is there."""
        found = _opened(*self.arguments)
        with found.labelling:
            if not found.store.has_shard(shard):
                label_shard(found.task, found.model, found.source, found.store, found.experiment, shard)
        yield shard


def label_with_beam(experiment: Experiment, teacher_path: str, folder: str) -> dict[str, Any] | None:
    """Labels what is missing of a store by a pipeline with --beam_options; returns the manifest.

    Args:
      folder: of the store, on a disk that all workers see.
    """
    arguments = (tuple(experiment.flags().items()), experiment.given, teacher_path, folder)
    found = _opened(*arguments)
    shards = shard_count(found.source, found.experiment)
    missing = [shard for shard in range(shards) if not found.store.has_shard(shard)]
    if missing:
        options = PipelineOptions(shlex.split(experiment.pseudo_labels.beam_options))
        with beam.Pipeline(options=options) as pipeline:
            numbers = pipeline | "Shards" >> beam.Create(missing) | "Spread" >> beam.Reshuffle()
            _ = numbers | "Label" >> beam.ParDo(LabelShards(*arguments))
    return found.store.finish(shards, dict(found.source.report.counts))
