"""TFRecords: random access by byte offset, and TF Examples in the layout of the original stack.

A TFRecord file has no index. Opening one reads it once with TensorFlow's own reader, which verifies the
checksums, notes where every record starts and parses everything but the pixels; an image is then read by
seeking to its record.

Keys: tensorflow/tpu models/official/detection/dataloader/tf_example_decoder.py:50-75, with
`image/object/class/text`, `image/object/score` and `image/filename` added.
"""

from __future__ import annotations

import collections
import collections.abc
import dataclasses
import functools
import hashlib
import json
import os
import sys
import zlib
from typing import Any, Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from official.data import image_files, index
from official.data.formats.mask_files import encode_class_map, note_classes, present_labels, sized_class_map
from official.data.input_report import DataError, InputReport, shown
from official.data.labels import ImageTable, RawObjects, clean_objects, note_crowded_classes
from official.data.source import Category, Source
from official.files import whole_file
from official.screen import counted

MASK_KEY = "image/segmentation/class/encoded"
MASK_NAMES_KEY = "image/segmentation/class/text"
CLASS_KEY, CLASS_NAME_KEY = "image/class/label", "image/class/text"  # of a whole image
_NO_CLASS = np.iinfo(np.int64).min
_OVERHEAD = 16  # length, its checksum, and the payload's checksum


def records(path: str) -> Iterator[tuple[int, bytes]]:
    """(offset, payload) of every record, its checksums verified.

    Raises:
      DataError: the file ends inside a record, or a checksum is wrong.
    """
    position = number = 0
    with tf.io.gfile.GFile(path, "rb") as file:
        if file.read(2) == b"\x1f\x8b":
            raise DataError(
                f"{path} is compressed; unpack it: records are read one by one from where they start"
            )
    try:
        for payload in tf.data.TFRecordDataset(path).as_numpy_iterator():
            yield position + 12, payload
            position, number = position + _OVERHEAD + len(payload), number + 1
    except tf.errors.DataLossError as error:
        message = str(error.message).split("[[")[0].strip()[:120]
        raise DataError(
            f"{path} is truncated or damaged: record {number} at byte {position} ({message})"
        ) from error


@dataclasses.dataclass(frozen=True)
class RecordOffsets:
    """Where records are.

    Attributes:
      paths: of the files.
      file: int32 [N], number of each record's file; offset, length: int64 [N], of its payload in bytes.
      checksum: uint32 [N], CRC-32 of the payload.
    """

    paths: Sequence[str]
    file: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    checksum: np.ndarray

    @classmethod
    def of(cls, paths: Sequence[str], rows: Sequence[tuple[int, int, int, int]]) -> RecordOffsets:
        """Args: rows: file, offset, length and checksum of every record."""
        columns = np.array(rows, np.int64).reshape(-1, 4).T
        return cls(
            paths,
            *(
                column.astype(dtype)
                for column, dtype in zip(columns, (np.int32, np.int64, np.int64, np.uint32))
            ),
        )


_reading = {"in_graph": False}


def read_in_graph(wanted: bool) -> None:
    """Whether records are read by TensorFlow's operations alone, from now on in this process.

    So can machines that run no Python of ours, the hosts of a TPU pod. A record that was replaced by a whole
    one of the same length is not noticed then, and under TensorFlow's switch for determinism these operations
    run one after the other.
    """
    _reading["in_graph"] = wanted


def record_reader(places: RecordOffsets) -> Callable[[tf.Tensor], tf.Tensor]:
    """A graph function: record number -> its bytes (scalar string); an error if they are not what was there
    before.
    """
    return _graph_reader(places) if _reading["in_graph"] else _python_reader(places)


def _python_reader(places: RecordOffsets) -> Callable[[tf.Tensor], tf.Tensor]:
    def seek(index):
        path, offset = places.paths[places.file[index]], int(places.offset[index])
        with tf.io.gfile.GFile(path, "rb") as file:
            file.seek(offset)
            payload = file.read(int(places.length[index]))
        if zlib.crc32(payload) != places.checksum[index]:
            raise DataError(f"{path} has changed since it was opened: the record at byte {offset - 12}")
        return payload

    def read(index):
        return tf.ensure_shape(tf.numpy_function(seek, [index], tf.string, stateful=False), [])

    return read


