"""The state of one network namespace: its directory of pins and notes, its build, and how it is made and removed.

A namespace is known by its cookie, which the kernel never reuses before the next boot. Each state pins a link to its
namespace whose program does nothing. The link shows whether the namespace still exists.

The directory `maps` of a state has everything of one load of the object: maps, programs, and a note with the build. The
next edit replaces the programs of an older build. If the layout of the tables differs, it copies the tables as well.

A load is pinned in a directory of its own, a draft, which is exchanged with `maps` by one rename(2). Then the draft has
the former load. It stays while a device runs its programs. The kernel empties a program array (of tail calls) without a
pin or descriptor, even if a running program uses it.
"""

from __future__ import annotations

import itertools
import os
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress

import pylvs
from pylvs.bpf import abi, kernel, libbpf, mounts
from pylvs.model import sockets as socket
from pylvs.model.dataclass import dataclass
from pylvs.model.errors import Busy, NotPermitted, PylvsError, Unsupported
from pylvs.system import syscalls
from pylvs.system.lock import TIMEOUT_S, Lock

OBJECT = "director"
XDP, TC, EGRESS, BARE = ENTRIES = ("pylvs_xdp", "pylvs_tc", "pylvs_tc_egress", "pylvs_tc_bare")  # attached to devices
# Tail-called by TC, for services with a persistence engine, and with cache_bypass.
SIP, BYPASS = ON_DEMAND = ("tc_sip", "tc_bypass")
# programs that commands run
CLOCK, ORPHANS, CACHE_SWEEP, INDEX = "read_clock", "end_orphans", "sweep_cache", "index_list"
RESTORE = "restore_conns"  # run by a copy of the connection table, for which alone it is loaded
SELECTED = "selected"  # a map: 0 or 1, added to the number of the program that a switch calls
GATE = "gate"  # the directory with the pins of a gate before the packet path (devices/gate.py)
GIVING_BACK = "giving-back"  # a note: a process gives the table to ip_vs, or was killed while it did
OLD_GATE = "old-gate"  # that of a gate which devices run no more, or not for long
FIXED_CAPACITY = "conn-max-fixed"  # a note: an operator set the capacity of the connection table
TRANSFER = DUMP, TAKE = ("dump_conns", "take_conns")  # of a process that copies connections between directors
STORE = "store_synced"  # run by a process that stores what another director announces, which loads it
LOADED = "maps"  # the directory with the pins of the load in force
_LOADS = f"{LOADED}-"  # prefix of the directories of other loads; a number follows
_UNFINISHED, _BUILD = "unfinished", "build"  # notes of a load
ROLES = "/run/pylvs/roles"
DAEMONS = "/run/pylvs/daemon"  # the state directories of pylvs run: netCOOKIE, or netCOOKIE-INSTANCE
SYNC_DAEMONS = "/run/pylvs/sync"  # the files of sync daemons: netCOOKIE
NAMESPACE_GONE = "namespace_gone"  # an empty file in these (pylvs.daemon.gone_namespaces)
_NETNS_COOKIE = 71  # SO_NETNS_COOKIE; asm-generic/socket.h
_LIVING, _BUILDING, _GOING = "net", "new-net", "old-net"  # prefixes of a directory's name; the cookie follows
_SENTINEL = "alive"
_NOTE, _DRAFT = "note-", "draft-"  # prefixes of symbolic links: a note, and one that is being written
_PAUSE_S = 0.02
_LONGEST_NOTE = 4000  # bytes: a symbolic link's target holds the note
# r0 = SK_PASS; exit: socket lookup continues as without the program
_DO_NOTHING = struct.pack("<BBhi", 0xB7, 0, 0, 1) + struct.pack("<BBhi", 0x95, 0, 0, 0)


def netns_cookie() -> int:
    """Return the cookie of the calling thread's network namespace. Raises Unsupported before Linux 5.14."""
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as probe:
        try:
            return int.from_bytes(probe.getsockopt(socket.SOL_SOCKET, _NETNS_COOKIE, 8), "little")
        except OSError:
            raise Unsupported(
                f"this kernel ({os.uname().release}) cannot name its network namespaces (SO_NETNS_COOKIE)"
            ) from None


