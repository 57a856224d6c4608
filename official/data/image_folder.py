"""A plain folder of pictures, without labels."""

from __future__ import annotations

import os

import numpy as np

from official.data import image_files
from official.data.source import InputReport, Source


def open_folder(
    folder: str,
    *,
    full_check: bool = True,
    max_pixels: int = 100_000_000,
    max_skipped_fraction: float = 0.1,
) -> Source:
    """An unlabelled source over every picture below a folder; the id is the path inside it.

    Raises:
      DataError: no folder, nothing usable, or too much unusable.
    """
    word, report = f"folder:{folder}", InputReport()
    image_files.require_folder(folder, word)
    names = []
    for root, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            if name.lower().endswith(image_files.EXTENSIONS):
                names.append(os.path.relpath(os.path.join(root, name), folder))
    paths = [os.path.join(folder, name) for name in names]
    facts = image_files.inspect_images(paths, names, report, full=full_check, max_pixels=max_pixels)
    report.check(word, len(paths), max_skipped_fraction)
    kept = [i for i, fact in enumerate(facts) if fact is not None]
    return Source(
        word=word,
        ids=np.array([names[i] for i in kept]),
        sizes=np.array([(facts[i].height, facts[i].width) for i in kept], np.int32),
        read_image=image_files.path_reader([paths[i] for i in kept], [facts[i].orientation for i in kept]),
        file_names=np.array([paths[i] for i in kept]),
        report=report,
    )
