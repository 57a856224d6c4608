"""Pseudo labels on disk: sharded TFRecords and a JSON manifest that says what made them.

A shard holds the labels of a fixed range of pictures, as TF Examples in the layout of the original
stack, without the pixels. Every detection above a low floor is kept, so thresholds are applied on
reading. A shard, then its small JSON (count, checksum, histograms), appear by rename; a shard
without its JSON does not exist. The manifest is written when all shards are there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import time
from typing import Any, Iterable, Sequence

import numpy as np
import tensorflow as tf

from official.data.coco import to_coco
from official.data.source import Annotations, Category, DataError, Source
from official.data.tfrecord import encode_example
from official.training.recovery import read_json, sync_folder, write_json

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
PLAN = "plan.json"
SCORE_BINS = 20


class LabelError(DataError):
    """A label store that cannot be used as asked."""


@dataclasses.dataclass(frozen=True)
class LabelStore:
    """A folder of label shards."""

    folder: str

    # --- writing ----------------------------------------------------------------------------------

    def start(self, plan: dict[str, Any]) -> None:
        """Begins or goes on with a store.

        Args:
          plan: what makes the labels: teacher fingerprint, flags, classes, ids digest, shard size.

        Raises:
          LabelError: the folder holds labels made in another way.
        """
        os.makedirs(self.folder, exist_ok=True)
        plan = {"format_version": FORMAT_VERSION, **plan}
        before = read_json(os.path.join(self.folder, PLAN))
        if before and before != json.loads(json.dumps(plan)):
            differing = sorted(k for k in {*before, *plan} if before.get(k) != plan.get(k))
            raise LabelError(
                f"{self.folder} holds labels made in another way: "
                + "; ".join(f"{k}: {before.get(k)!r} there, {plan.get(k)!r} now" for k in differing)
                + ". Use another --model_dir or --label_store, or remove the folder."
            )
        write_json(os.path.join(self.folder, PLAN), plan)

    def plan(self) -> dict[str, Any]:
        """What made the labels.

        Raises:
          LabelError: not a label store, or of another format.
        """
        plan = read_json(os.path.join(self.folder, PLAN))
        if not plan:
            raise LabelError(f"{self.folder} is not a label store: it has no {PLAN}")
        if plan["format_version"] != FORMAT_VERSION:
            raise LabelError(f"{self.folder} has format {plan['format_version']}; this code reads {FORMAT_VERSION}")
        return plan

    def shard_path(self, shard: int) -> str:
        """The TFRecord file of a shard."""
        return os.path.join(self.folder, f"labels-{shard:05d}.tfrecord")

    def has_shard(self, shard: int) -> bool:
        """Whether the shard is complete and undamaged."""
        meta = read_json(self.shard_path(shard) + ".json")
        path = self.shard_path(shard)
        return bool(meta) and os.path.isfile(path) and _checksum(path) == meta["sha256"]

    def write_shard(self, shard: int, rows: Iterable[dict[str, Any]], names: Sequence[str]) -> None:
        """Writes one shard.

        Args:
          rows: per picture "id", "file_name", "size", "boxes", "scores", "classes".
          names: of the classes.
        """
        path = self.shard_path(shard)
        temporary = f"{path}.tmp{os.getpid()}"
        scores, classes, empty, images = [], [], 0, 0
        with _discard_on_error(temporary), tf.io.TFRecordWriter(temporary) as writer:
            for row in rows:
                boxes = np.asarray(row["boxes"])
                objects = {
                    **{k: row[k] for k in ("boxes", "classes", "scores")},
                    "crowd": np.zeros(len(boxes), bool),
                    "area": (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]),
                }
                example = encode_example(b"", row["id"], row["file_name"], row["size"], objects, names)
                writer.write(example.SerializeToString(deterministic=True))
                scores.append(row["scores"])
                classes.append(row["classes"])
                empty += len(boxes) == 0
                images += 1
        os.replace(temporary, path)
        sync_folder(self.folder)
        write_json(
            path + ".json",
            {
                "images": images,
                "images_without_boxes": int(empty),
                "boxes": int(sum(map(len, scores))),
                "sha256": _checksum(path),
                "score_histogram": _histogram(np.concatenate(scores) if scores else np.zeros(0)),
                "class_counts": np.bincount(np.concatenate(classes), minlength=len(names)).tolist(),
            },
        )

    def finish(self, shards: int, skipped: dict[str, int]) -> dict[str, Any] | None:
        """Writes the manifest if every shard is there; returns it, or None while some are missing."""
        metas = [read_json(self.shard_path(shard) + ".json") for shard in range(shards)]
        if not all(metas):
            return None
        manifest = {
            **self.plan(),
            "shards": metas,
            "images": sum(m["images"] for m in metas),
            "boxes": sum(m["boxes"] for m in metas),
            "images_without_boxes": sum(m["images_without_boxes"] for m in metas),
            "score_histogram": np.sum([m["score_histogram"] for m in metas], axis=0).tolist(),
            "class_counts": np.sum([m["class_counts"] for m in metas], axis=0).tolist(),
            "skipped": skipped,
        }
        write_json(os.path.join(self.folder, MANIFEST), manifest)
        return manifest

    def wait(self, seconds: float = 2.0) -> dict[str, Any]:
        """Sleeps until another process has finished the store; returns the manifest."""
        while not os.path.isfile(os.path.join(self.folder, MANIFEST)):
            time.sleep(seconds)
        return self.manifest()

    # --- reading ----------------------------------------------------------------------------------

    def manifest(self) -> dict[str, Any]:
        """The manifest of a finished store.

        Raises:
          LabelError: labelling is not finished, or a shard is missing or damaged.
        """
        self.plan()
        manifest = read_json(os.path.join(self.folder, MANIFEST))
        if not manifest:
            raise LabelError(f"{self.folder} is not finished; run --job=pseudo_label again to go on")
        for shard, meta in enumerate(manifest["shards"]):
            path = self.shard_path(shard)
            if not os.path.isfile(path) or _checksum(path) != meta["sha256"]:
                raise LabelError(f"{path} is missing or damaged; remove its .json and run --job=pseudo_label again")
        return manifest

    def categories(self) -> tuple[Category, ...]:
        """The classes of the labels."""
        return tuple(Category(c["id"], c["name"]) for c in self.plan()["categories"])

    def rows(self) -> Iterable[dict[str, Any]]:
        """Every picture's stored labels, in order; see `write_shard`."""
        for shard in range(len(self.manifest()["shards"])):
            for record in tf.data.TFRecordDataset(self.shard_path(shard)).as_numpy_iterator():
                yield _parse(record)

    def read(self, source: Source, threshold: float, class_thresholds: dict[str, float] | None = None) -> Source:
        """The unlabelled source with its pseudo labels at a threshold.

        Args:
          source: the pictures that were labelled.
          threshold: boxes with score >= threshold are used; `class_thresholds` overrides it by name.

        Raises:
          LabelError: other pictures than the source's, or no box reaches the threshold.
        """
        categories = self.categories()
        limits = np.full(len(categories), threshold, np.float32)
        for name, value in (class_thresholds or {}).items():
            matches = [i for i, c in enumerate(categories) if c.name == name]
            if not matches:
                raise LabelError(f"class_thresholds names {name!r}; the classes are {[c.name for c in categories]}")
            limits[matches[0]] = value
        rows = {row["id"]: row for row in self.rows()}
        missing = [i for i in source.ids if i not in rows]
        if missing:
            raise LabelError(f"{self.folder} has no labels for {len(missing)} images, the first is {missing[0]}")
        kept = []
        for image_id in source.ids:
            row = rows[image_id]
            sure = row["scores"] >= limits[row["classes"]]
            kept.append({name: row[name][sure] for name in ("boxes", "classes", "scores")})
        annotations = Annotations.from_images(kept)
        if len(annotations.boxes) == 0:
            raise LabelError(self.explain_nothing(threshold))
        return source.with_annotations(annotations, categories)

    def explain_nothing(self, threshold: float) -> str:
        """Why no box is left: the score histogram and thresholds that would keep some."""
        best = np.sort([row["scores"].max() if len(row["scores"]) else 0.0 for row in self.rows()])[::-1]
        lines = [f"no pseudo box in {self.folder} reaches score_threshold={threshold}."]
        lines.append("best score per picture, number of pictures:")
        for low, count in zip(np.arange(0, 1, 0.1), np.histogram(best, bins=10, range=(0, 1))[0]):
            lines.append(f"  {low:.1f}-{low + 0.1:.1f}  {count}")
        for share in (0.01, 0.1, 0.5):
            value = best[min(len(best) - 1, max(0, int(np.ceil(share * len(best))) - 1))]
            lines.append(f"a threshold of {value:.3f} would keep a box in {share:.0%} of the pictures")
        lines.append("Train the teacher longer, or lower --score_threshold.")
        return "\n".join(lines)

    def export_coco(self, path: str, source: Source | None = None, threshold: float = 0.0) -> None:
        """Writes the labels as a COCO JSON with a "score" per annotation."""
        rows = list(self.rows())
        objects = []
        for row in rows:
            sure = row["scores"] >= threshold
            objects.append({name: row[name][sure] for name in ("boxes", "classes", "scores")})
        labelled = Source(
            word=self.folder,
            ids=np.array([row["id"] for row in rows]),
            sizes=np.array([row["size"] for row in rows]),
            read_image=lambda index: index,
            categories=self.categories(),
            annotations=Annotations.from_images(objects),
            file_names=np.array([row["file_name"] for row in rows]),
        )
        write_json(path, to_coco(labelled, with_scores=True))


