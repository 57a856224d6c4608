"""What a label store holds: boxes with scores, or class maps with the winning probability.

A kind turns a picture's labels into a TF Example and back, says what to count in a shard, and
applies thresholds on reading. The store itself (shards, checksums, resuming) is the same for both.
"""

from __future__ import annotations

import os
from typing import Any, Iterable, Sequence

import numpy as np
import tensorflow as tf

from official.data.coco import to_coco
from official.data.mask_files import SCORE_LEVELS, encode_class_map, read_class_map, stored_limit
from official.data.source import Annotations, DataError, Source
from official.data.tfrecord import MASK_KEY, add_mask, encode_example, record_offsets, record_reader
from official.evaluation.drawing import VOC_PALETTE
from official.files import write_json

SCORE_BINS = 20
SCORE_KEY = "image/segmentation/score/encoded"


class LabelError(DataError):
    """A label store that cannot be used as asked."""


class BoxLabels:
    """Detections: rows with "boxes" float32 [N, 4] yxyx, "scores" [N], "classes" [N]."""

    name = "boxes"

    def encode(self, row: dict[str, Any], names: Sequence[str]) -> tf.train.Example:
        """One picture's labels, without its pixels, in the layout of the original stack."""
        boxes = np.asarray(row["boxes"])
        objects = {
            **{k: row[k] for k in ("boxes", "classes", "scores")},
            "crowd": np.zeros(len(boxes), bool),
            "area": (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]),
        }
        return encode_example(b"", row["id"], row["file_name"], row["size"], objects, names)

    def counts(self, row: dict[str, Any], classes: int) -> dict[str, Any]:
        """What one picture adds to a shard's numbers."""
        return {
            "boxes": len(row["boxes"]),
            "images_without_boxes": int(len(row["boxes"]) == 0),
            "score_histogram": np.histogram(row["scores"], bins=SCORE_BINS, range=(0.0, 1.0))[0],
            "class_counts": np.bincount(row["classes"], minlength=classes),
        }

    def parse(self, record: bytes) -> dict[str, Any]:
        """The inverse of `encode`."""
        feature = tf.train.Example.FromString(record).features.feature
        row = _common(feature)
        height, width = row["size"]
        corners = [feature[f"image/object/bbox/{k}"].float_list.value for k in ("ymin", "xmin", "ymax", "xmax")]
        return {
            **row,
            "boxes": np.array(corners, np.float32).T.reshape(-1, 4) * np.float32([height, width, height, width]),
            "classes": np.array(feature["image/object/class/label"].int64_list.value, np.int32) - 1,
            "scores": np.array(feature["image/object/score"].float_list.value, np.float32),
        }

    def highest(self, row: dict[str, Any]) -> float:
        """The picture's highest score."""
        return float(row["scores"].max()) if len(row["scores"]) else 0.0

    def sureness(self, row: dict[str, Any], threshold: float) -> float:
        """What pictures are ranked by: the highest score."""
        return self.highest(row)

    def at(self, row: dict[str, Any], limits: np.ndarray) -> dict[str, np.ndarray]:
        """The labels that reach the limits, one per class."""
        sure = row["scores"] >= limits[row["classes"]]
        return {name: row[name][sure] for name in ("boxes", "classes", "scores")}

    def read(self, store, source: Source, limits: np.ndarray) -> tuple[Source, np.ndarray, dict[str, Any]]:
        """(the source with its labels, whether each picture has any, numbers for the summary)."""
        rows = {row["id"]: row for row in store.rows()}
        _refuse_missing(store.folder, source, rows)
        annotations = Annotations.from_images([self.at(rows[image_id], limits) for image_id in source.ids])
        counts = annotations.counts()
        labelled = source.with_annotations(annotations, store.categories())
        numbers = {"images_with_boxes": int((counts > 0).sum()), "boxes": int(counts.sum())}
        return labelled, counts > 0, numbers

    def used_scores(self, source: Source) -> np.ndarray:
        """Scores of the labels in use, for a histogram."""
        return source.annotations.scores

    def export(self, store, folder: str, limits: np.ndarray) -> str:
        """Writes a COCO JSON with a "score" per annotation; returns its path."""
        rows = list(store.rows())
        labelled = Source(
            word=store.folder,
            ids=np.array([row["id"] for row in rows]),
            sizes=np.array([row["size"] for row in rows]),
            read_image=lambda index: index,
            categories=store.categories(),
            annotations=Annotations.from_images([self.at(row, limits) for row in rows]),
            file_names=np.array([row["file_name"] for row in rows]),
        )
        path = os.path.join(folder, "pseudo_labels_coco.json")
        write_json(path, to_coco(labelled, with_scores=True))
        return path


