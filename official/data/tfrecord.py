"""TFRecords: random access by byte offset, and TF Examples in the layout of the original stack.

A TFRecord file has no index. Opening one walks it once, notes where every record starts and parses
everything but the pixels; a picture is then read by seeking to its record.

Keys: tensorflow/tpu models/official/detection/dataloader/tf_example_decoder.py:50-75, with
`image/object/class/text`, `image/object/score` and `image/filename` added.
"""

from __future__ import annotations

import hashlib
import os
import struct
from typing import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf
import tqdm

from official.data import image_files
from official.data.mask_files import encode_class_map, highest_label, sized_class_map
from official.data.source import Annotations, Category, DataError, InputReport, Source, clean_boxes

MASK_KEY = "image/segmentation/class/encoded"
MASK_NAMES_KEY = "image/segmentation/class/text"
_HEADER = struct.Struct("<Q")
_OVERHEAD = 16  # length, its checksum, and the payload's checksum


def record_offsets(path: str) -> Iterator[tuple[int, int]]:
    """(offset, length) of every record's payload.

    Raises:
      DataError: the file ends inside a record.
    """
    size = tf.io.gfile.stat(path).length
    position = 0
    with tf.io.gfile.GFile(path, "rb") as file:
        while position < size:
            file.seek(position)
            header = file.read(_HEADER.size)
            length = _HEADER.unpack(header)[0] if len(header) == _HEADER.size else size
            if position + _OVERHEAD + length > size:
                raise DataError(f"{path} is truncated: a record at byte {position} reaches past its end")
            yield position + 12, length
            position += _OVERHEAD + length


def read_at(path: str, offset: int, length: int) -> bytes:
    """The payload of one record."""
    with tf.io.gfile.GFile(path, "rb") as file:
        file.seek(offset)
        return file.read(length)


def record_reader(
    paths: Sequence[str], files: Sequence[int], offsets: Sequence[int], lengths: Sequence[int]
) -> Callable[[tf.Tensor], tf.Tensor]:
    """A graph function: record number -> its bytes (scalar string)."""
    tables = [np.asarray(t, np.int64) for t in (files, offsets, lengths)]

    def seek(index):
        number, offset, length = (int(table[index]) for table in tables)
        return read_at(paths[number], offset, length)

    def read(index):
        return tf.ensure_shape(tf.numpy_function(seek, [index], tf.string, stateful=False), [])

    return read


