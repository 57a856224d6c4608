"""Where the images of a data set are: sorted walks that follow links, and names that must fit one file
alone.
"""

from __future__ import annotations

import collections
import os
import re
import urllib.parse
from typing import Iterator, Sequence

from official.data.input_report import DataError, printable

EXTENSIONS = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".jpe", ".jfif")
# Folders that hold images of labels, by whole words in their names ("z_masks", "SegmentationClass",
# "gtFine").
_LABEL_WORDS = frozenset(
    "mask masks seg segs segmentation segmentations segmentationclass segmentationclassaug "
    "segmentationobject label labels labelled annotated visualization visualizations visualisation "
    "visualisations vis viz overlay overlays preview previews gt gtfine gtcoarse groundtruth instances "
    "panoptic semantic thumbnails thumbs".split()
)


def displayed(path: str) -> str:
    """A path that can be printed and kept in JSON; bytes that are no UTF-8 are spelled out."""
    try:
        path.encode("utf-8")
        return path
    except UnicodeEncodeError:
        return printable(os.fsencode(path).decode("utf-8", "backslashreplace"))


def require_folder(folder: str, word: str) -> None:
    """Raises DataError if the folder is not there."""
    if not os.path.isdir(folder):
        raise DataError(f"{word}: no folder {folder}")


def safe_join(folder: str, file_name: str) -> str | None:
    """`folder/file_name`, or None if the name as written climbs out of the folder or cannot be a file's.

    A link inside the folder may lead anywhere: who made the folder made the link.
    """
    try:
        os.fsencode(file_name)
    except UnicodeEncodeError:
        return None
    if not file_name or "\0" in file_name or os.path.isabs(file_name):
        return None
    inside = os.path.normpath(file_name)
    return None if inside == ".." or inside.startswith(".." + os.sep) else os.path.join(folder, file_name)


def walk(folder: str, ending: tuple[str, ...] = EXTENSIONS) -> Iterator[str]:
    """Paths below a folder, relative to it, of files with one of these endings (lower case): sorted, links
    followed.

    A link back to a folder that holds it is not followed; hidden folders and files are left out.
    """
    yield from _walk(folder, "", (os.path.realpath(folder),), ending)


def _walk(folder: str, below: str, above: tuple[str, ...], ending: tuple[str, ...]) -> Iterator[str]:
    folders = []
    for entry in sorted(os.scandir(os.path.join(folder, below) if below else folder), key=lambda e: e.name):
        name = os.path.join(below, entry.name)
        if entry.name.startswith("."):
            continue
        if _is_folder(entry):
            folders.append((name, entry.path))
        elif entry.name.lower().endswith(
            ending
        ):  # a link to nowhere is listed too: it is missed, and said so
            yield name
    for name, path in folders:
        real = os.path.realpath(path)
        if real not in above:
            yield from _walk(folder, name, (*above, real), ending)


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # links that lead round in a circle
        return False


def holds_labels(name: str) -> bool:
    """Whether a folder of this path says that its images are masks or drawings."""
    for folder in os.path.dirname(name).split(os.sep):
        words = re.split(r"[^a-z]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", folder).lower()) + [folder.lower()]
        if _LABEL_WORDS & set(words):
            return True
    return False


def named_image(folder: str, name: str) -> str | None:
    """The image in a folder with this name, or with it and any ending; None if there is none.

    Raises:
      DataError: two differ in their endings alone.
    """
    if name.lower().endswith(EXTENSIONS) and os.path.isfile(os.path.join(folder, name)):
        return os.path.join(folder, name)
    endings = [e for extension in EXTENSIONS for e in (extension, extension.upper(), extension.capitalize())]
    found = [name + e for e in dict.fromkeys(endings) if os.path.isfile(os.path.join(folder, name + e))]
    if len(found) > 1:
        first, second = (displayed(os.path.join(folder, f)) for f in found[:2])
        raise DataError(f"{printable(name)} may be {first} or {second}; say which with its ending")
    labels = holds_labels(os.path.join(os.path.basename(folder), "x"))
    return os.path.join(folder, found[0]) if found and not labels else None


GUESSED_FROM = 50  # images whose folder is looked for, before it must be said
_UPLOAD = re.compile(r"^[0-9a-f]{8}-(?=.)")  # what Label Studio puts before the name of an uploaded file


def is_foreign(name: str) -> bool:
    """Whether a name is one of a labelling server: a URL, or a path of Label Studio's."""
    return "://" in name or name.startswith("/data/")


