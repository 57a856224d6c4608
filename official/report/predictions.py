"""What an evaluation found in one image, read back from its files: to draw it without the network."""

from __future__ import annotations

from typing import Any

import numpy as np

from official.data.source import Source
from official.evaluation.evaluated import Evaluated, EvaluatedBoxes, EvaluatedClasses
from official.evaluation.small_maps import read_map


class Predictions:
    """Of one model on the evaluation images."""

    def __init__(
        self, evaluated: Evaluated, folder: str, source: Source, least_score: float | None = None
    ) -> None:
        """Reads nothing yet but what `evaluated` holds.

        Args:
          folder: of the evaluation. source: the images, in the order that they were evaluated in.
          least_score: of the boxes; None: where the model's F1 is highest.
        """
        self.evaluated, self.folder, self.source = evaluated, folder, source
        names = [category.name for category in source.categories]
        if isinstance(evaluated, EvaluatedBoxes):
            self.least_score = evaluated.best_score() if least_score is None else least_score
            ids = [str(image["id"]) for image in evaluated.ground_truth["images"]]
            classes = {c["id"]: names.index(str(c["name"])) for c in evaluated.ground_truth["categories"]}
            self.boxes: dict[str, list[tuple[Any, int, float]]] = {i: [] for i in ids}
            for result in evaluated.found:
                if result["score"] >= self.least_score:
                    row = (result["bbox"], classes[result["category_id"]], result["score"])
                    self.boxes[str(result["image_id"])].append(row)
        else:
            ids = [str(i) for i in source.ids]
        places = {image_id: i for i, image_id in enumerate(ids)}
        # In the source, of the evaluated's images.
        self.index = np.array([places[i] for i in evaluated.ids], np.int64)
        self.place = {int(i): k for k, i in enumerate(self.index)}

    def of(self, index: int) -> dict[str, Any] | None:
        """The objects of an image of the source as `Task.draw` takes them; None where nothing was kept of
        it.
        """
        if isinstance(self.evaluated, EvaluatedClasses):
            place = self.place.get(index)
            return None if place is None else {"class": int(self.evaluated.predicted[place])}
        if not isinstance(self.evaluated, EvaluatedBoxes):
            mask = read_map(self.folder, index)
            return None if mask is None else {"mask": mask}
        rows = sorted(self.boxes[self.evaluated.ids[self.place[index]]], key=lambda row: -row[2])
        x, y, w, h = np.array([row[0] for row in rows], np.float64).reshape(-1, 4).T
        boxes = np.stack([y, x, y + h, x + w], axis=1)
        if self.source.frames is not None:
            boxes = self.source.frames.to_image(boxes, np.full(len(boxes), index))
        classes, scores = (
            np.array([row[k] for row in rows], dtype) for k, dtype in ((1, np.int32), (2, np.float32))
        )
        return {"boxes": boxes.astype(np.float32), "classes": classes, "scores": scores}
