"""What went wrong, in words for the person who started the program; all else is a bug of ours."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from typing import Iterator


class UserError(ValueError):
    """Something that the person can mend: the message names the flag, file or shape, and the remedy."""


class FlagError(UserError):
    """A flag, or flags together, that cannot be used; found before anything is written or trained."""


@contextlib.contextmanager
def about_flags() -> Iterator[None]:
    """Turns a ValueError of augment/ or losses/, which know no flags, into a FlagError.

    For what is made from flag values alone: a ValueError of TensorFlow's must not come this way.
    """
    try:
        yield
    except ValueError as error:
        raise FlagError(str(error)) from error


class FileDamaged(UserError):
    """A file that is not what its name says: the message names it and what to do."""


_GOES_ON = "the same command goes on from the last saved state"
_REMEDIES = {
    errno.ENOSPC: "the disk is full: free some space; " + _GOES_ON,
    errno.EDQUOT: "the disk quota is used up: free some space; " + _GOES_ON,
    errno.EROFS: "a read-only disk: choose another --model_dir (or --output, --label_store)",
    errno.EACCES: "no permission: change the owner or the mode, or name another place",
    errno.EPERM: "no permission: change the owner or the mode, or name another place",
    errno.ENAMETOOLONG: "the name is too long for this disk: choose a shorter one",
    errno.ENOENT: "it is not there: check the path",
    errno.ENOTDIR: "a part of this path is a file, not a folder: check the path",
    errno.EISDIR: "it is a folder, and a file is needed: check the path",
    errno.EMFILE: "too many files are open: raise the limit (ulimit -n), or lower --threads",
    errno.EIO: "the disk reports an error: check it (dmesg), then give the same command again",
    errno.ESTALE: "the network file system lost this file: mount it again, then give the same command again",
    errno.ENOMEM: "not enough memory: lower --batch_size, --image_size or --threads",
}
NO_MEMORY = (
    "not enough memory: lower --batch_size and --pseudo_batch_size (in labelling and evaluation "
    "--eval_batch_size), --image_size or --threads, or take a smaller --backbone"
)


def in_words(error: BaseException) -> str | None:
    """One line for what the machine, not the program, is to blame for: a full disk, no permission, no memory.

    Returns:
      The line, which names the file where it is known, or None for every other error.
    """
    if isinstance(error, MemoryError):
        return NO_MEMORY
    if isinstance(error, OSError) and error.errno in _REMEDIES:
        named = [os.fspath(n) for n in (error.filename, error.filename2) if isinstance(n, (str, os.PathLike))]
        return f"{' -> '.join(named) or one_line(error.strerror)}: {_REMEDIES[error.errno]}"
    if type(error).__module__.startswith("tensorflow"):
        return _tensorflow_in_words(error)
    return None


def one_line(text: str | None) -> str:
    """The first line of a message, without what TensorFlow says about its graph."""
    words = re.sub(r"\{\{.*?\}\}|\[Op:.*", "", text or "", flags=re.S).strip()
    return words.partition("\n")[0].strip()[:300]


def _tensorflow_in_words(error: BaseException) -> str | None:
    """TensorFlow's file system and allocators say what is wrong in the message alone."""
    text = str(error)
    first = one_line(text)
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.ENAMETOOLONG, errno.EIO):
        if os.strerror(number) in text:
            return f"{first}: {_REMEDIES[number]}"
    if type(error).__name__ == "ResourceExhaustedError" or "OOM when allocating" in text:
        return f"{NO_MEMORY} ({first})"
    return None