def local_names(name: str) -> list[str]:
    """What a file that a labelling tool names may be called in a folder, the likeliest first.

    Backslashes are folders; of a URL its path counts, percent signs spelled out, of Label Studio's `?d=` what
    stands there; then the bare name, also without the prefix of an upload. Names that would leave the folder
    are bare.
    """
    found = [name.replace("\\", "/")]
    if is_foreign(name):
        parts = urllib.parse.urlsplit(name)
        query = urllib.parse.parse_qs(parts.query).get("d")
        found = query or [parts.path, urllib.parse.unquote(parts.path)]
    bare = [os.path.basename(n) for n in found]
    names = [n.lstrip("/") for n in found] + bare + [_UPLOAD.sub("", n) for n in bare]
    return [n for n in dict.fromkeys(names) if safe_join(".", n)]


def guess_folder(word: str, annotations: str, names: Sequence[str]) -> str:
    """The folder of images beside an annotation file, in which one of the first of them is.

    Raises:
      DataError: there is none.
    """
    here = os.path.dirname(os.path.abspath(annotations))
    wanted = [local for name in names[:GUESSED_FROM] for local in local_names(name)]
    folders = [os.path.join(here, "images"), os.path.join(here, "..", "images"), here]
    for folder in folders:
        if any(os.path.isfile(os.path.join(folder, name)) for name in wanted):
            return folder
    for folder in filter(os.path.isdir, folders[:2]):
        finder = ImageFinder(folder)
        if any(finder.known(name) for name in names[:GUESSED_FROM]):
            return folder
    raise DataError(f"{word}: its images are not beside it; say where with {word},IMAGE_FOLDER")


def _nearest(found: list[str], file_name: str) -> list[str]:
    """Those of some paths of one bare name that end in the most of the folders of `file_name`."""
    parts = [part for part in os.path.normpath(file_name.replace("\\", "/")).split(os.sep) if part != ".."]
    for first in range(len(parts) - 1):
        ending = os.sep + os.sep.join(parts[first:])
        nearer = [name for name in found if (os.sep + name).endswith(ending)]
        if nearer:
            return nearer
    return found


class ImageFinder:
    """Finds the images of annotations in a folder."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._names: dict[str, list[str]] | None = None  # by file name, and by name without its ending

    def inside(self, file_name: str) -> str | None:
        """The path of a name that is relative to the folder, or else the one file below it that ends in that
        name.

        Returns:
          A path, of a file that need not exist; None if the name leaves the folder.

        Raises:
          DataError: two files below the folder fit.
        """
        path = safe_join(self.folder, file_name)
        if path is None or os.path.isfile(path):
            return path
        return self.elsewhere(file_name) or path

    def known(self, file_name: str) -> str | None:
        """The path of an existing image by any of its `local_names`: where the name says, or else anywhere
        below the folder.

        Raises:
          DataError: two files fit.
        """
        names = local_names(file_name)
        written = [name for name in names if os.path.dirname(name)] or names
        here = (path for name in written if os.path.isfile(path := os.path.join(self.folder, name)))
        return next(here, None) or next(filter(None, map(self.elsewhere, [file_name, *names])), None)

    def elsewhere(self, file_name: str, *, stem: bool = False) -> str | None:
        """The one image below the folder with this name, wherever it is; None if there is none.

        Args:
          file_name: with folders, a file that ends in more of them comes before others.
          stem: an image of another ending will do.

        Raises:
          DataError: names two that fit.
        """
        bare = os.path.basename(os.path.normpath(file_name.replace("\\", "/")))
        found = self._index().get(bare, [])
        if not found and stem:
            found = self._index().get("stem:" + os.path.splitext(bare)[0], [])
        found = _nearest(found, file_name)
        images = [name for name in found if not holds_labels(name)] or found
        if len(images) > 1:
            raise DataError(
                f"{self.folder}: {printable(file_name)} may be {displayed(images[0])} or "
                f"{displayed(images[1])}; say "
                "which in the annotation, by its path below that folder, or name the folder of the images"
            )
        return os.path.join(self.folder, images[0]) if images else None

    def _index(self) -> dict[str, list[str]]:
        if self._names is None:
            self._names = collections.defaultdict(list)
            for name in walk(self.folder):
                bare = os.path.basename(name)
                self._names[bare].append(name)
                self._names["stem:" + os.path.splitext(bare)[0]].append(name)
        return self._names
