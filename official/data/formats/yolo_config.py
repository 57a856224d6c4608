"""The `data.yaml` of a YOLO data set: where its splits are and what its classes are called."""

from __future__ import annotations

import dataclasses
import os
from typing import Any, Sequence

import yaml

from official.data.formats.coco_json import LFS_POINTER, LFS_REASON
from official.data.formats.recognise import what_it_is
from official.data.input_report import DataError, printable, shown
from official.data.text_lists import read_lines

MAX_BYTES = 1 << 20
_NOT_SPLITS = ("path", "names", "nc", "download", "kpt_shape", "flip_idx", "roboflow", "channels")


@dataclasses.dataclass(frozen=True)
class YoloConfig:
    """What a data.yaml says.

    Attributes:
      path: of the file.
      roots: folders that relative paths may start from, the likeliest first.
      splits: paths as they are written, by name of the split.
      names: of the classes, by their number.
      keypoints: columns of keypoints behind a box.
    """

    path: str
    roots: tuple[str, ...]
    splits: dict[str, tuple[str, ...]]
    names: dict[int, str]
    keypoints: int = 0

    def entries(self, split: str) -> list[tuple[str, str]]:
        """(as written, path of an existing folder or list) of a split.

        Raises:
          DataError: no such split, or nothing there.
        """
        if not self.splits.get(split):
            held = [name for name, places in self.splits.items() if places]
            raise DataError(
                f"{self.path} has no split {split!r}, it has {shown(held)}; choose with ,split=NAME"
            )
        found = []
        for entry in self.splits[split]:
            place = self.find(entry, self.roots)
            if place is None or not (os.path.isdir(place) or place.endswith(".txt")):
                raise DataError(
                    f"{self.path}: {split}: {printable(entry)} is no folder and no list (.txt) of images "
                    f"below {self.roots[0]}; mend `path:` or `{split}:`"
                )
            found.append((entry, place))
        return found

    @staticmethod
    def find(entry: str, roots: Sequence[str]) -> str | None:
        """An existing path: as written, below a root, or, of another machine's, the longest end that is below
        a root.

        Ultralytics leaves out a leading `../` where nothing is there, since Roboflow writes one too many.
        """
        names = [entry] + ([entry[3:]] if entry.startswith("../") else [])
        names += _ends(entry) if os.path.isabs(entry) else []
        places = (os.path.normpath(os.path.join(root, name)) for name in names for root in roots)
        return next(filter(os.path.exists, places), None)


def _ends(path: str) -> list[str]:
    parts = path.strip("/").split("/")
    return ["/".join(parts[i:]) for i in range(1, len(parts))]


def read_config(place: str) -> YoloConfig:
    """Reads a data.yaml, or the one in a folder; without one a folder with a `classes.txt` is one split of
    all images.

    Raises:
      DataError: absent, not such a file, or names that cannot be used.
    """
    path = _config_file(place)
    if path.endswith("classes.txt"):
        names = _names(read_lines(path, "classes file"), None, path)
        images = os.path.join(os.path.dirname(path), "images")
        return YoloConfig(
            path, (os.path.dirname(path),), {"train": ("images" if os.path.isdir(images) else ".",)}, names
        )
    content = _read_yaml(path)
    here = os.path.dirname(os.path.abspath(path))
    root = content.get("path") or "."
    if not isinstance(root, str):
        raise DataError(f"{path}: path: {shown([root])} is no folder")
    roots = [found for base in (here, os.getcwd()) if (found := YoloConfig.find(root, (base,)))]
    splits = {
        name: (value,) if isinstance(value, str) else tuple(v for v in value if isinstance(v, str))
        for name, value in content.items()
        if name not in _NOT_SPLITS and isinstance(value, (str, list)) and value
    }
    return YoloConfig(
        path=path,
        roots=tuple(dict.fromkeys([*roots, here])),
        splits=splits,
        names=_names(content.get("names"), content.get("nc"), path),
        keypoints=_keypoints(content.get("kpt_shape"), path),
    )


def _config_file(place: str) -> str:
    if not os.path.isdir(place):
        return place
    found = sorted(name for name in os.listdir(place) if name.endswith((".yaml", ".yml")))
    usual = [name for name in found if os.path.splitext(name)[0] in ("data", "dataset")]
    found = (
        usual[:1] or found or [name for name in ("classes.txt",) if os.path.isfile(os.path.join(place, name))]
    )
    if len(found) != 1:
        held = (
            f"has {shown(found)}; name one"
            if found
            else f"has no data.yaml, which lists `train:`, `val:` and `names:`{what_it_is(place)}"
        )
        raise DataError(f"yolo:{place} {held}")
    return os.path.join(place, found[0])


class _PlainLoader(yaml.BaseLoader):
    """Text, lists and dicts alone: a class `no` stays "no", no tag makes an object, no key may occur
    twice.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        repeated = {str(key) for key in keys if keys.count(key) > 1}
        if repeated:
            raise yaml.YAMLError(f"{shown(repeated)} is said twice")
        return super().construct_mapping(node, deep)


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
        if data.startswith(LFS_POINTER):
            raise DataError(f"{path} is {LFS_REASON}")
        if len(data) > MAX_BYTES:
            raise DataError(f"{path} is larger than {MAX_BYTES} bytes: not a data.yaml")
        content = yaml.load(data.decode("utf-8-sig"), _PlainLoader)
    except OSError as error:
        raise DataError(f"yolo:{path}: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, TypeError) as error:
        raise DataError(f"{path} is not YAML: {printable(str(error))[:200]}") from error
    if not isinstance(content, dict) or not ({"names", "nc", "train", "val", "test"} & set(content)):
        raise DataError(
            f"{path} is not a YOLO data.yaml: it needs `train:` (and `val:`) and `names:`{what_it_is(path)}"
        )
    return content


def _names(names: Any, count: Any, path: str) -> dict[int, str]:
    """Names by class number, from a list, a dict, or, as Ultralytics does, the number of classes alone.

    Raises:
      DataError: no names; a number or name that cannot be used; another number of classes than `nc:` says.
    """
    stated = int(count) if isinstance(count, str) and count.isdecimal() and len(count) < 7 else None
    if names is None and stated:
        names = [f"class_{i}" for i in range(stated)]
    if isinstance(names, list):
        names = {str(i): name for i, name in enumerate(names)}
    if not isinstance(names, dict) or not names:
        raise DataError(f"{path}: names: has no classes; list them, `names: [cat, dog]`")
    wrong = [
        k
        for k, v in names.items()
        if not (str(k).isdecimal() and len(str(k)) < 7 and isinstance(v, str) and v.strip())
    ]
    found = {int(k): printable(v.strip()) for k, v in names.items() if k not in wrong}
    if wrong or len(set(found.values())) != len(names) or len(found) != len(names):
        raise DataError(
            f"{path}: names: needs a number and a name of its own for each class, not "
            f"{shown(names.items(), 20)}"
        )
    if stated is not None and stated != len(found):
        raise DataError(f"{path}: nc: says {stated} classes, names: has {len(found)}")
    return found


def _keypoints(shape: Any, path: str) -> int:
    if shape is None:
        return 0
    if not (
        isinstance(shape, list)
        and len(shape) == 2
        and all(isinstance(v, str) and v.isdecimal() for v in shape)
    ):
        raise DataError(f"{path}: kpt_shape: {shown([shape])} is not [number, 2 or 3]")
    return int(shape[0]) * int(shape[1])
