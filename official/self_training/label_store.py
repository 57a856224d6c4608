"""Pseudo labels on disk: sharded TFRecords and a JSON manifest that says what made them.

A shard holds the labels of a fixed range of images, as TF Examples in the layout of the original
stack, without the pixels; official/self_training/label_kinds.py says how. Everything above a low
floor is kept with its score, so thresholds are applied on reading. A shard, then its small JSON (count,
checksum, histograms), appear by rename; a shard without its JSON does not exist. The manifest is written when
all shards are there.
"""

from __future__ import annotations

import dataclasses
import functools
import glob
import hashlib
import json
import os
import time
from typing import Any, Callable, Iterable, Sequence

import numpy as np
import tensorflow as tf

from official.data.fingerprints import ids_digest as ids_digest
from official.data.formats.tfrecord import records
from official.data.pseudo_labels import Row
from official.data.source import Category, Source
from official.errors import FileDamaged
from official.files import file_sha256, read_json, sweep, whole_file, write_json
from official.self_training.label_kinds import KINDS, LabelKind, record_name
from official.self_training.label_kinds import LabelError as LabelError

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
PLAN = "plan.json"


@dataclasses.dataclass(frozen=True)
class LabelStore:
    """A folder of label shards."""

    folder: str

    # --- writing ----------------------------------------------------------------------------------

    def start(self, plan: dict[str, Any]) -> None:
        """Begins or goes on with a store.

        Args:
          plan: what makes the labels: teacher fingerprint, flags, classes, ids digest, shard size.

        Raises:
          LabelError: the folder holds labels made in another way.
        """
        os.makedirs(self.folder, exist_ok=True)
        sweep(os.path.join(glob.escape(self.folder), "*"))  # other workers may be writing
        plan = {"format_version": FORMAT_VERSION, **plan}
        before = read_json(os.path.join(self.folder, PLAN))
        if before and before != json.loads(json.dumps(plan)):
            differing = _plan_differences(before, json.loads(json.dumps(plan)))
            if differing:
                other = [differing.pop(name, None) for name in ("ids_sha256", "images_to_label")]
                words = [f"{k}: {a!r} there, {b!r} now" for k, (a, b) in differing.items()]
                if any(other):  # a digest says nothing to people
                    there, now = (f"{p['images_to_label']} of {p['data']}" for p in (before, plan))
                    words.append(f"images: {there} there, {now} now")
                raise LabelError(
                    f"{self.folder} holds labels made in another way: {'; '.join(words)}. Use another "
                    "--model_dir; where --label_store names these labels, leave it out to label anew."
                )
            return
        write_json(os.path.join(self.folder, PLAN), plan)

    def plan(self) -> dict[str, Any]:
        """What made the labels.

        Raises:
          LabelError: not a label store, or of another format.
        """
        plan = read_json(os.path.join(self.folder, PLAN))
        if not plan and not os.path.isdir(os.path.dirname(os.path.abspath(self.folder))):
            raise LabelError(f"no such run folder: {os.path.dirname(os.path.abspath(self.folder))}")
        if not plan:
            raise LabelError(f"{self.folder} is not a label store: it has no {PLAN}")
        if plan["format_version"] != FORMAT_VERSION:
            raise LabelError(
                f"{self.folder} has format {plan['format_version']}; this code reads {FORMAT_VERSION}"
            )
        return plan

    def shard_path(self, shard: int) -> str:
        """The TFRecord file of a shard."""
        return os.path.join(self.folder, f"labels-{shard:05d}.tfrecord")

    def has_shard(self, shard: int) -> bool:
        """Whether the shard is complete and undamaged."""
        path = self.shard_path(shard)
        meta = self._shard_meta(shard)
        return bool(meta) and os.path.isfile(path) and file_sha256(path) == meta["sha256"]

    def _shard_meta(self, shard: int) -> dict[str, Any]:
        """Counts and checksum of a shard; {} if it must be labelled: not finished, or its JSON damaged."""
        try:
            return read_json(self.shard_path(shard) + ".json")
        except FileDamaged:
            return {}

    def write_shard(self, shard: int, rows: Iterable[Row], names: Sequence[str]) -> None:
        """Writes one shard.

        Args:
          rows: one an image, with labels of the store's kind.
          names: of the classes.
        """
        path, kind = self.shard_path(shard), self.kind()
        totals = {"images": 0}
        with whole_file(path) as temporary:
            with tf.io.TFRecordWriter(temporary) as writer:
                for row in rows:
                    writer.write(kind.encode(row, names).SerializeToString(deterministic=True))
                    totals = _added(totals, {"images": 1, **kind.counts(row.labels, len(names))})
            sha256 = file_sha256(temporary)
        write_json(path + ".json", {**totals, "sha256": sha256})

    def finish(self, shards: int, skipped: dict[str, int]) -> dict[str, Any] | None:
        """Writes the manifest if every shard is there; returns it, or None while some are missing."""
        metas = [self._shard_meta(shard) for shard in range(shards)]
        if not all(metas):
            return None
        totals = {"images": 0}
        for meta in metas:
            totals = _added(totals, {k: v for k, v in meta.items() if k != "sha256"})
        manifest = {**self.plan(), "shards": metas, **totals, "skipped": skipped}
        write_json(os.path.join(self.folder, MANIFEST), manifest)
        return manifest

    def wait(self, check: Callable[[], None], seconds: float = 2.0) -> dict[str, Any]:
        """Sleeps until another process has finished the store; returns the manifest.

        Args:
          check: raises when nobody is there any more who could finish it; asked between two looks.
        """
        while not os.path.isfile(os.path.join(self.folder, MANIFEST)):
            check()
            time.sleep(seconds)
        return self.manifest()

    # --- reading ----------------------------------------------------------------------------------

    def manifest(self) -> dict[str, Any]:
        """The manifest of a finished store.

        Raises:
          LabelError: labelling is not finished, or a shard is missing or damaged.
        """
        self.plan()
        manifest = read_json(os.path.join(self.folder, MANIFEST))
        if not manifest:
            raise LabelError(f"{self.folder} is not finished; run --job=pseudo_label again to go on")
        for shard, meta in enumerate(manifest["shards"]):
            path = self.shard_path(shard)
            if not os.path.isfile(path) or _checksum(path) != meta["sha256"]:
                raise LabelError(
                    f"{path} is missing or damaged; remove its .json and run --job=pseudo_label again"
                )
        return manifest

    def fingerprint(self) -> str:
        """Sixteen hex digits over the labels of a finished store."""
        shards = [meta["sha256"] for meta in read_json(os.path.join(self.folder, MANIFEST)).get("shards", [])]
        return hashlib.sha256("".join(shards).encode()).hexdigest()[:16]

    def categories(self) -> tuple[Category, ...]:
        """The classes of the labels."""
        return tuple(Category(c["id"], c["name"]) for c in self.plan()["categories"])

    def kind(self) -> LabelKind:
        """What the store holds; stores made before there were others do not say and hold boxes."""
        return KINDS[self.plan().get("kind", "boxes")]

    def rows(self) -> Iterable[Row]:
        """Every image's stored labels, in order; see `write_shard`."""
        return self.kind().rows(self.shard_paths())

    def names(self) -> list[str]:
        """The file name (else the id) of every image, in order."""
        return [record_name(record) for path in self.shard_paths() for _, record in records(path)]

    def shard_paths(self) -> list[str]:
        """The shards of a finished store; raises as `manifest`."""
        return [self.shard_path(shard) for shard in range(len(self.manifest()["shards"]))]

    def limits(
        self, threshold: float | np.ndarray, class_thresholds: dict[str, float] | None = None
    ) -> np.ndarray:
        """The threshold of every class; `class_thresholds` overrides it by name.

        Raises:
          LabelError: a name that is no class.
        """
        return limits_of(self.categories(), threshold, class_thresholds)

    def read(
        self,
        source: Source,
        threshold: float | np.ndarray,
        class_thresholds: dict[str, float] | None = None,
        *,
        probabilities: bool = False,
        ignore_above: float = 1.0,
    ) -> tuple[Source, np.ndarray, dict[str, Any]]:
        """The unlabelled source with its pseudo labels at a threshold.

        Args:
          source: the images that were labelled.
          threshold: labels with score >= threshold are used, float32 [classes] or one for all;
            `class_thresholds` overrides it by name.
          probabilities: also reads soft labels (classes of images).
          ignore_above: boxes from this score to the threshold are kept too, see `Source.sure_from`.

        Returns:
          The labelled source, [images] whether each has a label (for classes of images: its score,
          0 for none), and numbers for the summary.

        Raises:
          LabelError: other images than the source's, or nothing reaches the threshold.
        """
        limits = self.limits(threshold, class_thresholds)
        labelled, any_label, numbers = self.kind().read(self, source, limits, probabilities, ignore_above)
        if not any_label.any():
            raise LabelError(self.explain_nothing(threshold))
        return labelled, any_label, numbers

    def export(
        self, folder: str, threshold: float | np.ndarray, class_thresholds: dict[str, float] | None = None
    ) -> str:
        """Writes the labels at the thresholds (see `limits`) in a form that other tools open; returns the
        path.
        """
        os.makedirs(folder, exist_ok=True)
        return self.kind().export(self, folder, self.limits(threshold, class_thresholds))

    def explain_nothing(self, threshold: float | np.ndarray) -> str:
        """Why nothing is left: the score histogram and thresholds that would keep some."""
        kind = self.kind()
        best = np.sort([kind.highest(row.labels) for row in self.rows()])[::-1]
        lines = [f"no pseudo {kind.one} in {self.folder} reaches score_threshold={threshold}."]
        lines.append("best score per image, number of images:")
        for low, count in zip(np.arange(0, 1, 0.1), np.histogram(best, bins=10, range=(0, 1))[0]):
            lines.append(f"  {low:.1f}-{low + 0.1:.1f}  {count}")
        for share in (0.01, 0.1, 0.5):
            value = best[min(len(best) - 1, max(0, int(np.ceil(share * len(best))) - 1))]
            if value > 0.0:
                lines.append(
                    f"a threshold of {value:.3f} would keep a {kind.one} in {share:.0%} of the images"
                )
            else:
                lines.append(
                    f"no threshold would keep a {kind.one} in {share:.0%} of the images: "
                    "none stored in so many"
                )
        remedy = (
            ", or lower --score_threshold"
            if best[0] > 0.0
            else f" (none is stored at all: --score_floor={self.plan()['flags']['score_floor']})"
        )
        lines.append(f"Train the teacher longer{remedy}.")
        return "\n".join(lines)


