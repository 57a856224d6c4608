"""What the classes of an imported network are called."""

from __future__ import annotations

import json

from official.data.formats.coco_classes import COCO_CATEGORIES
from official.data.formats.mask_palettes import VOC_CLASSES
from official.data.source import Category, DataError


def named_classes(network: str, channels: int, path: str) -> tuple[tuple[Category, ...], str]:
    """The classes of a detector's or segmenter's channels.

    Args:
      network: "detector" (channel 0 is the background and no class) or "segmenter".
      channels: of the head in the file.
      path: a text file with a name a line, or a COCO JSON whose category ids are channels; "" for none.

    Returns:
      The classes, their ids the channels; and how they came to their names.

    Raises:
      DataError: the file cannot be read, or has not the classes of the channels.
    """
    first = 1 if network == "detector" else 0
    numbers = range(first, channels)
    if not numbers:
        raise DataError(f"the head has {channels} channels, that is no class")
    if path:
        return _named_by(path, numbers), f"classes: {len(numbers)} channels named by {path}"
    others = "--classes=FILE names others"
    if (network, channels) == ("detector", COCO_CATEGORIES[-1].id + 1):
        return COCO_CATEGORIES, f"classes: COCO's {len(COCO_CATEGORIES)}, for {channels} channels; {others}"
    if (network, channels) == ("segmenter", len(VOC_CLASSES)):
        return tuple(map(Category, numbers, VOC_CLASSES)), f"classes: PASCAL VOC's {channels}; {others}"
    generic = tuple(Category(i, f"class_{i}" if i else "background") for i in numbers)
    called = f"they are called {generic[0].name} ... {generic[-1].name}"
    return (
        generic,
        f"classes: nobody named the head's {len(generic)}, so {called}; name them with --classes=FILE",
    )


def _named_by(path: str, numbers: range) -> tuple[Category, ...]:
    try:
        with open(path, encoding="utf-8") as file:
            found = (
                _from_coco(json.load(file)) if path.endswith(".json") else _from_lines(file.read(), numbers)
            )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"--classes={path}: neither names, one a line, nor a COCO JSON ({error})") from error
    # COCO's own ids have gaps; a pixel must be something.
    some_may_lack = path.endswith(".json") and numbers[0] > 0
    if len(found) != len(numbers) and not (some_may_lack and 0 < len(found) < len(numbers)):
        raise DataError(
            f"--classes={path} names {len(found)} classes, "
            f"the head has {len(numbers)}, {numbers[0]} to {numbers[-1]}"
        )
    ids, names = {c.id for c in found}, {c.name for c in found}
    if not ids <= set(numbers) or len(ids) != len(found) or len(names) != len(found):
        raise DataError(
            f"--classes={path}: needs different names, and different ids of {numbers[0]} to {numbers[-1]},"
            f" not {sorted(ids)[:5]}"
        )
    return found


def _from_coco(content: dict) -> tuple[Category, ...]:
    found = (Category(int(c["id"]), str(c["name"])) for c in content["categories"])
    return tuple(sorted(found, key=lambda category: category.id))


def _from_lines(text: str, numbers: range) -> tuple[Category, ...]:
    names = [line.strip() for line in text.splitlines() if line.strip()]
    return tuple(Category(numbers[0] + i, name) for i, name in enumerate(names))
