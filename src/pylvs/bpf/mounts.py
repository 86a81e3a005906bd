"""The bpffs with the pins: one for the machine, found from any mount namespace.

`ip netns exec` and `unshare -m` make mount namespaces, and mounts within them end with them. So the bpffs is mounted in
the outermost mount namespace that can be entered: that of PID 1, else that of the oldest process. Other processes reach
it through /proc/PID/root. A marker in it shows that it is in use; a stale copy of the mount has none.
A container with its own /run mounts its own bpffs, which ends with the container. Processes outside never use it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from pylvs.model.errors import NotPermitted, PylvsError, Unsupported
from pylvs.system import syscalls
from pylvs.system.lock import Lock

DIRECTORY = "/run/pylvs"
POINT = f"{DIRECTORY}/bpf"
ALL_STATES = "the states of this machine"  # what a lock of the bpffs guards
_MARKER = "in-use"
_KERNEL_THREAD = 0x00200000  # PF_KTHREAD
_ATTEMPTS = 100  # to find or mount the bpffs, while processes end and others unmount it
_reachable: list[int] = []  # descriptors of roots, after `hold_roots`
_held: dict[int, int] = {}  # device of a bpffs that only another namespace sees: a descriptor of its root


def find() -> str | None:
    """Return the path of the bpffs in use, for this process; None if there is none.

    Raises NotPermitted if this process may not search the directory: it cannot know whether there are tables.
    """
    for root in _roots():
        try:
            if stat.S_ISLNK(os.lstat(f"{root}{POINT}/{_MARKER}").st_mode):
                return _path(root)
        except PermissionError:
            if os.path.isdir(f"{root}{POINT}"):  # so this process may search the directories above it
                needed = "CAP_DAC_OVERRIDE"
                text = f"{POINT}: Permission denied; {needed} is missing: run it as root"
                raise NotPermitted(text, [needed]) from None
        except OSError:  # there is none, or the process of this root has ended
            continue
    return None


def hold_roots() -> None:
    """Let `find` search the present roots from now on: without CAP_SYS_PTRACE this process could not enter them."""
    for root in list(_roots()):
        with suppress(OSError):  # its process has ended
            _reachable.append(os.open(root or "/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))


def ensure() -> str:
    """Return the path of the bpffs; mount it if necessary. Raises NotPermitted, Unsupported."""
    for _ in range(_ATTEMPTS):
        path = find() or _made()
        if path:
            return path
    raise Unsupported(
        f"{POINT}: mounted in the mount namespace of process {_outermost()}, but not visible below its /proc/PID/root;"
        " run pylvs in the mount namespace of the host, or give this one a /run and a /proc of its own"
    )


def _made() -> str | None:
    process = _outermost()
    root = f"/proc/{process}/root"
    try:
        new_directory = _make(f"{root}{DIRECTORY}", 0o755)
    except FileNotFoundError:
        return None  # the process has ended: another one is the outermost now
    with suppress(FileNotFoundError), Lock(f"{root}{DIRECTORY}", what=DIRECTORY):
        if not os.path.islink(f"{root}{POINT}/{_MARKER}"):
            new_point = _make(f"{root}{POINT}", 0o700)
            try:
                _within(process, _mount)
            except PylvsError:
                # Only what is new: rmdir(2) would detach what another mount namespace has mounted there.
                for folder in [POINT] * new_point + [DIRECTORY] * (new_point and new_directory):
                    with suppress(OSError):  # something else is in it
                        os.rmdir(f"{root}{folder}")
                raise
    return _path(root)


def _make(folder: str, mode: int) -> bool:
    """Make a directory, and return whether it is new. Raises FileNotFoundError without the one above, PylvsError."""
    try:
        os.mkdir(folder, mode)
    except FileExistsError:
        return False
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _refused(f"making {POINT}", error) from None
    return True


@contextmanager
def ensured(timeout_s: float) -> Iterator[str]:
    """Yield the path of the bpffs, mounted, under the lock of all states. Raises as `ensure`."""
    ours = False
    while True:
        path = ensure()
        try:
            with Lock(path, timeout_s, ALL_STATES):
                if os.path.islink(f"{path}/{_MARKER}"):  # else another process unmounted it before we locked it
                    ours = True
                    yield path
                    return
        except FileNotFoundError:
            if ours:
                raise  # the body of the `with` raised it


def remove() -> None:
    """Unmount the bpffs when it holds no state, here and in every namespace that has a copy of the mount."""
    found = find()
    if not found:
        return
    with suppress(FileNotFoundError), Lock(f"/proc/{_outermost()}/root{DIRECTORY}", what=DIRECTORY):
        _unmount_empty(found)  # under the lock, so that no process mounts another one at the same time


def _unmount_empty(found: str) -> None:
    held = os.open(found, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)  # keeps its device number from being reused
    try:
        with Lock(found, what=ALL_STATES):
            if any(name != _MARKER and "." not in name for name in os.listdir(found)):
                return  # names with a dot are the kernel's own (maps.debug)
            os.unlink(f"{found}/{_MARKER}")
            device = os.fstat(held).st_dev
        kept = _held.pop(device, None)
        if kept is not None:
            os.close(kept)
        for process in _namespaces():
            try:
                if os.stat(f"/proc/{process}/root{POINT}").st_dev == device:
                    _within(process, _unmount)
            except (OSError, PylvsError):
                continue  # it has ended, or cannot be entered: an empty copy does no harm
    finally:
        os.close(held)


def _path(root: str) -> str | None:
    """Return the plain path if this process sees the same file system there, else one through an open descriptor.

    None if another process has unmounted the bpffs.
    """
    try:
        descriptor = os.open(f"{root}{POINT}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    path = f"/proc/self/fd/{descriptor}"
    there = os.fstat(descriptor)
    try:
        if not os.path.islink(f"{path}/{_MARKER}"):
            return None
        with suppress(FileNotFoundError):  # where this process has another /run
            if os.path.samestat(os.stat(POINT), there):
                return POINT
        kept = _held.setdefault(there.st_dev, descriptor)
        if kept == descriptor:
            descriptor = -1
        return f"/proc/self/fd/{kept}"
    except FileNotFoundError:
        return None
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _roots() -> Iterator[str]:
    """Yield the roots to search, in order: every process finds the same bpffs first."""
    if _reachable:
        yield from (f"/proc/self/fd/{each}" for each in _reachable)
        return
    if _enterable(1):
        yield "/proc/1/root"
    else:
        for process in _ancestors():
            yield f"/proc/{process}/root"
        outermost, *others = _namespaces() or [os.getpid()]
        yield f"/proc/{outermost}/root"
        for process in others:
            if _same_run(process, outermost):
                yield f"/proc/{process}/root"
    yield ""


def _same_run(process: int, other: int) -> bool:
    """Return whether two processes have the same DIRECTORY; if not, one of them runs in a container."""
    try:
        return os.path.samefile(f"/proc/{process}/root{DIRECTORY}", f"/proc/{other}/root{DIRECTORY}")
    except OSError:
        return False


def _outermost() -> int:
    return 1 if _enterable(1) else next(iter(_namespaces()), os.getpid())


def _enterable(process: int) -> bool:
    """Return whether a process's root is reachable, is its namespace's own root, and is of our user namespace."""
    try:
        same = os.stat(f"/proc/{process}/ns/user").st_ino == os.stat("/proc/self/ns/user").st_ino
        return (
            same
            and os.readlink(f"/proc/{process}/root") == "/"
            and stat.S_ISDIR(os.stat(f"/proc/{process}/root").st_mode)
        )
    except OSError:
        return False


def _status(process: int) -> tuple[int, int, bool]:
    """Return a process's parent, start time, and whether it is a kernel thread (proc(5), stat). Raises OSError."""
    with open(f"/proc/{process}/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    return int(fields[1]), int(fields[19]), bool(int(fields[6]) & _KERNEL_THREAD)


def _ancestors() -> list[int]:
    """Return this process's ancestors that can be entered, the oldest first."""
    found: list[int] = []
    process = os.getppid()
    while process > 1:
        if _enterable(process):
            found.insert(0, process)
        try:
            process = _status(process)[0]
        except OSError:
            break
    return found


def _namespaces() -> list[int]:
    """Return the oldest process of each mount namespace that can be entered, the oldest first."""
    oldest: dict[int, tuple[int, int]] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        process = int(name)
        try:
            _, started, of_kernel = _status(process)
            if of_kernel:  # their root is that of the early boot on many machines
                continue
            namespace = os.stat(f"/proc/{process}/ns/mnt").st_ino
        except OSError:
            continue
        age = (started, process)
        if age < oldest.get(namespace, (1 << 62, 0)) and _enterable(process):
            oldest[namespace] = age
    return [process for _, process in sorted(oldest.values())]


@contextmanager
def _explained(doing: str) -> Iterator[None]:
    """Turn an OSError into an error for the user; `doing` names the failed operation."""
    try:
        yield
    except OSError as error:
        raise _refused(doing, error) from None


def _refused(doing: str, error: OSError) -> PylvsError:
    if error.errno == errno.ENODEV:
        return Unsupported(f"{doing}: this kernel has no bpffs (CONFIG_BPF_SYSCALL)")
    return syscalls.failure(error.errno or 0, doing, needed=("CAP_SYS_ADMIN",))


def _within(process: int, work: Callable[[], None]) -> None:
    """Run `work` in the mount namespace of another process.

    It runs in a thread of its own: setns(2) requires unshared file system attributes, and the other threads keep their
    namespace.
    """
    from concurrent.futures import ThreadPoolExecutor  # late: most processes are in the outermost mount namespace

    from pylvs.system.namespaces import Kind, join  # late: only other namespaces need it

    def enter() -> None:
        with _explained("leaving the shared file system attributes"):
            syscalls.unshare(syscalls.CLONE_FS)
        with _explained("entering the outermost mount namespace"):
            join(f"/proc/{process}/ns/mnt", Kind.MOUNT)
        work()

    with ThreadPoolExecutor(1, "pylvs-mount") as pool:
        pool.submit(enter).result()


def _mount() -> None:
    with _explained(f"mounting a bpffs at {POINT}"):
        syscalls.mount("bpf", POINT, "bpf", syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC, "mode=0700")
        os.symlink("pylvs", f"{POINT}/{_MARKER}")


def _unmount() -> None:
    with _explained(f"unmounting {POINT}"):
        syscalls.unmount(POINT)