class MaskLabels:
    """Class maps: rows with "mask" uint8 [h, w] and "score" uint8 [h, w], floor(256 p) of the winner.

    [h, w] is the picture's size in the network's input; reading enlarges it to the picture's own.
    A pixel is used if its stored score is at least ceil(256 * threshold), which is exact for
    thresholds in steps of 1/256, 0.5 among them.
    """

    name = "masks"

    def encode(self, row: dict[str, Any], names: Sequence[str]) -> tf.train.Example:
        """One picture's labels: class map and score as PNGs."""
        nothing = {"boxes": np.zeros((0, 4)), "classes": [], "crowd": [], "area": [], "scores": []}
        example = encode_example(b"", row["id"], row["file_name"], row["size"], nothing, names)
        add_mask(example, encode_class_map(row["mask"]), names)
        example.features.feature[SCORE_KEY].bytes_list.value.append(encode_class_map(row["score"]))
        return example

    def counts(self, row: dict[str, Any], classes: int) -> dict[str, Any]:
        """What one picture adds to a shard's numbers."""
        return {
            "pixels": int(row["mask"].size),
            "score_histogram": np.histogram(row["score"], bins=SCORE_BINS, range=(0, SCORE_LEVELS))[0],
            "class_counts": np.bincount(row["mask"].ravel(), minlength=classes),
        }

    def parse(self, record: bytes) -> dict[str, Any]:
        """The inverse of `encode`."""
        feature = tf.train.Example.FromString(record).features.feature
        return {
            **_common(feature),
            "mask": read_class_map(feature[MASK_KEY].bytes_list.value[0]),
            "score": read_class_map(feature[SCORE_KEY].bytes_list.value[0]),
        }

    def highest(self, row: dict[str, Any]) -> float:
        """The picture's highest score."""
        return float(row["score"].max()) / SCORE_LEVELS

    def sureness(self, row: dict[str, Any], threshold: float) -> float:
        """What pictures are ranked by: the share that is sure at the threshold."""
        return float((row["score"] >= stored_limit(threshold)).mean())

    def at(self, row: dict[str, Any], limits: np.ndarray) -> dict[str, np.ndarray]:
        """The class map with unsure pixels ignored."""
        return {"mask": np.where(row["score"] >= stored_limit(limits)[row["mask"]], row["mask"], 255).astype(np.uint8)}

    def read(self, store, source: Source, limits: np.ndarray) -> tuple[Source, np.ndarray, dict[str, Any]]:
        """(the source with its masks, whether each picture has a sure pixel, numbers for the summary)."""
        stored, places, sure, pixels, sure_pixels = stored_limit(limits), {}, {}, 0, 0
        paths = [store.shard_path(shard) for shard in range(len(store.manifest()["shards"]))]
        for number, path in enumerate(paths):
            offsets = record_offsets(path)
            for (offset, length), record in zip(offsets, tf.data.TFRecordDataset(path).as_numpy_iterator()):
                row = self.parse(record)
                places[row["id"]] = (number, offset, length)
                count = int((row["score"] >= stored[row["mask"]]).sum())
                sure[row["id"]] = count > 0
                pixels, sure_pixels = pixels + row["mask"].size, sure_pixels + count
        _refuse_missing(store.folder, source, places)
        read_record = record_reader(paths, *zip(*(places[i] for i in source.ids)))
        any_sure = np.array([sure[i] for i in source.ids])
        labelled = source.with_masks(_mask_reader(read_record, source.sizes, stored), store.categories())
        numbers = {"images_with_labels": int(any_sure.sum()), "labelled_pixels": round(sure_pixels / max(1, pixels), 4)}
        return labelled, any_sure, numbers

    def used_scores(self, source: Source) -> np.ndarray:
        """Nothing: the scores are not kept in memory."""
        return np.zeros(0)

    def export(self, store, folder: str, limits: np.ndarray) -> str:
        """Writes palette PNGs of the pictures' own sizes, as VOC tools read them; returns the folder."""
        out = os.path.join(folder, "pseudo_masks")
        for row in store.rows():
            name = os.path.splitext(os.path.basename(row["file_name"]) or row["id"])[0] + ".png"
            mask = enlarge_nearest(self.at(row, limits)["mask"], row["size"])
            os.makedirs(out, exist_ok=True)
            with open(os.path.join(out, name), "wb") as file:
                file.write(encode_class_map(mask, VOC_PALETTE))
        return out


KINDS = {kind.name: kind for kind in (BoxLabels(), MaskLabels())}


def _common(feature) -> dict[str, Any]:
    return {
        "id": feature["image/source_id"].bytes_list.value[0].decode(),
        "file_name": feature["image/filename"].bytes_list.value[0].decode(),
        "size": (feature["image/height"].int64_list.value[0], feature["image/width"].int64_list.value[0]),
    }


def _refuse_missing(folder: str, source: Source, known: Iterable[str]) -> None:
    missing = [i for i in source.ids if i not in known]
    if missing:
        raise LabelError(f"{folder} has no labels for {len(missing)} images, the first is {missing[0]}")


def _mask_reader(read_record, sizes: np.ndarray, stored: np.ndarray):
    limits, sizes = tf.constant(stored, tf.int32), tf.constant(sizes, tf.int32)
    spec = {key: tf.io.FixedLenFeature([], tf.string) for key in (MASK_KEY, SCORE_KEY)}

    def read(index):
        found = tf.io.parse_single_example(read_record(index), spec)
        mask, score = (tf.io.decode_png(found[key], channels=1) for key in (MASK_KEY, SCORE_KEY))
        sure = tf.cast(score, tf.int32) >= tf.gather(limits, tf.cast(mask, tf.int32))
        masked = tf.where(sure, mask, tf.constant(255, tf.uint8))
        return tf.image.resize(masked, tf.gather(sizes, index), method="nearest")[..., 0]

    return read


def enlarge_nearest(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A class map at another (height, width), half-pixel centres."""
    rows = ((np.arange(size[0]) + 0.5) * mask.shape[0] / size[0]).astype(int)
    columns = ((np.arange(size[1]) + 0.5) * mask.shape[1] / size[1]).astype(int)
    return mask[rows][:, columns]