def _graph_reader(places: RecordOffsets) -> Callable[[tf.Tensor], tf.Tensor]:
    """Reads with the checksums that the file itself has."""
    paths, columns = tf.constant(list(places.paths)), (places.file, places.offset, places.length)
    tables = [tf.constant(column) for column in columns]

    def read(index):
        file, offset, length = (tf.gather(table, index) for table in tables)
        path = tf.gather(paths, file)
        dataset = tf.raw_ops.TFRecordDatasetV2(
            filenames=path[None],
            compression_type="",
            buffer_size=length + _OVERHEAD,
            byte_offsets=(offset - 12)[None],
        )
        one = {"output_types": [tf.string], "output_shapes": [[]]}
        dataset = tf.raw_ops.TakeDataset(input_dataset=dataset, count=1, **one)
        payload = tf.raw_ops.DatasetToSingleElement(dataset=dataset, **one)[0]
        same = tf.equal(tf.strings.length(payload), tf.cast(length, tf.int32))
        changed = tf.strings.join(
            [path, " has changed since it was opened: the record at byte ", tf.strings.as_string(offset - 12)]
        )
        with tf.control_dependencies([tf.debugging.Assert(same, [changed])]):
            return tf.identity(payload)

    return read


def encode_example(
    encoded: bytes,
    image_id: str,
    file_name: str,
    size: tuple[int, int],
    objects: dict,
    names: Sequence[str],
    numbers: Sequence[int] | None = None,
) -> tf.train.Example:
    """One image as a TF Example; boxes normalised.

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


def add_class(example: tf.train.Example, category: Category) -> None:
    """Adds the class of the whole image, its number and its name, in the keys of ImageNet's TF Examples."""
    feature = example.features.feature
    feature[CLASS_KEY].int64_list.value.append(category.id)
    feature[CLASS_NAME_KEY].bytes_list.value.append(category.name.encode())


def write_tfrecords(source: Source, prefix: str, num_shards: int) -> list[str]:
    """Writes a labelled or unlabelled source as `prefix-00000-of-0000N.tfrecord` shards, atomically; classes
    by their ids.

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
                if source.image_classes is not None and source.image_classes[i] >= 0:
                    add_class(record, source.categories[source.image_classes[i]])
                if source.read_mask is not None:
                    add_mask(
                        record, encode_class_map(source.read_mask(tf.constant(i, tf.int64)).numpy()), names
                    )
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
    pattern: str,
    *,
    full_check: bool = True,
    max_pixels: int = 100_000_000,
    max_skipped_fraction: float = 0.1,
    labeled: bool = True,
    masks: bool = False,
    classes: bool = False,
    crowd: str = "ignore",
) -> Source:
    """A source over TFRecords of TF Examples with boxes, with a class map, or with a class of the whole
    image.

    Args:
      pattern: a glob, or several joined by "+".
      labeled: False reads images alone.
      masks: labels are class maps in place of boxes.
      classes: labels are classes of whole images, where any record has one; else boxes.
      crowd: see `official.data.labels.clean_objects`.

    Raises:
      DataError: no file, a damaged file, a record that is not such an Example, texts that contradict the
        numbers of classes; too much unusable.
    """
    word = f"tfrecord:{pattern}"
    paths = sorted(p for part in joined_globs(pattern) for p in tf.io.gfile.glob(part))
    if not paths:
        raise DataError(f"{word}: no file matches")
    options: dict[str, Any] = {"full_check": full_check, "max_pixels": max_pixels, "masks": masks and labeled}
    parts = index.of_files(
        "records", paths, options, functools.partial(_columns_of, **options), "reading records"
    )
    report, found = InputReport(), _joined(parts, paths)
    for reason, file, image_id in (skip for part in parts for skip in json.loads(bytes(part["skipped"]))):
        report.skip_image(reason, file, image_id)
    report.check(word, len(found.ids) + report.skipped_images, max_skipped_fraction)
    _refuse_repeated(found.ids, word)
    read_record = record_reader(found.places)

    def read_encoded(index):
        spec = {"image/encoded": tf.io.FixedLenFeature([], tf.string)}
        return tf.io.parse_single_example(read_record(index), spec)["image/encoded"]

    source = Source(
        word=word,
        ids=found.ids,
        sizes=found.sizes,
        read_image=image_files.stored_reader(read_encoded, found.by_pillow),
        file_names=RecordNames(found.places),
        report=report,
    )
    if not labeled:
        return source
    if masks:
        return source.with_masks(_mask_reader(read_record), _mask_categories(parts, word, report))
    if classes and (found.image_class != _NO_CLASS).any():
        return _classified(source, found)
    source = _labelled(source, found, crowd)
    report.check_objects(word, max_skipped_fraction)
    return source


def joined_globs(pattern: str) -> list[str]:
    """Globs joined by "+"; a plus in a name is understood where the whole matches, and may be written with a
    backslash.
    """
    if tf.io.gfile.glob(pattern):
        return [pattern]
    return [part.replace("\0", "+") for part in pattern.replace("\\+", "\0").split("+")]


def _mask_reader(read_record: Callable[[tf.Tensor], tf.Tensor]) -> Callable[[tf.Tensor], tf.Tensor]:
    def read(index):
        spec = {MASK_KEY: tf.io.FixedLenFeature([], tf.string)}
        encoded = tf.io.parse_single_example(read_record(index), spec)[MASK_KEY]
        return tf.io.decode_png(encoded, channels=1)[..., 0]

    return read


def _mask_categories(parts: Sequence[index.Columns], word: str, report: InputReport) -> list[Category]:
    """Names from the records, else numbers up to the highest label.

    Raises:
      DataError: see `note_classes`; records that name the classes differently.
    """
    named = {tuple(names) for part in parts for names in json.loads(bytes(part["mask_names"]))}
    if len(named) > 1:
        raise DataError(
            f"{word}: its records name the classes of masks differently: {shown(sorted(named), 2)}"
        )
    present = np.sum([part["present"] for part in parts], axis=0)
    names = note_classes(word, present, next(iter(named), None), report)
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
        "class": (column(CLASS_KEY, "int64_list") or [_NO_CLASS])[0],
        "class_text": (texts(CLASS_NAME_KEY) or [""])[0],
        "corners": np.array(corners, np.float64).T.reshape(-1, 4),
        "labels": labels,
        **columns,
        "texts": [t.decode("utf-8", "backslashreplace") for t in columns["texts"]] or [""] * len(labels),
    }


def _usable(row: dict, full_check: bool, max_pixels: int, report: InputReport, masks: bool) -> dict | None:
    """Adds the image's own size (the stored one may be -1); None if undecodable."""
    facts = image_files.inspect_stored(row.pop("encoded"), full=full_check, max_pixels=max_pixels)
    if isinstance(facts, str):
        report.skip_image(facts, row["file"], row["id"])
        return None
    row, encoded_mask = (
        {**row, "size": (facts.height, facts.width), "by_pillow": facts.by_pillow},
        row.pop("mask"),
    )
    if masks:
        values = sized_class_map(encoded_mask, row["size"])
        if isinstance(values, str):
            report.skip_image(values, row["file"], row["id"])
            return None
        return {**row, "present": present_labels(values)}
    return row


