"""What was skipped or repaired while a data set was opened: counted, listed, and held against a limit."""

from __future__ import annotations

import collections
from typing import Any, Iterable, Sequence

from official.errors import UserError

SHOWN_REASONS = 6
SHOWN_EXAMPLES = 3


class DataError(UserError):
    """Input that cannot be used; the message names the file and what would be right."""


class UnusableData(DataError):
    """Too much of a data set cannot be used; `report` lists what."""

    def __init__(self, message: str, report: InputReport) -> None:
        super().__init__(message)
        self.report = report


def kind_of(reason: str) -> str:
    """A reason without the brackets at its end, which hold what differs from file to file."""
    return reason[: reason.rindex(" (")] if reason.endswith(")") and " (" in reason else reason


class InputReport:
    """Counts what was skipped or repaired by kind, and lists it.

    What differs from one file to the next stands in brackets at the end of a reason: the list holds it, the
    counts, which are printed, do not.
    """

    MAX_ENTRIES = 10_000  # listed one by one; all are counted
    ALWAYS_LISTED = 100  # of every kind, whatever the others fill

    def __init__(self) -> None:
        self.counts: collections.Counter = collections.Counter()
        self.entries: list[dict] = []
        self.skipped_images = 0
        self.lost_objects = 0
        self.objects = 0  # that the files hold for usable images, lost ones included
        self._lost: collections.Counter = collections.Counter()  # images and objects, by kind

    def note(self, reason: str, file: str, image_id: object = None, count: int = 1) -> None:
        """Counts something repaired."""
        kind = kind_of(reason)
        self.counts[kind] += int(count)
        if len(self.entries) < self.MAX_ENTRIES or self.counts[kind] <= self.ALWAYS_LISTED:
            self.entries.append({"reason": reason, "file": str(file), "image_id": _plain(image_id)})

    def skip_image(self, reason: str, file: str, image_id: object = None) -> None:
        """Counts one image, or one entry of a list of images, left out."""
        self.skipped_images += 1
        self._lost["image", kind_of(reason)] += 1
        self.note(reason, file, image_id)

    def lose_object(self, reason: str, file: str, image_id: object = None) -> None:
        """Counts one object left out."""
        self.lost_objects += 1
        self._lost["object", kind_of(reason)] += 1
        self.note(reason, file, image_id)

    def add(self, other: InputReport) -> None:
        """Counts what another report counts, too."""
        self.counts.update(other.counts)
        self._lost.update(other._lost)
        self.entries += other.entries
        self.skipped_images += other.skipped_images
        self.lost_objects += other.lost_objects
        self.objects += other.objects

    def check(self, word: str, total: int, max_skipped_fraction: float) -> None:
        """Fails if too many images, or all of them, were left out.

        Raises:
          UnusableData: the most frequent reasons with examples.
        """
        self._check(word, "image", self.skipped_images, total, max_skipped_fraction)
        if total <= 0:
            raise DataError(f"{word}: holds no image")

    def check_objects(self, word: str, max_skipped_fraction: float) -> None:
        """The same for objects; a data set without any passes.

        Raises:
          UnusableData: as `check`.
        """
        self._check(word, "object", self.lost_objects, self.objects, max_skipped_fraction)

    def _check(self, word: str, what: str, lost: int, total: int, fraction: float) -> None:
        if lost and (lost >= total or lost > fraction * total):
            kinds = [(kind, n) for (thing, kind), n in self._lost.most_common() if thing == what]
            remedy = "Mend the files" + (
                "." if lost >= total else ", or allow more with --max_skipped_fraction."
            )
            raise UnusableData(
                (
                    f"{word}: {lost} of {total} {what}s cannot be used: {_kinds(kinds)}. "
                    f"{self._examples(kinds)} {remedy}"
                ),
                self,
            )

    def _examples(self, kinds: Sequence[tuple[str, int]]) -> str:
        wanted = {kind for kind, _ in kinds[:SHOWN_REASONS]}
        found = [entry for entry in self.entries if kind_of(entry["reason"]) in wanted][:SHOWN_EXAMPLES]
        shown = "; ".join(
            f"{_short(e['file'])} (id {_short(e['image_id'], 40)}{_detail(e['reason'])})" for e in found
        )
        return f"For example {shown}." if shown else ""

    def lines(self, word: str) -> list[str]:
        """A line for every kind of repair, with its count and first example; see `SHOWN_REASONS`."""
        first: dict[str, dict] = {}
        for entry in self.entries:
            first.setdefault(kind_of(entry["reason"]), entry)
        found = []
        for kind, count in self.counts.most_common(2 * SHOWN_REASONS):
            example = first.get(kind, {"file": "", "image_id": None})
            place = _short(example["file"] or "") + (
                f" (id {example['image_id']})" if example["image_id"] is not None else ""
            )
            found.append(f"{word}: {count} x {kind}" + (f"; first {place.strip()}" if place else ""))
        more = len(self.counts) - len(found)
        return found + ([f"{word}: {more} other kinds of repairs"] if more > 0 else [])

    def content(self, word: str) -> dict[str, Any]:
        """What the run folder keeps."""
        return {"data": word, "counts": dict(self.counts), "entries": self.entries}


def _detail(reason: str) -> str:
    detail = reason[len(kind_of(reason)) :].strip(" ()")
    return f": {_short(detail)}" if detail else ""


def _plain(image_id: object) -> object:
    return image_id if image_id is None or isinstance(image_id, (int, float, str)) else str(image_id)


def _kinds(kinds: Sequence[tuple[str, int]]) -> str:
    shown = ", ".join(f"{n} x {kind}" for kind, n in kinds[:SHOWN_REASONS])
    return shown + (f", and {len(kinds) - SHOWN_REASONS} other reasons" if len(kinds) > SHOWN_REASONS else "")


def _short(text: object, limit: int = 160) -> str:
    text = printable(str(text))
    return text if len(text) <= limit else f"{text[: limit // 2]}…{text[-limit // 2 + 1 :]}"


def shown(values: Iterable[object], limit: int = 5) -> str:
    """The first few of a list, for a message."""
    values = list(values)
    return ", ".join(_short(repr(v), 60) for v in values[:limit]) + (
        f" … ({len(values)} in all)" if len(values) > limit else ""
    )


def printable(text: str) -> str:
    """Text without what no terminal or UTF-8 file takes: lone surrogates and control characters spelled
    out.
    """
    text = text.encode("utf-8", "backslashreplace").decode()
    return "".join(c if c >= " " and c != "\x7f" else repr(c)[1:-1] for c in text)
