"""TensorFlow Datasets builders as sources, read from what is prepared on disk; nothing is fetched."""

from __future__ import annotations

import dataclasses
import itertools
import os
import zlib
from typing import Any, Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from official.data import image_files
from official.data.formats.coco_classes import COCO_CATEGORIES
from official.data.formats.mask_files import note_classes, present_labels, sized_class_map
from official.data.formats.tfrecord import RecordOffsets, record_reader, records
from official.data.input_report import DataError, InputReport
from official.data.labels import ImageTable, RawObjects, clean_objects, note_crowded_classes
from official.data.source import Category, Source


def open_tfds(
    name: str,
    *,
    data_dir: str | None = None,
    labeled: bool = True,
    label_kind: str = "boxes",
    feature: str = "",
    crowd: str = "ignore",
    full_check: bool = True,
    max_pixels: int = 100_000_000,
    max_skipped_fraction: float = 0.1,
) -> Source:
    """A source over a prepared TFDS builder.

    Detection sets (`coco/2017`, `voc/2007`, `open_images_v4`) keep their boxes, classification sets
    (`imagenet2012`) their classes; a set without the labels that are wanted can be read without labels.

    Args:
      name: BUILDER[/CONFIG[:VERSION]][:SPLIT], split "train" by default; TFDS slices and sums
        (`train+unlabeled`) are allowed.
      data_dir: where the sets are prepared; TFDS' default otherwise.
      labeled: False drops the labels.
      label_kind: "boxes"; "masks": class maps, from a one-channel image feature such as
        `segmentation_mask` of oxford_iiit_pet; "classes": of whole images, from a class feature
        or, where there is none, boxes (for `official.data.crops`).
      feature: name of the feature that holds the labels; by default what the builder says is supervised, then
        the usual names, then the only one that fits.
      crowd: see `official.data.labels.clean_objects`.

    Raises:
      DataError: unknown builder or split, not prepared (says how to prepare it), no such labels.
    """
    import tensorflow_datasets as tfds  # slow to import, and only needed here

    word = f"tfds:{name}"
    builder_name, split = _split_name(name)
    builder = _builder(tfds, builder_name, data_dir, word)
    _check_prepared(builder.info, split, word)
    keys = _Keys.of(builder.info, tfds, label_kind, feature, word)
    if labeled and not keys.serve(label_kind):
        raise DataError(f"{word} has no {label_kind}; it can be used with --unlabeled_data only")
    report = InputReport()
    rows, places = _read_rows(builder.info, split, keys, labeled, full_check, max_pixels, report)
    report.check(word, len(rows) + report.skipped_images, max_skipped_fraction)
    read = _Reader(record_reader(places), builder.info.features, keys)
    source = Source(
        word=word,
        ids=np.array([row["id"] for row in rows]),
        sizes=np.array([row["size"] for row in rows], np.int32),
        read_image=image_files.stored_reader(read.encoded, [row["by_pillow"] for row in rows]),
        file_names=np.array([row["file"] for row in rows]),
        report=report,
    )
    if not labeled:
        return source
    source = _with_labels(source, rows, keys, builder.info.features, read, crowd)
    report.check_objects(word, max_skipped_fraction)
    return source


def _check_prepared(info: Any, split: str, word: str) -> None:
    """Raises DataError unless the builder has the splits, as TFRecords."""
    if not all(part.split("[")[0] in info.splits for part in split.split("+")):
        raise DataError(f"{word}: no split {split!r}; it has {sorted(info.splits)}")
    if info.file_format.value != "tfrecord":
        raise DataError(f"{word} is prepared as {info.file_format.value}; prepare it as tfrecord")


