"""TensorFlow Datasets builders as sources, read from what is prepared on disk; nothing is fetched."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import tensorflow as tf

from official.data import image_files
from official.data.mask_files import highest_label, sized_class_map
from official.data.source import Annotations, Category, DataError, InputReport, Source, clean_boxes
from official.data.tfrecord import image_size, record_offsets, record_reader


def open_tfds(
    name: str,
    *,
    data_dir: str | None = None,
    labeled: bool = True,
    label_kind: str = "boxes",
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
      label_kind: "boxes"; "masks": class maps, from a one-channel picture feature such as
        `segmentation_mask` of oxford_iiit_pet; "classes": of whole pictures, from a class feature
        or, where there is none, boxes (for `official.data.crops`).

    Raises:
      DataError: unknown builder or split, not prepared (says how to prepare it), no such labels.
    """
    import tensorflow_datasets as tfds  # slow to import, and only needed here

    word = f"tfds:{name}"
    builder_name, split = _split_name(name)
    builder = _builder(tfds, builder_name, data_dir, word)
    if not all(part.split("[")[0] in builder.info.splits for part in split.split("+")):
        raise DataError(f"{word}: no split {split!r}; it has {sorted(builder.info.splits)}")
    keys = _Keys.of(builder.info.features, tfds, label_kind)
    if labeled and not keys.serve(label_kind):
        raise DataError(f"{word} has no {label_kind}; it can be used with --unlabeled_data only")
    report = InputReport()
    paths, rows, places = _read_rows(builder.info, split, keys, labeled, max_pixels, report)
    report.check(word, len(rows) + report.skipped_images, max_skipped_fraction)
    read = _Reader(record_reader(paths, *zip(*places)), builder.info.features, keys)
    source = Source(
        word=word,
        ids=np.array([row["id"] for row in rows]),
        sizes=np.array([row["size"] for row in rows], np.int32),
        read_image=read.image,
        file_names=np.array([row["file"] for row in rows]),
        report=report,
    )
    return _with_labels(source, rows, keys, builder.info.features, read) if labeled else source


@dataclasses.dataclass(frozen=True)
class _Keys:
    """Names of the features that hold labels; one at most is set."""

    boxes: str | None = None
    mask: str | None = None
    image_class: str | None = None

    @classmethod
    def of(cls, features, tfds, label_kind: str) -> _Keys:
        """Those that are wanted; boxes stand in where there are none."""
        if label_kind == "classes" and (key := _first(features, lambda f: isinstance(f, tfds.features.ClassLabel))):
            return cls(image_class=key)
        if label_kind == "masks" and (key := _first(features, lambda f: isinstance(f, tfds.features.Image) and f.shape[-1] == 1)):
            return cls(mask=key)
        return cls(boxes=_first(features, lambda f: _are_boxes(f, tfds)))

    def serve(self, label_kind: str) -> bool:
        """Whether these are labels of that kind, or can be made into them."""
        return bool({"boxes": self.boxes, "masks": self.mask, "classes": self.image_class or self.boxes}[label_kind])

    def decoders(self) -> dict:
        """Pictures and masks stay encoded."""
        import tensorflow_datasets as tfds

        return {key: tfds.decode.SkipDecoding() for key in ("image", self.mask) if key}


def _first(features, matches) -> str | None:
    return next((key for key, feature in features.items() if matches(feature)), None)


def _are_boxes(feature, tfds) -> bool:
    inner = getattr(feature, "feature", None)
    return isinstance(inner, tfds.features.FeaturesDict) and {"bbox", "label"} <= set(inner.keys())


def _read_rows(
    info, split: str, keys: _Keys, labeled: bool, max_pixels: int, report: InputReport
) -> tuple[list[str], list[dict], list[tuple]]:
    """Paths of the files, one dict per usable picture, and its (file number, offset, length)."""
    decoders, instructions = keys.decoders(), info.splits[split].file_instructions
    paths = [instruction.filename for instruction in instructions]
    rows, places = [], []
    for file_number, number, offset, length in _places(instructions):
        example = info.features.deserialize_example(_payload(paths[file_number], offset, length), decoders=decoders)
        row = _row(example, keys.boxes if labeled else None, f"{paths[file_number]}@{number}")
        row["class"] = int(example[keys.image_class]) if keys.image_class else -1
        row = _with_size(row, max_pixels, report)
        if row is not None and keys.mask and labeled:
            row = _with_mask(row, example[keys.mask].numpy(), report)
        if row is not None:
            rows.append(row)
            places.append((file_number, offset, length))
    return paths, rows, places