def _checksum(path: str) -> str:
    """SHA-256 of a file, computed once per process for as long as the file stays as it is."""
    stat = os.stat(path)
    return _checksum_of(path, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


@functools.lru_cache(maxsize=1 << 17)
def _checksum_of(path: str, *as_it_is: int) -> str:
    return file_sha256(path)


def limits_of(
    categories: Sequence[Category],
    threshold: float | np.ndarray,
    class_thresholds: dict[str, float] | None = None,
) -> np.ndarray:
    """Float32 [classes]: `threshold`, of all classes or one each; `class_thresholds` overrides it by name.

    Raises:
      LabelError: a name that is no class.
    """
    limits = np.full(len(categories), threshold, np.float32)
    for name, value in (class_thresholds or {}).items():
        matches = [i for i, c in enumerate(categories) if c.name == name]
        if not matches:
            raise LabelError(
                f"class_thresholds names {name!r}; the classes are {[c.name for c in categories]}"
            )
        limits[matches[0]] = value
    return limits


def _plan_differences(there: dict[str, Any], now: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What makes labels others, flag by flag.

    Where the images are ("data") may change, their ids say which they are. What an earlier version did not
    note is taken as it is now.
    """
    found = {}
    for name in sorted({*there, *now} - {"data"}):
        a, b = there.get(name), now.get(name)
        if name in ("network", "flags"):
            a, b = a or {}, b or {}
            found.update({k: (a[k], b[k]) for k in sorted({*a} & {*b}) if a[k] != b[k]})
        elif a != b:
            found[name] = (a, b)
    return found


def _added(totals: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Sums of numbers and of lists of numbers by name, as JSON takes them."""
    found = {k: np.add(totals.get(k, 0), more.get(k, 0)) for k in {**totals, **more}}
    return {name: value.tolist() if value.ndim else int(value) for name, value in found.items()}


def parse_thresholds(text: str) -> dict[str, float]:
    """`disc=0.6,ring=0.4` -> {"disc": 0.6, "ring": 0.4}.

    Raises:
      LabelError: an entry that is not NAME=NUMBER, a number outside [0, 1], or a class twice.
    """
    found: dict[str, float] = {}
    for entry in filter(None, text.split(",")):
        name, _, value = (part.strip() for part in entry.partition("="))
        try:
            number = float(value)
        except ValueError:
            raise LabelError(f"--class_thresholds: {entry!r} is not NAME=NUMBER") from None
        if not 0.0 <= number <= 1.0:  # also false for nan
            raise LabelError(f"--class_thresholds: {entry!r} is not a score from 0 to 1")
        if name in found:
            raise LabelError(f"--class_thresholds names {name!r} twice")
        found[name] = number
    return found