@dataclasses.dataclass(frozen=True)
class _Keys:
    """Names of the features that hold the image and its labels; of labels one at most is set."""

    image: str = "image"
    boxes: str | None = None
    mask: str | None = None
    image_class: str | None = None

    @classmethod
    def of(cls, info: Any, tfds: Any, label_kind: str, feature: str, word: str) -> _Keys:
        """Those that are wanted; boxes stand in where there are none.

        Raises:
          DataError: no image, or several features that may be meant.
        """
        kinds = tfds.features
        supervised = [key for key in info.supervised_keys or () if isinstance(key, str)]

        def chosen(what, matches, usual):
            fitting = [key for key, value in info.features.items() if matches(value)]
            return _chosen(fitting, (feature, *supervised, *usual), what, feature, word)

        image = _chosen(
            [k for k, v in info.features.items() if isinstance(v, kinds.Image) and v.shape[-1] != 1]
            or [k for k, v in info.features.items() if isinstance(v, kinds.Image)],
            (*supervised, "image"),
            "images",
            "",
            word,
        )
        if image is None:
            raise DataError(f"{word}: none of its features {sorted(info.features)} is an image")
        key = None
        if label_kind == "classes" and (
            key := chosen("classes", lambda f: isinstance(f, kinds.ClassLabel), ("label",))
        ):
            return cls(image=image, image_class=key)
        masks = ("segmentation_mask", "segmentation_label", "mask")
        if label_kind == "masks" and (
            key := chosen(
                "masks",
                lambda f: isinstance(f, kinds.Image) and f.shape[-1] == 1 and f is not info.features[image],
                masks,
            )
        ):
            return cls(image=image, mask=key)
        return cls(
            image=image,
            boxes=chosen("boxes", lambda f: _are_boxes(f, tfds), ("objects", "bobjects", "faces")),
        )

    def serve(self, label_kind: str) -> bool:
        """Whether these are labels of that kind, or can be made into them."""
        return bool(
            {"boxes": self.boxes, "masks": self.mask, "classes": self.image_class or self.boxes}[label_kind]
        )

    def decoders(self) -> dict:
        """Images and masks stay encoded."""
        import tensorflow_datasets as tfds

        return {key: tfds.decode.SkipDecoding() for key in (self.image, self.mask) if key}


def _chosen(fitting: list[str], preferred: tuple[str, ...], what: str, wanted: str, word: str) -> str | None:
    """The first preferred one of the features that fit, or the only one; None if none fits."""
    if wanted and wanted not in fitting:
        raise DataError(f"{word}: feature {wanted!r} holds no {what}; these do: {fitting}")
    found = next((key for key in preferred if key in fitting), None)
    if found is None and len(fitting) > 1:
        raise DataError(f"{word} has {what} in {fitting}; say which with {word},feature=NAME")
    return found or next(iter(fitting), None)


def _are_boxes(feature: Any, tfds: Any) -> bool:
    inner = getattr(feature, "feature", None)
    return isinstance(inner, tfds.features.FeaturesDict) and {"bbox", "label"} <= set(inner.keys())


def _read_rows(
    info: Any, split: str, keys: _Keys, labeled: bool, full_check: bool, max_pixels: int, report: InputReport
) -> tuple[list[dict], RecordOffsets]:
    """One dict per usable image, and their places."""
    decoders, instructions = keys.decoders(), info.splits[split].file_instructions
    paths = [instruction.filename for instruction in instructions]
    rows, places = [], []
    for file_number, number, offset, payload in _payloads(instructions):
        example = info.features.deserialize_example(payload, decoders=decoders)
        said = _row(example, keys, keys.boxes if labeled else None, f"{paths[file_number]}@{number}")
        said["class"] = int(example[keys.image_class]) if keys.image_class else -1
        row = _with_size(said, full_check, max_pixels, report)
        if row is not None and keys.mask and labeled:
            row = _with_mask(row, example[keys.mask].numpy(), report)
        if row is not None:
            rows.append(row)
            places.append((file_number, offset, len(payload), zlib.crc32(payload)))
    return rows, RecordOffsets.of(paths, places)


def _with_labels(
    source: Source, rows: list[dict], keys: _Keys, features: Any, read: _Reader, crowd: str
) -> Source:
    if keys.image_class:
        names = features[keys.image_class].names
        return source.with_classes(
            [row["class"] for row in rows], [Category(i + 1, n) for i, n in enumerate(names)]
        )
    if keys.mask:
        present = np.sum([row["present"] for row in rows], axis=0)
        names = note_classes(source.word, present, None, source.report)
        return source.with_masks(read.mask, [Category(i, name) for i, name in enumerate(names)])
    objects = [row["objects"] for row in rows]
    raw = RawObjects(
        images=np.repeat(np.arange(len(rows)), [len(o["classes"]) for o in objects]),
        boxes=np.concatenate([o["boxes"] for o in objects]),
        classes=np.concatenate([o["classes"] for o in objects]),
        box_format="yxyx",
        crowd=np.concatenate([o["crowd"] for o in objects]).tolist(),
        area=np.concatenate([o["area"] for o in objects]) if "area" in objects[0] else None,
    )
    categories = _categories(features[keys.boxes].feature["label"].names)
    table = ImageTable(source.ids.tolist(), source.names.tolist(), source.sizes)
    class_of = {str(i): i for i in range(len(categories))}
    annotations, _ = clean_objects(raw, table, class_of, source.report, crowd=crowd)
    note_crowded_classes(annotations, categories, source.report)
    return source.with_annotations(annotations, categories)


