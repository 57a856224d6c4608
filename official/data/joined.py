"""Several sources as one, and sources whose classes are put in the order of a list."""

from __future__ import annotations

import collections
import dataclasses
from typing import Callable, Sequence

import numpy as np
import tensorflow as tf

from official.data.formats.coco_json import read_json_file
from official.data.formats.coco_masks import mask_categories
from official.data.frames import Frames
from official.data.input_report import DataError, InputReport, printable, shown
from official.data.labels import identifier
from official.data.source import Annotations, Category, Source
from official.data.text_lists import read_lines


def read_classes(path: str) -> tuple[Category, ...]:
    """The classes that a file lists: a name a line, ids from 1, or a COCO JSON.

    Raises:
      DataError: none there, or one twice.
    """
    if path.endswith(".json"):
        content = read_json_file(path, "COCO JSON")
        entries = content.get("categories") if isinstance(content, dict) else None
        entries = entries if isinstance(entries, list) else []
        if not all(
            isinstance(e, dict) and isinstance(e.get("id"), int) and identifier(e.get("name"))
            for e in entries
        ):
            raise DataError(f"--classes={path}: a category has no id or no name")
        found = sorted(
            (Category(e["id"], identifier(e["name"])) for e in entries), key=lambda category: category.id
        )
    else:
        found = [
            Category(i + 1, printable(name)) for i, name in enumerate(read_lines(path, "--classes file"))
        ]
    if not found or len({c.name for c in found}) < len(found) or len({c.id for c in found}) < len(found):
        raise DataError(
            f"--classes={path}: needs different names, one a line, not {shown(c.name for c in found)}"
        )
    return tuple(found)


def in_order(source: Source, categories: Sequence[Category]) -> Source:
    """A labelled source with these classes; masks keep their background in front.

    Raises:
      DataError: it has objects of another class.
    """
    names = [category.name for category in categories]
    if source.read_mask is not None and source.categories[0].name not in names:
        categories = mask_categories(categories)
    try:
        return source.aligned_to(categories)
    except DataError as error:
        raise DataError(f"{error}, which --classes names") from error


def join_sources(word: str, sources: Sequence[Source]) -> Source:
    """The images of all, in order. Ids of the second and later sources begin with "2:", "3:" ...

    Args:
      sources: all labelled, with the same kind of labels, or all without.

    Raises:
      DataError: their classes differ.
    """
    _refuse_other_classes(word, sources)
    first = sources[0]
    sources = [source.aligned_to(first.categories) for source in sources]
    ids = _ids(word, [source.ids for source in sources])
    report = InputReport()
    for source in sources:
        report.add(source.report)
    cut = any(source.cut_from is not None for source in sources)
    parts = [source.ids if source.cut_from is None else source.cut_from for source in sources]
    return Source(
        word=word,
        ids=ids,
        sizes=np.concatenate([source.sizes for source in sources]),
        read_image=_reader(sources, "read_image", (None, None, 3)),
        categories=first.categories,
        annotations=_annotations(sources),
        read_mask=_reader(sources, "read_mask", (None, None)) if first.read_mask is not None else None,
        image_classes=_column(sources, "image_classes"),
        file_names=np.concatenate([s.ids if s.file_names is None else s.file_names for s in sources]),
        report=report,
        frames=_frames(sources),
        cut_from=_ids(word, parts, unique=False) if cut else None,
    )


def _refuse_other_classes(word: str, sources: Sequence[Source]) -> None:
    first = {category.name for category in sources[0].categories}
    for source in sources[1:]:
        names = {category.name for category in source.categories}
        if names != first:
            raise DataError(
                f"{word}: the classes differ: {shown(sorted(first - names))} only in {sources[0].word}, "
                f"{shown(sorted(names - first))} only in {source.word}. Where a class that is not listed "
                "has no object in any of its images, --classes=FILE names all of them, one a line"
            )


def _ids(word: str, columns: Sequence[np.ndarray], unique: bool = True) -> np.ndarray:
    ids = [f"{place}:{i}" if place > 1 else str(i) for place, column in enumerate(columns, 1) for i in column]
    repeated = [i for i, n in collections.Counter(ids).items() if n > 1] if unique else []
    if repeated:
        raise DataError(f"{word}: image id {shown(repeated)} occurs more than once")
    return np.array(ids)


def _reader(sources: Sequence[Source], name: str, shape: tuple) -> Callable[[tf.Tensor], tf.Tensor]:
    """A graph function that reads image i of all with the function of its own source."""
    ends = np.cumsum([len(source) for source in sources]).astype(np.int64)
    starts = [0, *ends[:-1].tolist()]

    def read(index):
        index = tf.cast(index, tf.int64)
        branches = [
            lambda s=source, first=start: getattr(s, name)(index - first)
            for source, start in zip(sources, starts)
        ]
        which = tf.reduce_sum(tf.cast(index >= ends, tf.int32))
        return tf.ensure_shape(tf.switch_case(which, branches), shape)

    return read


def _column(sources: Sequence[Source], name: str) -> np.ndarray | None:
    columns = [getattr(source, name) for source in sources]
    return None if columns[0] is None else np.concatenate(columns)


def _annotations(sources: Sequence[Source]) -> Annotations | None:
    if sources[0].annotations is None:
        return None
    parts = [source.objects for source in sources]
    counts = np.concatenate([part.counts() for part in parts])
    columns = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts])
        for field in dataclasses.fields(Annotations)
        if field.name != "row_splits"
    }
    return Annotations(row_splits=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), **columns)


def _frames(sources: Sequence[Source]) -> Frames | None:
    if all(source.frames is None for source in sources):
        return None
    parts = [s.frames or Frames(s.sizes, np.ones(len(s), np.int8), s.sizes) for s in sources]
    return Frames(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in ("sizes", "turns", "read"))
    )
