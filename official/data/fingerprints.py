"""What a data set was, image by image, so that a run that goes on notices when it is another one."""

from __future__ import annotations

import hashlib
import os
from typing import Iterable, Sequence

import numpy as np
import tensorflow as tf

from official.data.source import Source

SAMPLED = 32  # masks that are read; a digest of every one would read the whole set at every start


def image_digests(source: Source) -> list[str]:
    """Eight hex digits per image over its size, the length of its file, and its boxes or class.

    Where labels are masks, those of `SAMPLED` images at even distances are read. The pixels of the images are
    not: a file of the same length and the same size in pixels counts as the same.
    """
    masks = _sampled_masks(source)
    return [_digest(source, i, masks.get(i, b"")) for i in range(len(source))]


def _digest(source: Source, i: int, mask: bytes) -> str:
    parts = [np.asarray(source.sizes[i], np.int64).tobytes(), str(_file_length(source, i)).encode(), mask]
    if source.annotations is not None:
        objects = source.annotations.of(i)
        parts += [np.ascontiguousarray(objects[name]).tobytes() for name in ("boxes", "classes", "crowd")]
    if source.image_classes is not None:
        parts.append(str(int(source.image_classes[i])).encode())
    return hashlib.sha256(b"|".join(parts)).hexdigest()[:8]


def _file_length(source: Source, i: int) -> int:
    path = str(source.file_names[i]) if source.file_names is not None else ""
    return os.path.getsize(path) if os.path.isfile(path) else -1


def _sampled_masks(source: Source) -> dict[int, bytes]:
    if source.read_mask is None or not len(source):
        return {}
    chosen = np.unique(np.linspace(0, len(source) - 1, min(SAMPLED, len(source))).astype(int))
    found = {int(i): source.read_mask(tf.constant(i, tf.int64)).numpy() for i in chosen}
    return {i: hashlib.sha256(mask.tobytes()).digest() for i, mask in found.items()}


def difference(
    there: Sequence[str],
    now: Sequence[str],
    digests_there: Sequence[str] = (),
    digests_now: Sequence[str] = (),
) -> str:
    """How the images of a data set differ from what they were, "" if they do not.

    Args:
      there, now: ids; digests_there: as `image_digests`, none for a run of an earlier version.
    """
    lines, known, present = [], set(there), set(now)
    gone, new = [i for i in there if i not in present], [i for i in now if i not in known]
    before, after = dict(zip(there, digests_there)), dict(zip(now, digests_now))
    changed = [i for i in now if i in before and i in after and before[i] != after[i]]
    for what, ids in (("are gone", gone), ("are new", new), ("have another size, file or label", changed)):
        if ids:
            lines.append(
                f"  {len(ids)} images {what}: {', '.join(map(str, ids[:5]))}{', …' if len(ids) > 5 else ''}"
            )
    if not lines and list(there) != list(now):
        lines.append("  the same images in another order")
    return "\n".join(lines)


def ids_digest(ids: Iterable[str]) -> str:
    """A digest of the ids in their order."""
    return hashlib.sha256("\n".join(map(str, ids)).encode()).hexdigest()[:16]
