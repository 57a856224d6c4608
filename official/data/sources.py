"""One word on the command line -> an opened source.

    scenes[:SPLIT][,count=N]             the embedded data set
    coco:FILE.json[,IMAGE_FOLDER]        COCO annotations (segmentation: rendered to masks)
    voc:FOLDER[,IMAGE_FOLDER][,split=S]  Pascal VOC XML; for segmentation its mask PNGs, with the values below
        first_pixel=0|1  pixels of boxes are counted from 0 (LabelImg) or 1 (Pascal VOC), where it cannot be
                         found out
        masks=FOLDER     its mask PNGs, where they are not in SegmentationClass
    yolo:DATA.yaml[,split=S]             YOLO as Ultralytics lays it out, boxes or polygons: `train`, or `val`
                                         as --eval_data
    labelme:FOLDER[,IMAGE_FOLDER]        LabelMe's JSONs, one an image
    cvat:FILE.xml[,IMAGE_FOLDER]         CVAT for images 1.1
    via:FILE.json[,IMAGE_FOLDER]         VGG Image Annotator 1 and 2
        attribute=NAME   which attribute of a region is its class
    labelstudio:FILE.json[,IMAGE_FOLDER] Label Studio's JSON or JSON-MIN
        which=predictions  what a model has labelled, in place of people
    masks:IMAGES,MASKS[,NAME=VALUE...]   images and mask PNGs of the same names (segmentation):
        classes=FILE     a class name a line, in the order of the indices
        palette=FILE     masks of colours: lines of `r g b name`, a `labelmap.txt`, or `voc`
        ignore=N         a value that says nothing, as 255 does
        foreground=N     masks of two values, 0 and N (255, mostly)
    folder:FOLDER                        images without labels; for classification a folder per class
    tfrecord:GLOB[+GLOB...]              TF Examples of the original stack
    tfds:BUILDER[/CONFIG][:SPLIT][,feature=NAME]  a prepared TensorFlow Datasets builder

Words that are joined by + are one data set, as in coco:a.json,images+yolo:more/data.yaml, where their classes
have the same names or are listed by --classes. A comma, equals sign or plus in a path is understood where the
path exists, and may be written as \\, \\= \\+. Where classes of images are wanted and a word has boxes, every
object is cut out as an image.
"""

from __future__ import annotations

import dataclasses
import os
import re
from typing import Callable

from official.data import index
from official.data.crops import object_crops
from official.data.formats.coco import open_coco
from official.data.formats.cvat import open_cvat
from official.data.formats.image_folder import open_folder
from official.data.formats.label_studio import open_label_studio
from official.data.formats.labelme import open_labelme
from official.data.formats.mask_folders import mask_rules, open_masks, open_voc_masks
from official.data.formats.recognise import advice, what_it_is
from official.data.formats.records import ReadRules
from official.data.formats.tfds_source import open_tfds
from official.data.formats.tfrecord import open_tfrecords
from official.data.formats.via import open_via
from official.data.formats.voc import open_voc
from official.data.formats.yolo import open_yolo
from official.data.joined import in_order, join_sources, read_classes
from official.data.scenes_source import open_scenes
from official.data.source import DataError, Source


@dataclasses.dataclass(frozen=True)
class ReadOptions:
    """How strictly sources are opened, and where some of them live."""

    data_dir: str = ""
    scenes_seed: int = 0
    scenes_size: int = 160
    full_check: bool = True
    max_image_pixels: int = 100_000_000
    max_skipped_fraction: float = 0.1
    crowd: str = (
        "ignore"  # what an object marked as a crowd or difficult is: "ignore", or "objects" like others
    )
    stated_size: str = "check"  # an image of another size than its annotations state: left out, or "scale"
    split: str = "train"  # that is read where a word of named splits says none
    classes_file: str = ""  # file of the classes, in the order that they are to have
    index_dir: str = ""  # where what was found out about files is kept for the next start; "": nowhere
    label_kind: str = "boxes"  # "boxes", "masks" (class maps) or "classes" (of whole images)

    @property
    def masks(self) -> bool:
        """Whether labels are class maps."""
        return self.label_kind == "masks"

    @property
    def classes(self) -> bool:
        """Whether labels are classes of images."""
        return self.label_kind == "classes"


def open_source(word: str, options: ReadOptions = ReadOptions(), *, labeled: bool = True) -> Source:
    """Opens what `word` says.

    Args:
      word: see the head of this module.
      options: see `ReadOptions`.
      labeled: False for the unlabelled stream: labels that the source has are dropped.

    Raises:
      DataError: unknown kind, malformed word, words whose classes differ, or what the kind's own loader
        raises.
    """
    words = split_word(word)
    with index.kept_in(options.index_dir):
        if len(words) == 1:
            return _open_one(word, options, labeled)
        return join_sources(word, [_open_one(part, options, labeled) for part in words])