def _categories(names: list[str]) -> tuple[Category, ...]:
    """Classes 1, 2, ... or, of COCO's eighty in their order, COCO's own ids with their gaps."""
    unnamed = [str(i) for i in range(len(COCO_CATEGORIES))]  # as `coco` has them without its lists of labels
    if list(names) in ([category.name for category in COCO_CATEGORIES], unnamed):
        return COCO_CATEGORIES
    return tuple(Category(i + 1, name) for i, name in enumerate(names))


def _payloads(instructions: Sequence[Any]) -> Iterator[tuple[int, int, int, bytes]]:
    """(file number, record number, offset, payload) of every record of a split or slice."""
    for file_number, instruction in enumerate(instructions):
        stop = None if instruction.take < 0 else instruction.skip + instruction.take
        chosen = itertools.islice(enumerate(records(instruction.filename)), instruction.skip, stop)
        for number, (offset, payload) in chosen:
            yield file_number, number, offset, payload


def _split_name(name: str) -> tuple[str, str]:
    plain, bracket, slice_ = name.partition("[")  # the slice of a split has colons of its own
    head, _, last = plain.rpartition(":")
    is_version = last.replace(".", "").replace("*", "").isdigit()
    return (head, last + bracket + slice_) if head and not is_version else (plain, "train" + bracket + slice_)


def _builder(tfds: Any, name: str, data_dir: str | None, word: str) -> Any:
    try:
        builder = tfds.builder(name, data_dir=data_dir, try_gcs=False)
    except Exception as error:  # unknown names and bad versions raise several kinds
        raise DataError(f"{word}: TFDS does not know or cannot open {name!r}: {str(error)[:200]}") from error
    if not builder.info.splits:
        raise DataError(
            f"{word} is not prepared in {builder.data_dir}. On a machine with network run "
            f"`tfds build {name} --data_dir={os.path.dirname(os.path.dirname(str(builder.data_dir)))}`, "
            "then copy that folder here and give its root as --data_dir."
        )
    return builder


class _Reader:
    """Images and masks by index, inside a data pipeline."""

    def __init__(self, read_record: Callable[[tf.Tensor], tf.Tensor], features: Any, keys: _Keys) -> None:
        self.keys, decoders = keys, keys.decoders()
        self.example = lambda index: features.deserialize_example(read_record(index), decoders=decoders)

    def encoded(self, index: tf.Tensor) -> tf.Tensor:
        return self.example(index)[self.keys.image]

    def mask(self, index: tf.Tensor) -> tf.Tensor:
        return tf.io.decode_png(self.example(index)[self.keys.mask], channels=1)[..., 0]


def _with_mask(row: dict, encoded: bytes, report: InputReport) -> dict | None:
    values = sized_class_map(encoded, row["size"])
    if isinstance(values, str):
        report.skip_image(values, row["file"], row["id"])
        return None
    return {**row, "present": present_labels(values)}


def _row(example: dict, keys: _Keys, boxes_key: str | None, place: str) -> dict:
    name = example.get("image/filename", example.get("file_name"))
    image_id = example.get("image/id", name)
    plain = image_id.numpy() if image_id is not None else place
    row = {
        "id": plain.decode() if isinstance(plain, bytes) else str(plain),
        "file": place,
        "encoded": example[keys.image].numpy(),
    }
    if boxes_key:
        objects = example[boxes_key]
        labels = objects["label"].numpy()
        marks = [objects[name].numpy() > 0 for name in _MARKS if name in objects]
        row["objects"] = {
            "boxes": objects["bbox"].numpy().astype(np.float64).reshape(-1, 4),
            "classes": labels.astype(np.int64),
            "crowd": np.any(marks, axis=0).reshape(-1) if marks else np.zeros(len(labels), bool),
            **({"area": objects["area"].numpy().astype(np.float64)} if "area" in objects else {}),
        }
    return row


_MARKS = ("is_crowd", "is_difficult", "is_group_of")  # an object with any of them counts as a crowd


def _with_size(row: dict, full_check: bool, max_pixels: int, report: InputReport) -> dict | None:
    facts = image_files.inspect_stored(row.pop("encoded"), full=full_check, max_pixels=max_pixels)
    if isinstance(facts, str):
        report.skip_image(facts, row["file"], row["id"])
        return None
    size = (facts.height, facts.width)
    if "objects" in row:
        row["objects"]["boxes"] = row["objects"]["boxes"] * (size[0], size[1], size[0], size[1])
    return {**row, "size": size, "by_pillow": facts.by_pillow}