def _refuse_repeated(ids: np.ndarray, word: str) -> None:
    if len(np.unique(ids)) < len(ids):
        repeated = [i for i, n in collections.Counter(ids.tolist()).items() if n > 1]
        raise DataError(f"{word}: image id {shown(repeated)} occurs more than once")


# --- columns ----------------------------------------------------------------------------------------


def _columns_of(
    path: str, progress: Callable[[int], None], *, full_check: bool, max_pixels: int, masks: bool
) -> index.Columns:
    """What the index keeps of one file: its usable records in columns, and what was left out."""
    report, rows, places = InputReport(), [], []
    report.MAX_ENTRIES = sys.maxsize  # each is told again when the index is read
    for number, (offset, payload) in enumerate(records(path)):
        row = _usable(_parse(payload, path, number, offset), full_check, max_pixels, report, masks)
        if row is not None:
            rows.append(row)
            places.append((0, offset, len(payload), zlib.crc32(payload)))
        progress(len(payload) + _OVERHEAD)
    counts = [len(row["labels"]) for row in rows]
    named = dict.fromkeys(text for row in rows for text in (*row["texts"], row["class_text"]))
    names = {text: i for i, text in enumerate(named)}
    where = RecordOffsets.of([path], places)
    nothing = np.zeros([0, 4])
    skipped = [(entry["reason"], entry["file"], entry["image_id"]) for entry in report.entries]
    mask_names = sorted({tuple(row["mask_names"]) for row in rows if row["mask_names"]})

    def column(values, dtype):
        return np.array([value for row in values for value in row], dtype)

    return {
        **{name: getattr(where, name) for name in ("offset", "length", "checksum")},
        "ids": index.texts([row["id"] for row in rows]),
        "sizes": np.array([row["size"] for row in rows], np.int32).reshape(-1, 2),
        "by_pillow": np.array([row["by_pillow"] for row in rows], bool),
        "counts": np.array(counts, np.int64),
        "corners": np.concatenate([nothing, *(row["corners"] for row in rows)]).astype(np.float32),
        "labels": column((row["labels"] for row in rows), np.int64),
        "crowd": column((_marks(row) for row in rows), bool),
        "area": column((row["area"] or [np.nan] * n for row, n in zip(rows, counts)), np.float32),
        "has_area": np.array([bool(row["area"]) for row in rows], bool),
        "scores": column((row["scores"] or [1.0] * n for row, n in zip(rows, counts)), np.float32),
        "texts": column(([names[text] for text in row["texts"]] for row in rows), np.int32),
        "image_class": np.array([row["class"] for row in rows], np.int64),
        "image_text": np.array([names[row["class_text"]] for row in rows], np.int32),
        "names": _json_column(list(names)),
        "mask_names": _json_column(mask_names),
        "present": sum((row["present"] for row in rows), np.zeros(256, np.int64))
        if masks
        else np.zeros(0, np.int64),
        "skipped": _json_column(skipped),
    }


