"""Flagfiles: text files of flags, one a line, which may name others.

absl reads them too, but looks for a file that another one names in the current folder alone. Here it is
looked for beside the file that names it first, and a line that is no flag is an error that names file and
line.
"""

from __future__ import annotations

import os
import re
from typing import Iterator, Sequence

from official.errors import FlagError
from official.experiment import FORMERLY
from official.screen import note

_NAME = ("--flagfile", "-flagfile")
OWN = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "configs")


def expanded(arguments: Sequence[str], beside: str = "", open_files: tuple[str, ...] = ()) -> list[str]:
    """The arguments with every flagfile replaced by the flags in it; a later flag wins, as on the command
    line.

    Args:
      arguments: `--flagfile=PATH` and `--flagfile PATH` are replaced, the others stay; nothing after `--` is
        touched.
      beside: the folder of the file that the arguments are from.
      open_files: the files that are being read, outermost first.

    Raises:
      FlagError: no such file, a file that names itself, or a line that is no flag.
    """
    found: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            return [*found, argument, *rest]
        name, equals, value = argument.partition("=")
        if name not in _NAME:
            found.append(_by_present_name(argument))
            continue
        path = value if equals else next(rest, "")
        found += _flags_of(_found(path.strip(), beside, open_files), open_files)
    return found


def _by_present_name(argument: str) -> str:
    """A flag as it is called now, where it has its name of the version before."""
    written = re.match(r"(--?(?:no)?)(\w+)(.*)", argument, re.DOTALL)
    if written is None or written[2] not in FORMERLY:
        return argument
    note(
        f"--{written[2]} is now called --{FORMERLY[written[2]]}; the next version does not know the old name"
    )
    return f"{written[1]}{FORMERLY[written[2]]}{written[3]}"


def _found(path: str, beside: str, open_files: tuple[str, ...]) -> str:
    """Where a file is: beside the file that names it, in the current folder, or among the configs of this
    package.
    """
    path = os.path.expanduser(path)
    head, tail = os.path.split(path)
    places = [os.path.join(beside, path), path]
    if head in ("", "configs"):
        places.append(os.path.join(OWN, tail))
    for place in places:
        if os.path.isfile(place):
            return os.path.abspath(place)
    named = f"{open_files[-1]}: " if open_files else ""
    looked = ", ".join(dict.fromkeys(os.path.abspath(place) for place in places))
    raise FlagError(f"{named}--flagfile={path}: no such file; looked for {looked}")


def _flags_of(path: str, open_files: tuple[str, ...]) -> list[str]:
    if path in open_files:
        raise FlagError(f"--flagfile: {' names '.join([*open_files, path])}, which goes round in a circle")
    return expanded(list(_lines(path)), os.path.dirname(path), (*open_files, path))


def _lines(path: str) -> Iterator[str]:
    try:
        with open(path, encoding="utf-8-sig") as file:
            lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FlagError(f"--flagfile={path}: cannot be read as text: {error}") from error
    for number, line in enumerate(lines, 1):
        line = line.strip()
        if not line or line.startswith(("#", "//")):
            continue
        if not line.startswith("-") or line == "--":
            raise FlagError(f"{path}:{number}: {line!r} is not a flag; a line is --NAME=VALUE")
        yield line