def roles_directory(cookie: int) -> str:
    """Return the directory in which the pylvs-vrrp of a network namespace stores the roles of its addresses."""
    return f"{ROLES}/net{cookie}"


@dataclass(frozen=True, slots=True)
class Build:
    """A build of the data plane: digests of its tables' layout and of its object, and the version of its pylvs."""

    tables: str
    digest: str
    version: str

    def __str__(self) -> str:
        return f"pylvs {self.version} (object {self.digest}, tables {self.tables})"


def own_build() -> Build:
    """Return the build of this pylvs."""
    return Build(abi.shipped().tables(OBJECT), abi.shipped().digest(OBJECT), pylvs.__version__)


def _order(version: str) -> list[int]:
    return [int(part) if part.isdigit() else 0 for part in version.split(".")]


def check_requirements() -> None:
    """Raise NotPermitted without CAP_BPF and CAP_NET_ADMIN, Unsupported on a kernel that cannot run the programs."""
    missing = syscalls.missing_capabilities("CAP_BPF", "CAP_NET_ADMIN")
    if missing:
        raise NotPermitted(syscalls.lacking(missing), missing)
    kernel.require()


class StateExists(Busy):
    """Another process made the state of this namespace first."""


class State:
    """The directory with pins and notes of one namespace."""

    def __init__(self, cookie: int, path: str) -> None:
        self.cookie = cookie
        self.path = path  # valid in this process only; empty while there is no bpffs

    @classmethod
    def open(cls, create: bool = False, reading: bool = False) -> State:
        """Return the state of the current namespace; with `create`, make it if it does not exist.

        Raises NotPermitted without CAP_BPF and CAP_NET_ADMIN, Unsupported, Busy. With `reading` these two are not
        needed: the directory and the pins decide.
        """
        if not reading:
            check_requirements()
        cookie = netns_cookie()
        root = mounts.ensure() if create else mounts.find()
        state = cls(cookie, f"{root}/{_LIVING}{cookie}" if root else "")
        if create and not state.exists:
            with suppress(StateExists), state.building(TIMEOUT_S):
                pass
        return state

    @property
    def exists(self) -> bool:
        """Whether the directory exists."""
        return bool(self.path) and os.path.isdir(self.path)

    def pin_path(self, name: str) -> str:
        """Return the path of a pin. Names have no dots, which bpffs reserves."""
        return f"{self.path}/{name}"

    def loaded_path(self, name: str) -> str:
        """Return the path of a pinned map or program of the load in force."""
        return f"{self.path}/{LOADED}/{name}"

    def pins(self) -> list[str]:
        """Return the sorted names of all pins, without notes; those in sub-directories as `directory/name`."""
        return sorted(
            os.path.relpath(os.path.join(where, name), self.path)
            for where, _, names in os.walk(self.path)
            for name in names
            if not name.startswith((_NOTE, _DRAFT)) and name != _SENTINEL
        )

    @contextmanager
    def opened(self, name: str) -> Iterator[int | None]:
        """Yield a descriptor of a pin, as `maps/pools`; None without this pin."""
        descriptor = libbpf.open_pin(self.pin_path(name))
        try:
            yield descriptor
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def run_program(self, name: str, directory: str = LOADED, data: bytes = bytes(64)) -> int:
        """Run a program of a load once, on a packet with this data. Return its verdict; 0 if it is not pinned."""
        with self.opened(f"{directory}/{name}") as program:
            return 0 if program is None else kernel.run_program(program, data).verdict

    def lock(self, timeout_s: float = TIMEOUT_S) -> Lock:
        """Return the lock for edits of the tables; the state must exist."""
        return Lock(self.path, timeout_s)

    @contextmanager
    def building(self, timeout_s: float = TIMEOUT_S) -> Iterator[State]:
        """Yield a new state to pin into. At the end it becomes this state atomically; after an error nothing is left.

        Raises StateExists if the namespace has one by now, Busy if another process builds one for too long.
        """
        try:
            with self._site(timeout_s) as fresh:
                yield from self._built(fresh, timeout_s)
        except Busy:  # StateExists, too
            raise
        except BaseException:
            with suppress(PylvsError, OSError):  # the first error counts
                mounts.remove()
            raise

    def _built(self, fresh: State, timeout_s: float) -> Iterator[State]:
        # The lock of all states: another builder of this one finds either `fresh` or the whole state.
        everything = Lock(os.path.dirname(fresh.path), timeout_s, mounts.ALL_STATES)
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
        """Yield an empty, locked directory to build in. The lock of all states is held only to take it."""
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
                except Busy:
                    if time.monotonic() >= end:
                        raise
            time.sleep(_PAUSE_S)
        try:
            for name in os.listdir(fresh.path):  # left by a builder that was killed
                _delete(f"{fresh.path}/{name}")
            yield fresh
        finally:
            lock.__exit__(None, None, None)

    def _watch_namespace(self) -> None:
        hook = kernel.ATTACH_SK_LOOKUP
        with ExitStack() as opened:
            program = kernel.load_instructions(kernel.PROG_TYPE_SK_LOOKUP, "pylvs_alive", _DO_NOTHING, hook)
            opened.callback(os.close, program)
            namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            opened.callback(os.close, namespace)
            link = kernel.create_link(program, namespace, hook)
            opened.callback(os.close, link)
            libbpf.pin(link, self.pin_path(_SENTINEL))

    @property
    def alive(self) -> bool:
        """Whether the namespace exists: True unless the kernel reports that it is gone."""
        with self.opened(_SENTINEL) as link:
            return link is None or kernel.link_netns(link) != 0

    def note(self, name: str) -> str | None:
        """Return a note, or None. Notes are stored beside the pins and removed with them."""
        try:
            return os.readlink(self._note_path(name))
        except OSError:
            return None

    def _note_path(self, name: str) -> str:
        """Return the path of a note, as `zeroed`, or `maps/build` of a load."""
        directory, separator, last = name.rpartition("/")
        return self.pin_path(f"{directory}{separator}{_NOTE}{last}")

    def set_note(self, name: str, text: str | None) -> None:
        """Replace a note atomically, or remove it. Raises ValueError for a text of 0 or more than 4000 bytes."""
        path = self._note_path(name)
        if text is None:
            libbpf.unpin(path)
            return
        if not 0 < len(text.encode()) <= _LONGEST_NOTE or "\0" in text:
            raise ValueError(f"note {name}: from 1 to {_LONGEST_NOTE} bytes, without a zero byte")
        drafts = f"{_DRAFT}{name.replace('/', '-')}-"
        while True:
            for left in os.listdir(self.path):  # left by a process that was killed
                if left.startswith(drafts):
                    libbpf.unpin(self.pin_path(left))
            fresh = self.pin_path(f"{drafts}{os.getpid()}")
            with suppress(FileNotFoundError, FileExistsError):  # another process writes this note at this moment
                os.symlink(text, fresh)
                os.rename(fresh, path)
                return

    def notes(self) -> dict[str, str]:
        """Return all notes by name."""
        found = {}
        for name in os.listdir(self.path) if self.exists else []:
            if name.startswith(_NOTE) and (text := self.note(name.removeprefix(_NOTE))) is not None:
                found[name.removeprefix(_NOTE)] = text
        return found

    @property
    def has_gate(self) -> bool:
        """Whether devices run a gate in place of the entry programs."""
        return os.path.isdir(self.pin_path(GATE))

    def build(self, directory: str = LOADED) -> Build | None:
        """Return the build of the tables and programs of a load; None without a readable note."""
        words = (self.note(f"{directory}/{_BUILD}") or "").split()
        return Build(*words) if len(words) == 3 else None

    def note_build(self, directory: str = LOADED) -> None:
        """Note in the directory of a load that it is of the build of this pylvs."""
        own = own_build()
        self.set_note(f"{directory}/{_BUILD}", f"{own.tables} {own.digest} {own.version}")

    def leftovers(self) -> tuple[list[str], list[str]]:
        """Return notes that killed processes did not finish, and the directories of loads that are not in force."""
        names = os.listdir(self.path)
        return [name for name in names if name.startswith(_DRAFT)], [name for name in names if name.startswith(_LOADS)]

    def draft(self) -> str:
        """Return the name of a new directory to pin a load into. Edits remove it while no device runs the load."""
        _, used = self.leftovers()
        name = next(each for number in itertools.count(1) if (each := f"{_LOADS}{number}") not in used)
        os.mkdir(self.pin_path(name), 0o700)
        return name

    def put_in_force(self, draft: str, note: str) -> None:
        """Exchange a draft with the load in force, atomically; the new one is unfinished, with this note."""
        self.set_note(f"{draft}/{_UNFINISHED}", note)
        try:
            syscalls.exchange(self.pin_path(draft), self.pin_path(LOADED))
        except OSError as error:
            raise syscalls.failure(error.errno or 0, f"exchanging {self.pin_path(draft)} and {LOADED}") from None

    def unfinished(self) -> str | None:
        """Return the note of a load to which timers or devices are not adapted yet; None if it is complete."""
        return self.note(f"{LOADED}/{_UNFINISHED}")

    def note_finished(self) -> None:
        """Note that the load in force is complete."""
        self.set_note(f"{LOADED}/{_UNFINISHED}", None)

    def remove_load(self, name: str) -> None:
        """Remove the directory of a load that is not in force."""
        _delete(self.pin_path(name))

    def has_own_layout(self, directory: str = LOADED) -> bool:
        """Return whether the layout of the tables of a load is that of this pylvs."""
        build = self.build(directory)
        return build is not None and build.tables == own_build().tables

    def made_by(self) -> str:
        """Return the version of the pylvs that made the load in force, "unknown" if it left no note."""
        build = self.build()
        return build.version if build else "unknown"

    def check_build(self) -> None:
        """Raise Unsupported if the layout of the tables is not that of this pylvs."""
        if not self.has_own_layout():
            raise Unsupported(
                f"the tables of this network namespace are those of {self.build() or 'another pylvs'}, this is"
                f" {own_build()}; the next edit by a new process migrates them; one that changes nothing else is:"
                " ipvsadm --set 0 0 0",
                self.made_by(),
            )

    def is_outdated(self) -> bool:
        """Return whether this pylvs should replace the programs: they differ from its own and are not newer."""
        build, own = self.build(), own_build()
        return build is not None and build.digest != own.digest and _order(build.version) <= _order(own.version)

    def remove(self) -> None:
        """Remove the state atomically and, with the last state, the bpffs.

        Detach everything before: programs stay attached without their pins.
        """
        root = os.path.dirname(self.path)
        if not root:
            return
        try:
            with Lock(root, what=mounts.ALL_STATES):
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
    """Return the cookie in the name of a state's directory, complete or not; None for other names."""
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
    """Return whether a state lost its namespace, or is incomplete and its builder or remover was killed.

    The caller holds the lock of all states.
    """
    kind = os.path.basename(path)
    if kind.startswith(_LIVING):
        return not State(cookie, path).alive
    if kind.startswith(_BUILDING):
        try:
            with Lock(path, 0):
                return True
        except Busy:
            return False
    return True


