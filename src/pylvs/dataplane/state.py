"""The pins of one network namespace: where they are, what is noted beside them, and when they may go.

A namespace is known by its cookie, which the kernel never gives twice between two boots. Each state holds a link that
hangs on its namespace and does nothing; the kernel itself tells by it whether the namespace still lives.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

from pylvs.bpf import kernel, libbpf, mounts
from pylvs.model import sockets as socket
from pylvs.system import kernel_errors
from pylvs.system.lock import TIMEOUT_S, Lock

_NETNS_COOKIE = 71  # SO_NETNS_COOKIE; asm-generic/socket.h
_LIVING, _BUILDING, _GOING = "net", "new-net", "old-net"  # of a directory's name, before the cookie
_SENTINEL = "alive"
_NOTE, _DRAFT = "note-", "draft-"  # of symbolic links: a note, and one that is being written
_PAUSE_S = 0.02
_ALL = "the states of this machine"
_LONGEST_NOTE = 4000  # bytes: a note is the target of a symbolic link
# r0 = SK_PASS; exit: socket lookup goes on as if the program were not there
_DO_NOTHING = struct.pack("<BBhi", 0xB7, 0, 0, 1) + struct.pack("<BBhi", 0x95, 0, 0, 0)


def netns_cookie() -> int:
    """The identity of the network namespace of the calling thread. Raises Unsupported before Linux 5.14."""
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as probe:
        try:
            return int.from_bytes(probe.getsockopt(socket.SOL_SOCKET, _NETNS_COOKIE, 8), "little")
        except OSError:
            raise kernel_errors.Unsupported(
                f"this kernel ({os.uname().release}) cannot name its network namespaces (SO_NETNS_COOKIE)"
            ) from None


class StateExists(kernel_errors.Busy):
    """Building a state where another process just built one."""


class State:
    """The directory with the pins of one namespace."""

    def __init__(self, cookie: int, path: str) -> None:
        self.cookie = cookie
        self.path = path  # for this process only; empty when there is no bpffs yet

    @classmethod
    def open(cls, create: bool = False) -> State:
        """The state of the current namespace; with `create`, made if it was not there.

        Raises NotPermitted without CAP_BPF and CAP_NET_ADMIN, Unsupported, Busy.
        """
        missing = kernel_errors.missing_capabilities("CAP_BPF", "CAP_NET_ADMIN")
        if missing:
            raise kernel_errors.NotPermitted(
                f"Operation not permitted; {' and '.join(missing)} missing: run it as root"
            )
        cookie = netns_cookie()
        root = mounts.ensure() if create else mounts.find()
        state = cls(cookie, f"{root}/{_LIVING}{cookie}" if root else "")
        if create and not state.exists:
            with suppress(StateExists), state.building(TIMEOUT_S):
                pass
        return state

    @classmethod
    def all(cls) -> list[State]:
        """The states of all namespaces of this machine."""
        root = mounts.find()
        if not root:
            return []
        found = [name.removeprefix(_LIVING) for name in os.listdir(root) if name.startswith(_LIVING)]
        return [cls(int(cookie), f"{root}/{_LIVING}{cookie}") for cookie in sorted(found, key=int)]

    @property
    def exists(self) -> bool:
        """Whether the directory is there."""
        return bool(self.path) and os.path.isdir(self.path)

    def pin_path(self, name: str) -> str:
        """The path of a pin; names hold no dots (the kernel keeps them for itself)."""
        return f"{self.path}/{name}"

    def pins(self) -> list[str]:
        """The names of what is pinned here, without notes, in order; those of sub-directories as `directory/name`."""
        return sorted(
            os.path.relpath(os.path.join(where, name), self.path)
            for where, _, names in os.walk(self.path)
            for name in names
            if not name.startswith((_NOTE, _DRAFT)) and name != _SENTINEL
        )

    def lock(self, timeout_s: float = TIMEOUT_S) -> Lock:
        """The lock under which the tables are edited; the state must exist."""
        return Lock(self.path, timeout_s)

    @contextmanager
    def building(self, timeout_s: float = TIMEOUT_S) -> Iterator[State]:
        """A new state to pin into, that takes its place as a whole at the end, or leaves nothing.

        Raises StateExists when the namespace has one by now, Busy when somebody else is long at it.
        """
        with self._site(timeout_s) as fresh:
            # Under the lock of all states, so that another builder of this one finds either `fresh` or the whole state.
            everything = Lock(os.path.dirname(fresh.path), timeout_s, _ALL)
            try:
                fresh._watch_namespace()
                yield fresh
                with everything:
                    os.rename(fresh.path, self.path)
            except BaseException:
                with everything:
                    _delete(fresh.path)
                raise

    @contextmanager
    def _site(self, timeout_s: float) -> Iterator[State]:
        """A directory to build in, empty and locked; the lock of all states is held only while it is taken."""
        end = time.monotonic() + timeout_s
        while True:
            with mounts.ensured(timeout_s) as root:
                self.path = f"{root}/{_LIVING}{self.cookie}"
                if self.exists:
                    raise StateExists(f"{self.path}: this network namespace has its tables already")
                fresh = State(self.cookie, f"{root}/{_BUILDING}{self.cookie}")
                os.makedirs(fresh.path, 0o700, exist_ok=True)
                lock = Lock(fresh.path, 0, "the tables of this network namespace, being made,")
                try:
                    lock.__enter__()
                    break
                except kernel_errors.Busy:
                    if time.monotonic() >= end:
                        raise
            time.sleep(_PAUSE_S)
        try:
            for name in os.listdir(fresh.path):  # of one that was killed
                _delete(f"{fresh.path}/{name}")
            yield fresh
        finally:
            lock.__exit__(None, None, None)

    def _watch_namespace(self) -> None:
        program = kernel.load_instructions(
            kernel.PROG_TYPE_SK_LOOKUP, "pylvs_alive", _DO_NOTHING, kernel.ATTACH_SK_LOOKUP
        )
        try:
            namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            try:
                link = kernel.create_link(program, namespace, kernel.ATTACH_SK_LOOKUP)
            finally:
                os.close(namespace)
        finally:
            os.close(program)
        try:
            libbpf.pin(link, self.pin_path(_SENTINEL))
        finally:
            os.close(link)

    @property
    def alive(self) -> bool:
        """Whether the namespace lives: True unless the kernel says that it is gone."""
        link = libbpf.open_pin(self.pin_path(_SENTINEL))
        if link is None:
            return True
        try:
            return kernel.link_netns(link) != 0
        finally:
            os.close(link)

    def note(self, name: str) -> str | None:
        """A text kept beside the pins, as long as they live."""
        try:
            return os.readlink(self.pin_path(_NOTE + name))
        except OSError:
            return None

    def set_note(self, name: str, text: str | None) -> None:
        """Replace a note at one stroke, or remove it. ValueError for a text of 0 or more than 4000 bytes."""
        path = self.pin_path(_NOTE + name)
        if text is None:
            libbpf.unpin(path)
            return
        if not 0 < len(text.encode()) <= _LONGEST_NOTE or "\0" in text:
            raise ValueError(f"note {name}: from 1 to {_LONGEST_NOTE} bytes, without a zero byte")
        drafts = f"{_DRAFT}{name}-"
        while True:
            for left in os.listdir(self.path):  # by a process that was killed
                if left.startswith(drafts):
                    libbpf.unpin(self.pin_path(left))
            fresh = self.pin_path(f"{drafts}{os.getpid()}")
            with suppress(FileNotFoundError, FileExistsError):  # another process writes this note at this moment
                os.symlink(text, fresh)
                os.rename(fresh, path)
                return

    def notes(self) -> dict[str, str]:
        """All notes by name."""
        found = {}
        for name in os.listdir(self.path) if self.exists else []:
            if name.startswith(_NOTE) and (text := self.note(name.removeprefix(_NOTE))) is not None:
                found[name.removeprefix(_NOTE)] = text
        return found

    def remove(self) -> None:
        """Remove the state and, with the last one, the bpffs. It is gone as a whole from the first moment.

        What is attached must be detached before: pins are removed, attachments live on.
        """
        root = os.path.dirname(self.path)
        if not root:
            return
        try:
            with Lock(root, what=_ALL):
                _remove(root, os.path.basename(self.path))
        except FileNotFoundError:
            return
        mounts.remove()


def _delete(path: str) -> None:
    import shutil  # late: it is slow to import, and listings never need it

    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        libbpf.unpin(path)


def _cookie(name: str) -> int | None:
    """The cookie in the name of a state's directory, whole or half; None for other names."""
    for kind in (_LIVING, _BUILDING, _GOING):
        digits = name.removeprefix(kind)
        if digits != name and digits.isdigit():
            return int(digits)
    return None


