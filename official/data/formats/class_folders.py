"""Images with a class each as a folder of class folders, which people correct by moving files."""

from __future__ import annotations

import os

from official.data.formats.export import image_names, whole_folder, write_image
from official.data.input_report import DataError
from official.data.source import Source
from official.files import output_names


def write_class_folders(source: Source, folder: str, image_files: str = "copy") -> list[str]:
    """Writes `FOLDER/CLASS/IMAGE`, a folder for every class; `folder:FOLDER` reads it.

    File names are all different, so that an image that was moved is known by its name.

    Args:
      source: with a class for every image.
      folder: new, or empty; it appears by one rename.
      image_files: "copy", or "link": hard links where the disk allows it.

    Returns:
      The path of every image below the folder.

    Raises:
      DataError: the folder exists; a class whose name no folder can have.
    """
    classes = [category.name for category in source.categories]
    for name in classes:
        if not _can_be_a_folder(name):
            raise DataError(
                f"the class {name!r} cannot be the name of a folder that is read again: rename it"
            )
    flat = [name.replace(os.sep, "__") for name in image_names(source)]
    stems = output_names([os.path.splitext(name)[0] + ".x" for name in flat], "")
    names = [stem + os.path.splitext(name)[1] for stem, name in zip(stems, flat)]
    paths = [os.path.join(classes[label], name) for label, name in zip(source.image_labels, names)]
    with whole_folder(folder) as unfinished:
        for name in classes:
            os.makedirs(os.path.join(unfinished, name))
        for i, path in enumerate(paths):
            write_image(source, i, os.path.join(unfinished, path), image_files)
    return paths


def _can_be_a_folder(name: str) -> bool:
    return (
        bool(name)
        and not name.startswith(".")
        and "/" not in name
        and "\0" not in name
        and len(name.encode()) < 256
    )
