"""A log of changes to this machine with the former values. It is written before each change, which it can undo."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator
from pathlib import Path

from pylvs.model.dataclass import dataclass, field, field_names
from pylvs.model.errors import PylvsError, Unsupported, needs_root
from pylvs.system import files, proc
from pylvs.system.lock import Lock


@dataclass(slots=True)
class Memory:
    """One subject's changes in one network namespace."""

    path: Path
    addresses: dict[str, str] = field(default_factory=dict)  # address -> device that got it; "" if it was present
    sysctls: dict[str, tuple[str, str]] = field(default_factory=dict)  # name -> former value, ours
    devices_up: list[str] = field(default_factory=list)  # devices that were down
    devices_made: list[str] = field(default_factory=list)
    programs: list[str] = field(default_factory=list)  # devices that carry our program
    unwrapped: list[str] = field(default_factory=list)  # configuration of our program
    qdiscs: list[str] = field(default_factory=list)  # devices that got a clsact for it
    tunnels: list[str] = field(default_factory=list)  # to decapsulate: "ipip", "gre", "gue:6080"
    directors: list[str] = field(default_factory=list)  # networks whose tunnels are accepted; empty: all

    def save(self) -> None:
        """Replace the file, or remove it when nothing is left to remember."""
        content = {name: getattr(self, name) for name in field_names(Memory) if name != "path"}
        if not any(content.values()):
            self.path.unlink(missing_ok=True)
            return
        draft = self.path.with_suffix(".new")
        draft.write_text(json.dumps(files.versioned(content), indent=1) + "\n", encoding="utf-8")
        draft.replace(self.path)

    def set(self, name: str, value: str) -> bool:
        """Set a sysctl and record its former value; return whether that was different. Raises PylvsError."""
        former = proc.read(name)
        if former == value:
            return False
        before, _ = self.sysctls.get(name, (former, value))
        self.sysctls[name] = (before, value)
        self.save()
        proc.write(name, value)
        return True

    def restore_sysctls(self, keep: Collection[str] = ()) -> list[str]:
        """Restore former values, last changed first; skip and return those that another program has changed since."""
        left = []
        for name, (former, ours) in reversed(list(self.sysctls.items())):
            if name in keep:
                continue
            if proc.exists(name):
                if proc.read(name) in (ours, former):
                    proc.write(name, former)
                else:
                    left.append(name)
            del self.sysctls[name]
        return left


def load(path: Path) -> Memory:
    """Return the recorded changes; none if there is no file. Raises Unsupported for one that is unusable."""
    try:
        content = files.checked(path, json.loads(path.read_text(encoding="utf-8")))
        content["sysctls"] = {name: (pair[0], pair[1]) for name, pair in content["sysctls"].items()}
        return Memory(path, **content)
    except FileNotFoundError:
        return Memory(path)
    except (ValueError, TypeError, KeyError, IndexError):
        raise Unsupported(f"{path}: damaged; what was changed is not known any more: remove it") from None


@contextlib.contextmanager
def changing(path: Path) -> Iterator[Memory]:
    """Yield the recorded changes under the lock, and save them also after an exception. Raises NotPermitted, Busy."""
    with _held(path.parent):
        memory = load(path)
        try:
            yield memory
        finally:
            with contextlib.suppress(PylvsError):
                memory.save()
    # Remove empty directories; a process that waits for the lock makes them again.
    with contextlib.suppress(OSError):
        path.parent.rmdir()
        path.parent.parent.rmdir()


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    lock = Lock(str(folder), what="the changes that make real servers")
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.__enter__()
            break
        except FileNotFoundError:
            continue  # another process has just removed it
        except PermissionError:
            raise needs_root(folder) from None
    try:
        yield
    finally:
        lock.__exit__(None, None, None)
