"""Replace a file as a whole, and know the version of what a state file holds."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from pylvs.model.errors import Unsupported

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from typing import Any

VERSION = 1  # of all state files: a change of what one of them holds raises it


def versioned(content: object) -> dict[str, object]:
    """Return what the JSON of a state file has: the version, and the content."""
    return {"version": VERSION, "content": content}


def checked(path: Path, found: Any) -> Any:
    """Return the content of a state file, of which this JSON was read. Raises Unsupported."""
    if not (isinstance(found, dict) and found.keys() == versioned(None).keys()):
        raise Unsupported(f"{path}: damaged (no version); remove it")
    if found["version"] != VERSION:
        raise Unsupported(f"{path}: of another pylvs (version {found['version']}, not {VERSION}); remove it")
    return found["content"]


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