def _open_one(word: str, options: ReadOptions, labeled: bool) -> Source:
    kind, place, named = parse_word(word)
    unknown = sorted(set(named) - set(_KINDS[kind].takes))  # before anything is read, which may take minutes
    if unknown:
        raise DataError(f"data {word!r}: {kind} does not take {unknown}")
    source = _KINDS[kind].open(place, named, options, labeled)
    if named:  # what it takes for another task
        raise DataError(f"data {word!r}: {kind} does not take {sorted(named)} here")
    source = source if labeled else source.without_labels()
    if labeled and options.classes and source.annotations is not None:
        source = object_crops(source)
    labels = {"boxes": source.annotations, "masks": source.read_mask, "classes": source.image_classes}
    if labeled and labels[options.label_kind] is None:
        raise DataError(
            f"data {word!r} has no {options.label_kind}; it can be used with --unlabeled_data only"
        )
    if labeled and options.classes_file:
        source = in_order(source, read_classes(options.classes_file))
    return dataclasses.replace(source, word=word)


_ESCAPED = {f"\\{character}": chr(0xE000 + number) for number, character in enumerate(",=+\\")}


def split_word(word: str) -> list[str]:
    """KIND:...+KIND:... -> its words. A plus is part of a path where no KIND: follows, or a backslash is
    before it, or that path exists."""
    for written, kept in _ESCAPED.items():
        word = word.replace(written, kept)
    first, *others = re.split(rf"\+(?=(?:{'|'.join(_KINDS)}):)", word)
    found = [first]
    for part in others:
        if _goes_on(found[-1], part):
            found[-1] += "+" + part
        else:
            found.append(part)
    for written, kept in _ESCAPED.items():
        found = [part.replace(kept, written) for part in found]
    return found


def _goes_on(word: str, more: str) -> bool:
    """Whether a path that exists goes over the plus between two parts of a word."""
    before, behind = word.partition(":")[2].split(","), more.split(",")
    ends = [",".join(before[i:]) for i in range(len(before))]
    starts = [",".join(behind[:i]) for i in range(1, len(behind) + 1)]
    return any(_is_path(f"{end}+{start}") for end in ends for start in starts)


def parse_word(word: str) -> tuple[str, str, dict[str, str]]:
    """KIND:PLACE[,NAME=VALUE...][,IMAGES] -> (kind, place, values by name).

    A comma, an equals sign or a plus in a path may be written with a backslash before it; one that is part of
    a path that exists is understood without.

    Raises:
      DataError: unknown kind or no place.
    """
    kind, _, rest = word.partition(":")
    if kind not in _KINDS:
        found = advice(kind) or what_it_is(rest) or what_it_is(word)
        raise DataError(
            f"data {word!r}: unknown kind {kind!r}; choose one of {sorted(_KINDS)} (KIND:PLACE){found}"
        )
    for written, kept in _ESCAPED.items():
        rest = rest.replace(written, kept)
    place, *extras = _joined(rest.split(","))
    if kind != "scenes" and not place:
        raise DataError(f"data {word!r}: say where it is, as in {kind}:PLACE")
    named: dict[str, str] = {}
    for extra in extras:
        name, equals, value = extra.partition("=")
        name, value = (name, value) if equals and _is_name(name, value, extra) else ("images", extra)
        if name in named:
            raise DataError(f"data {word!r}: {name} is said twice; a comma in a path may be written as \\\\,")
        named[name] = _plain(value)
    if kind == "tfrecord":  # whose plus signs join globs
        place = place.replace(_ESCAPED["\\+"], "\\+")
    return kind, _plain(place), named


def _is_name(name: str, value: str, whole: str) -> bool:
    return name in _NAMES or (name.isidentifier() and not os.path.exists(_plain(whole)))


def _joined(parts: list[str]) -> list[str]:
    """Puts together again what only together is a path that exists: the longest such run from each part
    on.
    """
    found = []
    while parts:
        lengths = range(len(parts), 1, -1)
        length = next((n for n in lengths if _is_path(",".join(parts[:n]))), 1)
        found.append(",".join(parts[:length]))
        parts = parts[length:]
    return found


def _is_path(text: str) -> bool:
    name, _, value = text.partition("=")
    return os.path.exists(_plain(text)) or (name in _NAMES and os.path.exists(_plain(value)))


def _plain(text: str) -> str:
    for written, kept in _ESCAPED.items():
        text = text.replace(kept, written[1:])
    return text


def _file_checks(options: ReadOptions) -> dict:
    return {
        "full_check": options.full_check,
        "max_pixels": options.max_image_pixels,
        "max_skipped_fraction": options.max_skipped_fraction,
    }


def _scenes(place: str, named: dict[str, str], options: ReadOptions, labeled: bool) -> Source:
    count = named.pop("count", None)
    if count is not None and not count.isdecimal():
        raise DataError(f"data 'scenes:{place},count={count}': {count!r} is no number of images")
    return open_scenes(
        place or "train",
        None if count is None else int(count),
        seed=options.scenes_seed,
        size=options.scenes_size,
        labeled=labeled,
        masks=options.masks,
    )


