"""Labels that people have corrected join the human ones, and their images leave the unlabelled ones."""

from __future__ import annotations

import numpy as np

from official.data.joined import join_sources
from official.data.source import DataError, Source
from official.experiment import Experiment
from official.jobs.opening import open_labeled, open_unlabeled, opened
from official.screen import note
from official.self_training.review import places_in, review_changes


def with_reviewed(
    experiment: Experiment, labeled: Source, pool: Source | None
) -> tuple[Source, Source | None]:
    """The labelled images with those of --reviewed, and the unlabelled ones (None: not opened) without them.

    An image without a box is a negative one, whoever emptied it; one that nobody changed counts as labelled
    by a person.

    Raises:
      DataError: see `open_source`; other classes; no unlabelled image is left.
    """
    if not experiment.data.reviewed:
        return labeled, pool
    reviewed = _opened(experiment, labeled)
    joined = join_sources(labeled.word, [labeled, reviewed])
    left = pool and _without(pool, reviewed)
    of_pool = f", {len(pool) - len(left)} of them were unlabelled ones" if pool and left is not None else ""
    note(f"reviewed: {len(reviewed)} images are labelled by people now{of_pool}{review_changes(reviewed)}")
    return joined, left


def unlabeled_pool(experiment: Experiment) -> Source:
    """The unlabelled images of a run: what --unlabeled_data says, without those that people have labelled
    since.
    """
    whole = experiment.data.unlabeled_data == "rest" or experiment.data.reviewed
    labeled, rest, _ = open_labeled(experiment) if whole else (None, None, None)
    pool = open_unlabeled(experiment, rest)
    if not experiment.data.reviewed:
        return pool
    assert labeled is not None
    return _without(pool, _opened(experiment, labeled))


def _opened(experiment: Experiment, labeled: Source) -> Source:
    return opened(experiment, "reviewed", experiment.data.reviewed).aligned_to(labeled.categories)


def _without(pool: Source, reviewed: Source) -> Source:
    places = places_in(reviewed, pool)
    left = np.setdiff1d(np.arange(len(pool)), places[places >= 0])
    if not len(left):
        raise DataError(
            "--reviewed: every unlabelled image has been labelled by people: there is none to pseudo-label; "
            "use --job=train"
        )
    return pool.subset(left) if len(left) < len(pool) else pool
