"""TFRecords: random access by byte offset, and TF Examples in the layout of the original stack.

A TFRecord file has no index. Opening one reads it once with TensorFlow's own reader, which verifies the checksums,
notes where every record starts and parses everything but the pixels; a picture is then read by seeking to its record.

Keys: tensorflow/tpu models/official/detection/dataloader/tf_example_decoder.py:50-75, with
`image/object/class/text`, `image/object/score` and `image/filename` added.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import os
import zlib
from typing import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from official.data import image_files
from official.data.mask_files import encode_class_map, note_classes, present_labels, sized_class_map
from official.data.input_report import DataError, InputReport, shown
from official.data.labels import ImageTable, RawObjects, clean_objects, note_crowded_classes
from official.data.source import Category, Source
from official.files import whole_file
from official.screen import counted

MASK_KEY = "image/segmentation/class/encoded"
MASK_NAMES_KEY = "image/segmentation/class/text"
_OVERHEAD = 16  # length, its checksum, and the payload's checksum


def records(path: str) -> Iterator[tuple[int, bytes]]:
    """(offset, payload) of every record, its checksums verified.

    Raises:
      DataError: the file ends inside a record, or a checksum is wrong.
    """
    position = number = 0
    with tf.io.gfile.GFile(path, "rb") as file:
        if file.read(2) == b"\x1f\x8b":
            raise DataError(f"{path} is compressed; unpack it: records are read one by one from where they start")
    try:
        for payload in tf.data.TFRecordDataset(path).as_numpy_iterator():
            yield position + 12, payload
            position, number = position + _OVERHEAD + len(payload), number + 1
    except tf.errors.DataLossError as error:
        message = str(error.message).split("[[")[0].strip()[:120]
        raise DataError(f"{path} is truncated or damaged: record {number} at byte {position} ({message})") from error


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a record is: number of its file, offset and length of its payload, and a checksum of that."""

    file: int
    offset: int
    length: int
    checksum: int

    @classmethod
    def of(cls, file: int, offset: int, payload: bytes) -> Place:
        """The place of a payload that has been read."""
        return cls(file, offset, len(payload), zlib.crc32(payload))


def record_reader(paths: Sequence[str], places: Sequence[Place]) -> Callable[[tf.Tensor], tf.Tensor]:
    """A graph function: record number -> its bytes (scalar string); an error if they are not what was there before."""

    def seek(index):
        place = places[int(index)]
        with tf.io.gfile.GFile(paths[place.file], "rb") as file:
            file.seek(place.offset)
            payload = file.read(place.length)
        if zlib.crc32(payload) != place.checksum:
            raise DataError(f"{paths[place.file]} has changed since it was opened: the record at byte {place.offset - 12}")
        return payload

    def read(index):
        return tf.ensure_shape(tf.numpy_function(seek, [index], tf.string, stateful=False), [])

    return read


def encode_example(
    encoded: bytes, image_id: str, file_name: str, size: tuple[int, int], objects: dict, names: Sequence[str],
    numbers: Sequence[int] | None = None,
) -> tf.train.Example:  # fmt: skip
    """One picture as a TF Example; boxes normalised.

    Args:
      encoded: JPEG or PNG bytes (may be empty in a label store).
      size: (height, width).
      objects: "boxes" yxyx pixels, "classes" 0-based, "crowd", "area", "scores".
      names: of the classes.
      numbers: what the classes are called in "label"; 1, 2, ... when not given.
    """
    height, width = (int(v) for v in size)
    boxes = np.asarray(objects["boxes"], np.float32).reshape(-1, 4) / (height, width, height, width)
    classes = np.asarray(objects["classes"], np.int64)

    def floats(values):
        return tf.train.Feature(float_list=tf.train.FloatList(value=[float(v) for v in values]))

    def ints(values):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[int(v) for v in values]))

    def strings(values):
        values = [v if isinstance(v, bytes) else str(v).encode() for v in values]
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))

    feature = {
        "image/encoded": strings([encoded]),
        "image/source_id": strings([image_id]),
        "image/filename": strings([file_name]),
        "image/height": ints([height]),
        "image/width": ints([width]),
        "image/object/bbox/ymin": floats(boxes[:, 0]),
        "image/object/bbox/xmin": floats(boxes[:, 1]),
        "image/object/bbox/ymax": floats(boxes[:, 2]),
        "image/object/bbox/xmax": floats(boxes[:, 3]),
        "image/object/class/label": ints(classes + 1 if numbers is None else [numbers[c] for c in classes]),
        "image/object/class/text": strings([names[c] for c in classes]),
        "image/object/is_crowd": ints(objects["crowd"]),
        "image/object/area": floats(objects["area"]),
        "image/object/score": floats(objects["scores"]),
    }
    return tf.train.Example(features=tf.train.Features(feature=feature))