def _label_rules(options: ReadOptions) -> dict:
    return {"crowd": options.crowd, "stated_size": options.stated_size}


def _coco(place: str, named: dict[str, str], options: ReadOptions, labeled: bool) -> Source:
    return open_coco(
        place,
        named.pop("images", None),
        masks=options.masks and labeled,
        labeled=labeled,
        **_label_rules(options),
        **_file_checks(options),
    )


def _voc(place: str, named: dict[str, str], options: ReadOptions, labeled: bool) -> Source:
    split = named.pop("split", None)
    if options.masks:
        return open_voc_masks(
            place,
            split,
            mask_folder=named.pop("masks", None),
            rules=mask_rules(f"voc:{place}", named, place),
            labeled=labeled,
            **_file_checks(options),
        )
    return open_voc(
        place,
        split,
        image_folder=named.pop("images", None),
        first_pixel=named.pop("first_pixel", "auto"),
        **_label_rules(options),
        **_file_checks(options),
    )


def _read_rules(options: ReadOptions, labeled: bool) -> ReadRules:
    return ReadRules(labeled=labeled, masks=options.masks, **_label_rules(options), **_file_checks(options))


def _yolo(place: str, named: dict[str, str], options: ReadOptions, labeled: bool) -> Source:
    return open_yolo(place, named.pop("split", options.split), _read_rules(options, labeled))


def _labelme(place: str, named: dict[str, str], options: ReadOptions, labeled: bool) -> Source:
    return open_labelme(place, named.pop("images", None), _read_rules(options, labeled))


def _cvat(place: str, named: dict[str, str], options: ReadOptions, labeled: bool) -> Source:
    return open_cvat(place, named.pop("images", None), _read_rules(options, labeled))


def _via(place: str, named: dict[str, str], options: ReadOptions, labeled: bool) -> Source:
    return open_via(
        place, named.pop("images", None), named.pop("attribute", None), _read_rules(options, labeled)
    )


def _label_studio(place: str, named: dict[str, str], options: ReadOptions, labeled: bool) -> Source:
    which = named.pop("which", "annotations")
    if which not in ("annotations", "predictions"):
        raise DataError(f"data 'labelstudio:{place}': which={which} is neither annotations nor predictions")
    return open_label_studio(
        place, named.pop("images", None), _read_rules(options, labeled), predictions=which == "predictions"
    )


def _masks(place: str, named: dict[str, str], options: ReadOptions, labeled: bool) -> Source:
    return open_masks(
        place,
        named.pop("images", ""),
        rules=mask_rules(f"masks:{place}", named),
        labeled=labeled,
        **_file_checks(options),
    )


def _folder(place: str, named: dict[str, str], options: ReadOptions, labeled: bool) -> Source:
    return open_folder(place, classes=options.classes and labeled, **_file_checks(options))


def _tfrecord(place: str, named: dict[str, str], options: ReadOptions, labeled: bool) -> Source:
    return open_tfrecords(
        place,
        labeled=labeled,
        masks=options.masks,
        classes=options.classes,
        crowd=options.crowd,
        **_file_checks(options),
    )


def _tfds(place: str, named: dict[str, str], options: ReadOptions, labeled: bool) -> Source:
    return open_tfds(
        place,
        data_dir=options.data_dir or None,
        labeled=labeled,
        label_kind=options.label_kind,
        crowd=options.crowd,
        feature=named.pop("feature", ""),
        **_file_checks(options),
    )


@dataclasses.dataclass(frozen=True)
class _Kind:
    """A kind of data.

    Attributes:
      open: (place, values by name, options, whether labels are wanted) -> source; takes out the values that
        it understands.
      takes: what may stand behind the place, by name or (an image folder) without one, for any task.
    """

    open: Callable[[str, dict[str, str], ReadOptions, bool], Source]
    takes: tuple[str, ...] = ()


_OF_MASKS = ("classes", "palette", "ignore", "foreground")
_KINDS = {
    "scenes": _Kind(_scenes, ("count",)),
    "coco": _Kind(_coco, ("images",)),
    "voc": _Kind(_voc, ("split", "images", "masks", "first_pixel", *_OF_MASKS)),
    "yolo": _Kind(_yolo, ("split",)),
    "labelme": _Kind(_labelme, ("images",)),
    "cvat": _Kind(_cvat, ("images",)),
    "via": _Kind(_via, ("images", "attribute")),
    "labelstudio": _Kind(_label_studio, ("images", "which")),
    "masks": _Kind(_masks, ("images", *_OF_MASKS)),
    "folder": _Kind(_folder),
    "tfrecord": _Kind(_tfrecord),
    "tfds": _Kind(_tfds, ("feature",)),
}
_NAMES = frozenset(name for kind in _KINDS.values() for name in kind.takes)