def _tell_daemons(cookie: int) -> None:
    """Mark the state directories of a namespace that is gone: after its state nothing else shows that."""
    import glob  # late: there is hardly ever such a state

    for path in (*glob.glob(f"{DAEMONS}/net{cookie}"), *glob.glob(f"{DAEMONS}/net{cookie}-*")):
        with suppress(OSError):  # it is removed at this moment, or read-only
            os.close(os.open(f"{path}/{NAMESPACE_GONE}", os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))


def collect_dead_states() -> list[int]:
    """Remove the states of namespaces that are gone, and what killed processes left; return their cookies.

    It costs a few system calls for each state of another namespace. It does nothing while another process makes or
    removes states.
    """
    root = mounts.find()
    if not root:
        return []
    own = f"{_LIVING}{netns_cookie()}"
    if not any(name != own and _cookie(name) is not None for name in os.listdir(root)):
        return []
    gone = []
    try:
        with Lock(root, 0, mounts.ALL_STATES):
            for name in sorted(os.listdir(root)):
                cookie = _cookie(name)
                if cookie is None or name == own:
                    continue
                if _is_dead(cookie, f"{root}/{name}"):
                    if name.startswith(_LIVING):  # the others are incomplete; their namespaces may exist
                        _tell_daemons(cookie)
                        _delete(f"{SYNC_DAEMONS}/net{cookie}")  # of killed ones: a living one is in the namespace
                    _remove(root, name)
                    gone.append(cookie)
    except (Busy, FileNotFoundError):
        return gone
    if gone:
        mounts.remove()
    return gone