@contextlib.contextmanager
def _discard_on_error(path: str):
    try:
        yield
    except BaseException:
        if os.path.isfile(path):
            os.remove(path)
        raise


def ids_digest(ids: Sequence[str]) -> str:
    """A digest of the ids in their order."""
    return hashlib.sha256("\n".join(map(str, ids)).encode()).hexdigest()[:16]


def _parse(record: bytes) -> dict[str, Any]:
    feature = tf.train.Example.FromString(record).features.feature
    height = feature["image/height"].int64_list.value[0]
    width = feature["image/width"].int64_list.value[0]
    corners = [feature[f"image/object/bbox/{k}"].float_list.value for k in ("ymin", "xmin", "ymax", "xmax")]
    return {
        "id": feature["image/source_id"].bytes_list.value[0].decode(),
        "file_name": feature["image/filename"].bytes_list.value[0].decode(),
        "size": (height, width),
        "boxes": np.array(corners, np.float32).T.reshape(-1, 4) * np.float32([height, width, height, width]),
        "classes": np.array(feature["image/object/class/label"].int64_list.value, np.int32) - 1,
        "scores": np.array(feature["image/object/score"].float_list.value, np.float32),
    }


def _histogram(scores: np.ndarray) -> list[int]:
    return np.histogram(scores, bins=SCORE_BINS, range=(0.0, 1.0))[0].tolist()


def _checksum(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