def add_mask(example: tf.train.Example, encoded: bytes, names: Sequence[str]) -> None:
    """Adds a class map, greyscale PNG bytes, in the original's key, and the names of its classes."""
    feature = example.features.feature
    feature[MASK_KEY].bytes_list.value.append(encoded)
    feature[MASK_NAMES_KEY].bytes_list.value.extend(name.encode() for name in names)


def write_tfrecords(source: Source, prefix: str, num_shards: int) -> list[str]:
    """Writes a labelled or unlabelled source as `prefix-00000-of-0000N.tfrecord` shards, atomically; classes by their ids.

    Files that are JPEG or PNG already are copied byte for byte if upright, others become PNG.

    Returns:
      The paths written.
    """
    os.makedirs(os.path.dirname(os.path.abspath(prefix)), exist_ok=True)
    names, numbers = [c.name for c in source.categories], [c.id for c in source.categories]
    nothing = {"boxes": np.zeros((0, 4)), "classes": [], "crowd": [], "area": [], "scores": []}
    paths = [f"{prefix}-{s:05d}-of-{num_shards:05d}.tfrecord" for s in range(num_shards)]
    for shard, path in enumerate(counted(paths, "writing shards", len(paths), "shards")):
        with whole_file(path) as temporary, tf.io.TFRecordWriter(temporary) as writer:
            for i in range(shard, len(source), num_shards):
                image = source.read_image(tf.constant(i, tf.int64))
                objects = source.annotations.of(i) if source.annotations else nothing
                file_name = str(source.file_names[i]) if source.file_names is not None else ""
                encoded = _encoded(file_name, image)
                size = tuple(image.shape[:2])
                record = encode_example(
                    encoded, source.ids[i], os.path.basename(file_name), size, objects, names, numbers
                )
                if source.read_mask is not None:
                    add_mask(record, encode_class_map(source.read_mask(tf.constant(i, tf.int64)).numpy()), names)
                writer.write(record.SerializeToString())
    return paths


def _encoded(file_name: str, image: tf.Tensor) -> bytes:
    """The file's own bytes where they decode to these very pixels, else PNG."""
    if file_name.lower().endswith((".jpg", ".jpeg", ".png")) and os.path.isfile(file_name):
        with open(file_name, "rb") as file:
            data = file.read()
        decoded = image_files.decode(tf.constant(data))
        if decoded.shape == image.shape and bool(tf.reduce_all(decoded == image)):
            return data
    return tf.io.encode_png(image).numpy()