def encode_example(
    encoded: bytes, image_id: str, file_name: str, size: tuple[int, int], objects: dict, names: Sequence[str]
) -> tf.train.Example:
    """One picture as a TF Example; boxes normalised, labels 1-based.

    Args:
      encoded: JPEG or PNG bytes (may be empty in a label store).
      size: (height, width).
      objects: "boxes" yxyx pixels, "classes" 0-based, "crowd", "area", "scores".
      names: of the classes.
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
        "image/object/class/label": ints(classes + 1),
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
    """Writes a labelled or unlabelled source as `prefix-00000-of-0000N.tfrecord` shards, atomically.

    Files that are JPEG or PNG already are copied byte for byte if upright, others become PNG.

    Returns:
      The paths written.
    """
    os.makedirs(os.path.dirname(os.path.abspath(prefix)), exist_ok=True)
    names = [category.name for category in source.categories]
    nothing = {"boxes": np.zeros((0, 4)), "classes": [], "crowd": [], "area": [], "scores": []}
    paths = [f"{prefix}-{s:05d}-of-{num_shards:05d}.tfrecord" for s in range(num_shards)]
    for shard, path in enumerate(tqdm.tqdm(paths, "writing shards", unit=" shards")):
        with tf.io.TFRecordWriter(path + ".tmp") as writer:
            for i in range(shard, len(source), num_shards):
                image = source.read_image(tf.constant(i, tf.int64))
                objects = source.annotations.of(i) if source.annotations else nothing
                file_name = str(source.file_names[i]) if source.file_names is not None else ""
                encoded = _encoded(file_name, image)
                size = tuple(image.shape[:2])
                record = encode_example(encoded, source.ids[i], os.path.basename(file_name), size, objects, names)
                if source.read_mask is not None:
                    add_mask(record, encode_class_map(source.read_mask(tf.constant(i, tf.int64)).numpy()), names)
                writer.write(record.SerializeToString())
        os.replace(path + ".tmp", path)
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
    pattern: str, *, max_pixels: int = 100_000_000, max_skipped_fraction: float = 0.1, labeled: bool = True,
    masks: bool = False,
) -> Source:  # fmt: skip
    """A source over TFRecords of TF Examples with boxes, or with a class map.

    Args:
      pattern: a glob, or several joined by "+".
      labeled: False reads pictures alone.
      masks: labels are class maps in place of boxes.

    Raises:
      DataError: no file, a truncated file, a record that is not such an Example.
    """
    word = f"tfrecord:{pattern}"
    paths = sorted(p for part in pattern.split("+") for p in tf.io.gfile.glob(part))
    if not paths:
        raise DataError(f"{word}: no file matches")
    report, places, rows = InputReport(), [], []
    for number, path in enumerate(paths):
        for offset, length in record_offsets(path):
            row = _parse(read_at(path, offset, length), path, offset)
            row = _usable(row, path, max_pixels, report, masks and labeled)
            if row is not None:
                places.append((number, offset, length))
                rows.append(row)
    report.check(word, len(rows) + report.skipped_images, max_skipped_fraction)
    _refuse_repeated([row["id"] for row in rows], word)
    read_record = record_reader(paths, *zip(*places))

    def read_image(index):
        spec = {"image/encoded": tf.io.FixedLenFeature([], tf.string)}
        return image_files.decode(tf.io.parse_single_example(read_record(index), spec)["image/encoded"])

    source = Source(
        word=word,
        ids=np.array([row["id"] for row in rows]),
        sizes=np.array([row["size"] for row in rows], np.int32),
        read_image=read_image,
        file_names=np.array([row["file"] for row in rows]),
        report=report,
    )
    if not labeled:
        return source
    if masks:
        return source.with_masks(_mask_reader(read_record), _mask_categories(rows))
    return source.with_annotations(*_labels(rows))


def _mask_reader(read_record):
    def read(index):
        spec = {MASK_KEY: tf.io.FixedLenFeature([], tf.string)}
        encoded = tf.io.parse_single_example(read_record(index), spec)[MASK_KEY]
        return tf.io.decode_png(encoded, channels=1)[..., 0]

    return read


def _mask_categories(rows: list[dict]) -> list[Category]:
    """Names from the records, else numbers up to the highest label."""
    names = max((row["mask_names"] for row in rows), key=len)
    highest = max(row["highest_label"] for row in rows)
    return [Category(i, name) for i, name in enumerate(names or map(str, range(highest + 1)))]


def _parse(payload: bytes, path: str, offset: int) -> dict:
    example = tf.train.Example()
    try:
        example.ParseFromString(payload)
    except Exception as error:
        raise DataError(f"{path}: the record at byte {offset} is not a TF Example") from error
    feature = example.features.feature

    def column(name, kind):
        return list(getattr(feature[name], kind).value)

    encoded = column("image/encoded", "bytes_list")
    corners = [column(f"image/object/bbox/{k}", "float_list") for k in ("ymin", "xmin", "ymax", "xmax")]
    labels = column("image/object/class/label", "int64_list")
    if any(len(c) != len(labels) for c in corners):
        raise DataError(f"{path}: the record at byte {offset} has {len(labels)} labels but other counts of boxes")
    source_id = (column("image/source_id", "bytes_list") or [b""])[0].decode()
    return {
        "encoded": encoded[0] if encoded else b"",
        "mask": (column(MASK_KEY, "bytes_list") or [b""])[0],
        "mask_names": [t.decode() for t in column(MASK_NAMES_KEY, "bytes_list")],
        "id": source_id or str(int(hashlib.sha256(payload).hexdigest()[:15], 16)),
        "file": f"{path}@{offset}",
        "corners": np.array(corners, np.float64).T.reshape(-1, 4),
        "labels": labels,
        "texts": [t.decode() for t in column("image/object/class/text", "bytes_list")],
        "crowd": column("image/object/is_crowd", "int64_list") or [0] * len(labels),
        "area": column("image/object/area", "float_list") or [np.nan] * len(labels),
        "scores": column("image/object/score", "float_list") or [1.0] * len(labels),
    }


def _usable(row: dict, path: str, max_pixels: int, report: InputReport, masks: bool) -> dict | None:
    """Adds the picture's own size (the stored one may be -1) and pixel boxes; None if undecodable."""
    size = image_size(row.pop("encoded"))
    if size is None or size[0] * size[1] > max_pixels:
        report.skip_image("not a readable image" if size is None else "too many pixels", row["file"], row["id"])
        return None
    encoded_mask = row.pop("mask")
    if masks:
        values = sized_class_map(encoded_mask, size)
        if isinstance(values, str):
            report.skip_image(values, row["file"], row["id"])
            return None
        return {**row, "size": size, "highest_label": highest_label(values)}
    objects = {
        "boxes": row["corners"] * (size[0], size[1], size[0], size[1]),
        "labels": np.array(row["labels"], np.int64),
        "crowd": np.array(row["crowd"], bool),
        "area": np.array(row["area"], np.float32),
        "scores": np.array(row["scores"], np.float32),
        "texts": np.array(row["texts"] or [""] * len(row["labels"])),
    }
    return {**row, "size": size, "objects": clean_boxes(objects, size, report, row["file"], row["id"])}


def image_size(encoded: bytes) -> tuple[int, int] | None:
    """(height, width) of encoded bytes by their header, or None."""
    import io

    from PIL import Image

    try:
        with Image.open(io.BytesIO(encoded)) as image:
            return image.size[1], image.size[0]
    except Exception:
        return None


def _refuse_repeated(ids: Sequence[str], word: str) -> None:
    seen = set()
    for image_id in ids:
        if image_id in seen:
            raise DataError(f"{word}: image id {image_id} occurs more than once")
        seen.add(image_id)


def _labels(rows: list[dict]) -> tuple[Annotations, tuple[Category, ...]]:
    names = {}
    for row in rows:
        for label, text in zip(row["objects"]["labels"], row["objects"]["texts"]):
            names.setdefault(int(label), str(text) or str(label))
    order = sorted(names)
    objects = [
        {
            **{k: row["objects"][k] for k in ("boxes", "crowd", "area", "scores")},
            "classes": np.array([order.index(int(v)) for v in row["objects"]["labels"]], np.int32),
        }
        for row in rows
    ]
    return Annotations.from_images(objects), tuple(Category(i, names[i]) for i in order)
