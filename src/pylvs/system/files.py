"""Replace a file as a whole."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def has(path: Path, text: str) -> bool:
    """Return whether a file is a regular one with this text; False also if it cannot be read. No link is followed."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            return file.read() == text.encode(errors="surrogateescape")
    except OSError:
        return False


def replace(path: Path, text: str, mode: int = 0o644, durable: bool = False) -> None:
    """Replace a file atomically; with `durable` its content is on the disk before. Raises OSError.

    No link is followed, and no file of another user is written. The draft of a process that was killed is replaced.
    """
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(draft, flags, mode)
    try:
        with open(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.rename(draft, path)
    except BaseException:
        with contextlib.suppress(OSError):  # it takes space on a full disk
            draft.unlink()
        raise