def _with_labels(source: Source, rows: list[dict], keys: _Keys, features, read: _Reader) -> Source:
    if keys.image_class:
        names = features[keys.image_class].names
        return source.with_classes([row["class"] for row in rows], [Category(i + 1, n) for i, n in enumerate(names)])
    if keys.mask:
        highest = max(row["highest_label"] for row in rows)
        return source.with_masks(read.mask, [Category(i, str(i)) for i in range(highest + 1)])
    objects = [clean_boxes(r["objects"], r["size"], source.report, r["file"], r["id"]) for r in rows]
    names = features[keys.boxes].feature["label"].names
    categories = tuple(Category(i + 1, label) for i, label in enumerate(names))
    return source.with_annotations(Annotations.from_images(objects), categories)


def _places(instructions):
    """(file number, record number, offset, length) of every record of a split or slice."""
    for file_number, instruction in enumerate(instructions):
        stop = None if instruction.take < 0 else instruction.skip + instruction.take
        records = list(enumerate(record_offsets(instruction.filename)))[instruction.skip : stop]
        for number, (offset, length) in records:
            yield file_number, number, offset, length


def _split_name(name: str) -> tuple[str, str]:
    plain, bracket, slice_ = name.partition("[")  # the slice of a split has colons of its own
    head, _, last = plain.rpartition(":")
    is_version = last.replace(".", "").replace("*", "").isdigit()
    return (head, last + bracket + slice_) if head and not is_version else (plain, "train" + bracket + slice_)


def _builder(tfds, name: str, data_dir: str | None, word: str):
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
    """Pictures and masks by index, inside a data pipeline."""

    def __init__(self, read_record, features, keys: _Keys):
        self.keys, decoders = keys, keys.decoders()
        self.example = lambda index: features.deserialize_example(read_record(index), decoders=decoders)

    def image(self, index: tf.Tensor) -> tf.Tensor:
        return image_files.decode(self.example(index)["image"])

    def mask(self, index: tf.Tensor) -> tf.Tensor:
        return tf.io.decode_png(self.example(index)[self.keys.mask], channels=1)[..., 0]


def _with_mask(row: dict, encoded: bytes, report: InputReport) -> dict | None:
    values = sized_class_map(encoded, row["size"])
    if isinstance(values, str):
        report.skip_image(values, row["file"], row["id"])
        return None
    return {**row, "highest_label": highest_label(values)}


def _payload(path: str, offset: int, length: int) -> bytes:
    with tf.io.gfile.GFile(path, "rb") as file:
        file.seek(offset)
        return file.read(length)


def _row(example: dict, boxes_key: str | None, place: str) -> dict:
    name = example.get("image/filename", example.get("file_name"))
    image_id = example.get("image/id", name)
    plain = image_id.numpy() if image_id is not None else place
    row = {
        "id": plain.decode() if isinstance(plain, bytes) else str(plain),
        "file": place,
        "encoded": example["image"].numpy(),
    }
    if boxes_key:
        objects = example[boxes_key]
        crowd = objects.get("is_crowd", objects.get("is_difficult", objects.get("is_group_of")))
        labels = objects["label"].numpy()
        row["objects"] = {
            "boxes": objects["bbox"].numpy().astype(np.float64).reshape(-1, 4),
            "classes": labels.astype(np.int32),
            "crowd": np.zeros(len(labels), bool) if crowd is None else crowd.numpy() > 0,
            "area": objects["area"].numpy() if "area" in objects else np.full(len(labels), np.nan),
        }
    return row


def _with_size(row: dict, max_pixels: int, report: InputReport) -> dict | None:
    size = image_size(row.pop("encoded"))
    if size is None or size[0] * size[1] > max_pixels:
        report.skip_image("not a readable image" if size is None else "too many pixels", row["file"], row["id"])
        return None
    if "objects" in row:
        row["objects"]["boxes"] = row["objects"]["boxes"] * (size[0], size[1], size[0], size[1])
    return {**row, "size": size}
