"""Text files that list names: one a line, spaces kept, UTF-8 with or without a byte order mark."""

from __future__ import annotations

import json
import os
import re

from official.data.input_report import DataError

_WITH_FLAG = re.compile(r"^(.*\S)\s+-?[01]$")  # VOC's lists of a class: "2007_000027 -1"


def read_lines(path: str, what: str) -> list[str]:
    """The lines of a text file that are not blank, without white space at their ends.

    Raises:
      DataError: absent, or not UTF-8.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            return [line.strip() for line in file.read().splitlines() if line.strip()]
    except OSError as error:
        raise DataError(f"{what} {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{what} {path} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from error


def imagenet_wnids() -> list[str]:
    """WordNet's numbers of ImageNet's 1,000 classes in the order of a classifier's channels (ILSVRC 2012)."""
    return read_lines(os.path.join(os.path.dirname(__file__), "imagenet_wnids.txt"), "ImageNet's classes")


def read_split(path: str, what: str) -> list[str]:
    """Entries of a split list: names with spaces, or a name and a flag of a class."""
    lines = read_lines(path, what)
    names = [match[1] for line in lines if (match := _WITH_FLAG.match(line))]
    return names if len(names) == len(lines) else lines


def read_id_list(path: str) -> list[str]:
    """Ids from a text file (one a line), a JSON list, or a JSON dict's "labeled" list.

    Raises:
      DataError: not such a file.
    """
    if not path.endswith(".json"):
        return read_lines(path, "--labeled_ids")
    try:
        with open(path, encoding="utf-8-sig") as file:
            content = json.load(file)
        return [str(i) for i in (content["labeled"] if isinstance(content, dict) else content)]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"--labeled_ids={path}: not a list of ids ({error})") from error
