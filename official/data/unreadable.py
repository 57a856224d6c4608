"""Names the image that became unreadable while it was in use: TensorFlow's own message does not."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
from typing import Iterator

import tensorflow as tf

from official.data.input_report import DataError
from official.data.source import Source
from official.errors import in_words, one_line


@contextlib.contextmanager
def naming_unreadable(*sources: Source) -> Iterator[None]:
    """Turns what TensorFlow raises inside for an image or a mask of `sources` into a DataError that names it.

    All were looked at when the sources were opened, so each is read once more to find the one.

    Raises:
      DataError: names the file and the remedy. What is no image's fault is raised as it came.
    """
    try:
        yield
    except tf.errors.OpError as error:
        if in_words(error):
            raise
        for source in sources:
            found = first_unreadable(source)
            if found:
                raise DataError(found) from error
        raise


def first_unreadable(source: Source) -> str:
    """A sentence about the first image of a source that cannot be read (any more), "" if all can."""
    with concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        reasons = pool.map(lambda index: _reason(source, index), range(len(source)))
        for index, reason in enumerate(reasons):
            if reason:
                pool.shutdown(wait=False, cancel_futures=True)
                name = source.file_names[index] if source.file_names is not None else source.word
                return (
                    f"{name} (id {source.ids[index]}) cannot be read any more ({reason}). Put it back, or "
                    "give the disk time to return; the same command goes on from the last saved state."
                )
    return ""


def _reason(source: Source, index: int) -> str:
    """TensorFlow's words for why image `index` or its mask cannot be read, "" if it can."""
    try:
        for read in (source.read_image, source.read_mask):
            if read is not None:
                read(tf.constant(index, tf.int64))
    except tf.errors.OpError as error:
        return one_line(error.message) or type(error).__name__
    return ""