def open_tfrecords(
    pattern: str, *, full_check: bool = True, max_pixels: int = 100_000_000, max_skipped_fraction: float = 0.1,
    labeled: bool = True, masks: bool = False, crowd: str = "ignore",
) -> Source:  # fmt: skip
    """A source over TFRecords of TF Examples with boxes, or with a class map.

    Args:
      pattern: a glob, or several joined by "+".
      labeled: False reads pictures alone.
      masks: labels are class maps in place of boxes.
      crowd: see `official.data.labels.clean_objects`.

    Raises:
      DataError: no file, a damaged file, a record that is not such an Example, texts that contradict the numbers of
        classes; too much unusable.
    """
    word = f"tfrecord:{pattern}"
    paths = sorted(p for part in joined_globs(pattern) for p in tf.io.gfile.glob(part))
    if not paths:
        raise DataError(f"{word}: no file matches")
    report, places, rows = InputReport(), [], []
    for number, path in enumerate(paths):
        for record, (offset, payload) in enumerate(records(path)):
            row = _parse(payload, path, record, offset)
            row = _usable(row, full_check, max_pixels, report, masks and labeled)
            if row is not None:
                places.append(Place.of(number, offset, payload))
                rows.append(row)
    report.check(word, len(rows) + report.skipped_images, max_skipped_fraction)
    _refuse_repeated([row["id"] for row in rows], word)
    read_record = record_reader(paths, places)

    def read_encoded(index):
        spec = {"image/encoded": tf.io.FixedLenFeature([], tf.string)}
        return tf.io.parse_single_example(read_record(index), spec)["image/encoded"]

    source = Source(
        word=word,
        ids=np.array([row["id"] for row in rows]),
        sizes=np.array([row["size"] for row in rows], np.int32),
        read_image=image_files.stored_reader(read_encoded, [row["by_pillow"] for row in rows]),
        file_names=np.array([row["file"] for row in rows]),
        report=report,
    )
    if not labeled:
        return source
    if masks:
        return source.with_masks(_mask_reader(read_record), _mask_categories(rows, word, report))
    source = _labelled(source, rows, crowd)
    report.check_objects(word, max_skipped_fraction)
    return source


def joined_globs(pattern: str) -> list[str]:
    """Globs joined by "+"; a plus in a name is understood where the whole matches, and may be written with a backslash."""
    if tf.io.gfile.glob(pattern):
        return [pattern]
    return [part.replace("\0", "+") for part in pattern.replace("\\+", "\0").split("+")]


def _mask_reader(read_record):
    def read(index):
        spec = {MASK_KEY: tf.io.FixedLenFeature([], tf.string)}
        encoded = tf.io.parse_single_example(read_record(index), spec)[MASK_KEY]
        return tf.io.decode_png(encoded, channels=1)[..., 0]

    return read


def _mask_categories(rows: list[dict], word: str, report: InputReport) -> list[Category]:
    """Names from the records, else numbers up to the highest label.

    Raises:
      DataError: see `note_classes`; records that name the classes differently.
    """
    named = {tuple(row["mask_names"]) for row in rows if row["mask_names"]}
    if len(named) > 1:
        raise DataError(f"{word}: its records name the classes of masks differently: {shown(sorted(named), 2)}")
    names = note_classes(word, sum(row["present"] for row in rows), next(iter(named), None), report)
    return [Category(i, name) for i, name in enumerate(names)]


_COLUMNS = {
    "crowd": ("image/object/is_crowd", "int64_list"),
    "difficult": ("image/object/difficult", "int64_list"),
    "group": ("image/object/group_of", "int64_list"),
    "area": ("image/object/area", "float_list"),
    "scores": ("image/object/score", "float_list"),
    "texts": ("image/object/class/text", "bytes_list"),
}


def _parse(payload: bytes, path: str, number: int, offset: int) -> dict:
    """The fields of a record; columns that it lacks are empty."""
    place = f"{path}: record {number} (byte {offset - 12})"
    example = tf.train.Example()
    try:
        example.ParseFromString(payload)
    except Exception as error:
        raise DataError(f"{place} is not a TF Example") from error
    feature = example.features.feature

    def column(name, kind):
        if name in feature and feature[name].WhichOneof("kind") not in (None, kind):
            raise DataError(f"{place}: {name} is a {feature[name].WhichOneof('kind')}, it should be a {kind}")
        return list(getattr(feature[name], kind).value)

    def texts(name):
        return [t.decode("utf-8", "backslashreplace") for t in column(name, "bytes_list")]

    corners = [column(f"image/object/bbox/{k}", "float_list") for k in ("ymin", "xmin", "ymax", "xmax")]
    labels = column("image/object/class/label", "int64_list")
    columns = {name: column(*key) for name, key in _COLUMNS.items()}
    lengths = {name: len(values) for name, values in columns.items() if values}
    lengths.update({f"bbox/{k}": len(c) for k, c in zip(("ymin", "xmin", "ymax", "xmax"), corners)})
    wrong = {name: length for name, length in lengths.items() if length != len(labels)}
    if wrong:
        raise DataError(f"{place} has {len(labels)} labels but other counts of {wrong}")
    return {
        "encoded": (column("image/encoded", "bytes_list") or [b""])[0],
        "mask": (column(MASK_KEY, "bytes_list") or [b""])[0],
        "mask_names": texts(MASK_NAMES_KEY),
        "id": (texts("image/source_id") or [""])[0] or str(int(hashlib.sha256(payload).hexdigest()[:15], 16)),
        "file": f"{path}@{offset}",
        "corners": np.array(corners, np.float64).T.reshape(-1, 4),
        "labels": labels,
        **columns,
        "texts": [t.decode("utf-8", "backslashreplace") for t in columns["texts"]] or [""] * len(labels),
    }


