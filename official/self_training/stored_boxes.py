"""All boxes of a label store, as the verdict and the report look at them."""

from __future__ import annotations

import numpy as np

from official.experiment import Experiment
from official.report.label_facts import StoredBoxes
from official.self_training.label_columns import batches
from official.self_training.label_store import LabelStore
from official.self_training.thresholds import in_use


def stored_boxes(experiment: Experiment, store: LabelStore) -> StoredBoxes:
    """Reads a finished store of boxes."""
    limits = store.limits(*in_use(experiment, store.categories()))
    images, parts = 0, []
    for part in batches(store.shard_paths()):
        size = part.sizes[part.image].astype(np.float32)
        sides = np.sqrt(
            np.prod(part.boxes[:, 2:] - part.boxes[:, :2], axis=1) / np.maximum(size[:, 0] * size[:, 1], 1)
        )
        parts.append(
            (
                (part.image + images).astype(np.int32),
                part.classes,
                part.scores,
                part.scores >= limits[part.classes],
                sides,
            )
        )
        images += len(part.ids)
    columns = [np.concatenate(column) for column in zip(*parts)] if parts else [np.zeros(0, int)] * 5
    return StoredBoxes(images, *columns)