def _json_column(value: Any) -> np.ndarray:
    return np.frombuffer(json.dumps(value).encode(), np.uint8)


@dataclasses.dataclass(frozen=True)
class _Found:
    """The usable records of all files; see `_columns_of` and, of objects, `RawObjects`."""

    places: RecordOffsets
    ids: np.ndarray
    sizes: np.ndarray
    by_pillow: np.ndarray
    counts: np.ndarray
    corners: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    area: np.ndarray
    has_area: np.ndarray
    scores: np.ndarray
    texts: np.ndarray
    image_class: np.ndarray
    image_text: np.ndarray
    names: list[str]


def _joined(parts: Sequence[index.Columns], paths: Sequence[str]) -> _Found:
    columns = {
        field.name: [part[field.name] for part in parts]
        for field in dataclasses.fields(_Found)
        if field.name != "places"
    }
    names: dict[str, int] = {}
    for number, own in enumerate(columns.pop("names")):
        place = np.array([names.setdefault(name, len(names)) for name in json.loads(bytes(own))], np.int32)
        for name in ("texts", "image_text"):
            columns[name][number] = place[columns[name][number]]
    whole = {name: np.concatenate(values) for name, values in columns.items()}
    whole["ids"] = index.as_text(whole["ids"])
    file = np.repeat(np.arange(len(parts), dtype=np.int32), [len(part["offset"]) for part in parts])
    where = [np.concatenate([part[name] for part in parts]) for name in ("offset", "length", "checksum")]
    return _Found(places=RecordOffsets(paths, file, *where), names=list(names), **whole)


class RecordNames(collections.abc.Sequence):
    """What each record is called in lists and messages, FILE@OFFSET, spelled out where it is asked for."""

    def __init__(self, places: RecordOffsets) -> None:
        self.places = places

    def __len__(self) -> int:
        return len(self.places.file)

    def __getitem__(self, index: Any) -> Any:
        """The name of one record, or the names of those that an array or a slice chooses."""
        file, offset = self.places.file[index], self.places.offset[index]
        if np.ndim(file) == 0:
            return f"{self.places.paths[file]}@{offset}"
        columns = {name: getattr(self.places, name)[index] for name in ("length", "checksum")}
        return RecordNames(dataclasses.replace(self.places, file=file, offset=offset, **columns))

    def __array__(self, dtype: Any = None) -> np.ndarray:
        return np.array(list(self), dtype or str)

    def tolist(self) -> list[str]:
        """All of them."""
        return list(self)


def _labelled(source: Source, found: _Found, crowd: str) -> Source:
    images = np.repeat(np.arange(len(source)), found.counts)
    names = _class_texts(found.labels, found.texts, images, found.names, source)
    order = sorted(names)
    raw = RawObjects(
        images=images,
        boxes=found.corners.astype(np.float64) * np.tile(found.sizes.astype(np.float64), 2)[images],
        classes=found.labels,
        box_format="yxyx",
        crowd=found.crowd,
        area=found.area.astype(np.float64) if (found.has_area | (found.counts == 0)).all() else None,
        scores=found.scores.astype(np.float64),
    )
    table = ImageTable(source.ids, source.names, source.sizes)
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


def _classified(source: Source, found: _Found) -> Source:
    known = found.image_class != _NO_CLASS
    names = _class_texts(
        found.image_class[known], found.image_text[known], np.flatnonzero(known), found.names, source
    )
    order = np.array(sorted(names), np.int64)
    places = np.where(known, np.searchsorted(order, found.image_class), -1)
    return source.with_classes(
        places, [Category(int(label), names[label] or str(label)) for label in order.tolist()]
    )


def _class_texts(
    labels: np.ndarray, texts: np.ndarray, images: np.ndarray, texts_of: Sequence[str], source: Source
) -> dict[int, str]:
    """Name by number of every class.

    Args:
      labels, texts, images: int [N], of every object its number, its text (an index into `texts_of`) and its
        image.

    Raises:
      DataError: one number with two names, or one name with two numbers: files of two label maps joined.
    """
    names: dict[int, str] = {}
    numbers: dict[str, int] = {}
    _, first = np.unique(np.stack([labels, texts], axis=1), axis=0, return_index=True)
    for row in np.sort(first):  # a pair that comes again says nothing new
        label, text = int(labels[row]), texts_of[texts[row]]
        before = names.get(label) or text
        if text and (before != text or numbers.get(text, label) != label):
            file = source.names[images[row]]
            raise DataError(
                f"{source.word}: {file} says class {label} is {text!r}, but before that {label} was "
                f"{before!r} and "
                f"{text!r} was {numbers.get(text, label)}: files of two label maps were joined"
            )
        names[label] = before
        if text:
            numbers[text] = label
    return names