def _usable(row: dict, full_check: bool, max_pixels: int, report: InputReport, masks: bool) -> dict | None:
    """Adds the picture's own size (the stored one may be -1); None if undecodable."""
    facts = image_files.inspect_stored(row.pop("encoded"), full=full_check, max_pixels=max_pixels)
    if isinstance(facts, str):
        report.skip_image(facts, row["file"], row["id"])
        return None
    row, encoded_mask = {**row, "size": (facts.height, facts.width), "by_pillow": facts.by_pillow}, row.pop("mask")
    if masks:
        values = sized_class_map(encoded_mask, row["size"])
        if isinstance(values, str):
            report.skip_image(values, row["file"], row["id"])
            return None
        return {**row, "present": present_labels(values)}
    return row


def _refuse_repeated(ids: Sequence[str], word: str) -> None:
    repeated = [i for i, n in collections.Counter(ids).items() if n > 1]
    if repeated:
        raise DataError(f"{word}: image id {shown(repeated)} occurs more than once")


def _labelled(source: Source, rows: list[dict], crowd: str) -> Source:
    names = _class_texts(rows, source.word)
    order = sorted(names)
    sizes = np.array([row["size"] for row in rows], np.float64).reshape(-1, 2)
    counts = [len(row["labels"]) for row in rows]
    images = np.repeat(np.arange(len(rows)), counts)
    corners = np.concatenate([row["corners"] for row in rows]).reshape(-1, 4)
    raw = RawObjects(
        images=images,
        boxes=corners * np.tile(sizes[images], 2),
        classes=[label for row in rows for label in row["labels"]],
        box_format="yxyx",
        crowd=[bool(marks) for row in rows for marks in _marks(row)],
        area=[v for row, n in zip(rows, counts) for v in row["area"]] if all(r["area"] for r in rows if r["labels"]) else None,
        scores=[v for row, n in zip(rows, counts) for v in row["scores"] or [1.0] * n],
    )
    table = ImageTable(source.ids.tolist(), source.file_names.tolist(), source.sizes)
    annotations, _ = clean_objects(
        raw, table, {str(label): i for i, label in enumerate(order)}, source.report, crowd=crowd
    )
    categories = tuple(Category(label, names[label] or str(label)) for label in order)
    note_crowded_classes(annotations, categories, source.report)
    return source.with_annotations(annotations, categories)


def _marks(row: dict) -> list[bool]:
    """Whether each object is a crowd, difficult or a group."""
    kinds = [row[name] for name in ("crowd", "difficult", "group") if row[name]]
    return [any(marks) for marks in zip(*kinds)] if kinds else [False] * len(row["labels"])


def _class_texts(rows: list[dict], word: str) -> dict[int, str]:
    """Name by number of every class.

    Raises:
      DataError: one number with two names, or one name with two numbers: files of two label maps joined.
    """
    names: dict[int, str] = {}
    numbers: dict[str, int] = {}
    for row in rows:
        for label, text in zip(row["labels"], row["texts"]):
            before = names.get(label) or text
            if text and (before != text or numbers.get(text, label) != label):
                raise DataError(
                    f"{word}: {row['file']} says class {label} is {text!r}, but before that {label} was {before!r} and "
                    f"{text!r} was {numbers.get(text, label)}: files of two label maps were joined"
                )
            names[label] = before
            if text:
                numbers[text] = label
    return names