def _remove(root: str, name: str) -> None:
    going = name
    if name.startswith(_LIVING):
        going = f"{_GOING}{name.removeprefix(_LIVING)}"
        _delete(f"{root}/{going}")
        try:
            os.rename(f"{root}/{name}", f"{root}/{going}")
        except FileNotFoundError:
            return
    _delete(f"{root}/{going}")


def _is_dead(cookie: int, path: str) -> bool:
    """Under the lock of all states: a state without a namespace, or half a one without a maker or a remover."""
    kind = os.path.basename(path)
    if kind.startswith(_LIVING):
        return not State(cookie, path).alive
    if kind.startswith(_BUILDING):
        try:
            with Lock(path, 0):
                return True
        except kernel_errors.Busy:
            return False
    return True


def collect_dead_states() -> list[int]:
    """Remove the states of namespaces that are gone, and what killed processes left; the cookies of what went.

    Costs a few system calls for each state of another namespace; does nothing while somebody else changes states.
    """
    root = mounts.find()
    if not root:
        return []
    own = f"{_LIVING}{netns_cookie()}"
    if not any(name != own and _cookie(name) is not None for name in os.listdir(root)):
        return []
    gone = []
    try:
        with Lock(root, 0, _ALL):
            for name in sorted(os.listdir(root)):
                cookie = _cookie(name)
                if cookie is None or name == own:
                    continue
                if _is_dead(cookie, f"{root}/{name}"):
                    _remove(root, name)
                    gone.append(cookie)
    except (kernel_errors.Busy, FileNotFoundError):
        return gone
    if gone:
        mounts.remove()
    return gone


__all__ = ["State", "StateExists", "collect_dead_states", "netns_cookie"]
