"""A plain folder of images: without labels, or with a sub-folder per class."""

from __future__ import annotations

import os

from official.data import image_files
from official.data.source import Category, DataError, InputReport, Source


def open_folder(
    folder: str,
    *,
    classes: bool = False,
    full_check: bool = True,
    max_pixels: int = 100_000_000,
    max_skipped_fraction: float = 0.1,
) -> Source:
    """A source over every image below a folder, links followed; the id is the path inside it.

    A folder that is reached by two ways (a link beside it) is read once, by the one without a link where
    there is one.

    Args:
      classes: the first folder of an image's path is its class; an image beside these folders is
        skipped and counted.

    Raises:
      DataError: no folder, nothing usable, too much unusable, or no sub-folder for the classes.
    """
    word, report = f"folder:{folder}", InputReport()
    image_files.require_folder(folder, word)
    names = list(image_files.walk(folder))
    if classes:
        names = _with_a_class(names, folder, report)
    names = _once(names, folder, classes, report)
    paths = [os.path.join(folder, name) for name in names]
    shown = [image_files.displayed(name) for name in names]
    facts = image_files.inspect_images(paths, shown, report, full=full_check, max_pixels=max_pixels)
    report.check(word, len(paths) + report.counts[NO_CLASS], max_skipped_fraction)
    kept = [i for i, fact in enumerate(facts) if fact is not None]
    source = image_files.file_source(word, kept, shown, paths, facts, report)
    if not classes:
        return source
    first = [_class_of(shown[i]) for i in kept]
    found = sorted(set(first))
    return source.with_classes(
        [found.index(name) for name in first], [Category(i + 1, name) for i, name in enumerate(found)]
    )


NO_CLASS = "image outside the class folders"
TWICE = "image in a folder that is reached by two ways: read once"


def _once(names: list[str], folder: str, classes: bool, report: InputReport) -> list[str]:
    """The names without those of folders that are there under another name too (in the same class)."""
    places = sorted({os.path.dirname(name) for name in names})
    root = os.path.realpath(folder)
    real = {place: os.path.realpath(os.path.join(folder, place)) for place in places}
    own = {place for place in places if real[place] == os.path.normpath(os.path.join(root, place))}
    first: dict[tuple[str, str], str] = {}
    for place in sorted(places, key=lambda p: (p not in own, p)):
        first.setdefault((_class_of(place) if classes else "", real[place]), place)
    kept = set(first.values())
    for name in names:
        if os.path.dirname(name) not in kept:
            report.note(TWICE, image_files.displayed(os.path.join(folder, name)), image_files.displayed(name))
    return [name for name in names if os.path.dirname(name) in kept]


def _class_of(name: str) -> str:
    return name.split(os.sep, 1)[0]


def _with_a_class(names: list[str], folder: str, report: InputReport) -> list[str]:
    inside = [name for name in names if os.sep in name]
    if names and not inside:
        raise DataError(
            f"folder:{folder} has images but no folders; for classification give every class a folder, "
            f"{folder}/CLASS/*.jpg; contrastive pre-training takes them without classes as --unlabeled_data"
        )
    for name in names:
        if os.sep not in name:
            report.skip_image(
                NO_CLASS, image_files.displayed(os.path.join(folder, name)), image_files.displayed(name)
            )
    return inside
