"""libbpf.so.1 through ctypes: loading objects, and the calls that other modules wrap.

libbpf's own messages are stored, and printed only if PYLVS_DEBUG is set.
A call that fails raises a PylvsError of one line, with the last lines of the verifier's log as its notes.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p

from pylvs.model.errors import PylvsError, Unsupported
from pylvs.system import syscalls

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from typing import Any

SONAME = "libbpf.so.1"
_HOW_TO_GET = "install it: apt install libbpf1 (Debian, Ubuntu), dnf install libbpf (Fedora)"
_KEPT_MESSAGES = 400
_DEBUGGING = 2  # LIBBPF_DEBUG; less: warnings and information
_LONGEST_MESSAGE = 1 << 18  # a verifier log can be long; its end is what matters

messages: deque[str] = deque(maxlen=_KEPT_MESSAGES)
_library: ctypes.CDLL | None = None
_keep: list[Any] = []  # the callback must outlive the library's use of it

_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "bpf_object__open_file": (c_void_p, (c_char_p, c_void_p)),
    "bpf_object__load": (c_int, (c_void_p,)),
    "bpf_object__close": (None, (c_void_p,)),
    "bpf_object__find_map_by_name": (c_void_p, (c_void_p, c_char_p)),
    "bpf_object__find_program_by_name": (c_void_p, (c_void_p, c_char_p)),
    "bpf_object__next_map": (c_void_p, (c_void_p, c_void_p)),
    "bpf_object__next_program": (c_void_p, (c_void_p, c_void_p)),
    "bpf_map__name": (c_char_p, (c_void_p,)),
    "bpf_map__fd": (c_int, (c_void_p,)),
    "bpf_map__set_max_entries": (c_int, (c_void_p, c_uint32)),
    "bpf_map__max_entries": (c_uint32, (c_void_p,)),
    "bpf_map__set_autocreate": (c_int, (c_void_p, ctypes.c_bool)),
    "bpf_map__reuse_fd": (c_int, (c_void_p, c_int)),
    "bpf_map__initial_value": (c_void_p, (c_void_p, POINTER(c_size_t))),
    "bpf_map__set_initial_value": (c_int, (c_void_p, c_void_p, c_size_t)),
    "bpf_program__name": (c_char_p, (c_void_p,)),
    "bpf_program__fd": (c_int, (c_void_p,)),
    "bpf_program__set_autoload": (c_int, (c_void_p, ctypes.c_bool)),
    "bpf_map_lookup_elem": (c_int, (c_int, c_void_p, c_void_p)),
    "bpf_map_update_elem": (c_int, (c_int, c_void_p, c_void_p, c_uint64)),
    "bpf_map_delete_elem": (c_int, (c_int, c_void_p)),
    "bpf_map_get_next_key": (c_int, (c_int, c_void_p, c_void_p)),
    "bpf_map_lookup_batch": (c_int, (c_int, c_void_p, c_void_p, c_void_p, c_void_p, POINTER(c_uint32), c_void_p)),
    "bpf_map_update_batch": (c_int, (c_int, c_void_p, c_void_p, POINTER(c_uint32), c_void_p)),
    "bpf_map_delete_batch": (c_int, (c_int, c_void_p, POINTER(c_uint32), c_void_p)),
    "bpf_obj_pin": (c_int, (c_int, c_char_p)),
    "bpf_obj_get": (c_int, (c_char_p,)),
    "bpf_obj_get_info_by_fd": (c_int, (c_int, c_void_p, POINTER(c_uint32))),
    "bpf_prog_get_fd_by_id": (c_int, (c_uint32,)),
    "bpf_map_get_fd_by_id": (c_int, (c_uint32,)),
    "bpf_btf_get_fd_by_id": (c_int, (c_uint32,)),
    "bpf_prog_load": (c_int, (c_int, c_char_p, c_char_p, c_void_p, c_size_t, c_void_p)),
    "bpf_prog_query": (c_int, (c_int, c_int, c_uint32, POINTER(c_uint32), c_void_p, POINTER(c_uint32))),
    "bpf_prog_test_run_opts": (c_int, (c_int, c_void_p)),
    "bpf_enable_stats": (c_int, (c_int,)),
    "bpf_link_create": (c_int, (c_int, c_int, c_int, c_void_p)),
    "libbpf_num_possible_cpus": (c_int, ()),
    "libbpf_set_print": (c_void_p, (c_void_p,)),
}


def library() -> ctypes.CDLL:
    """Return the library, which is loaded at the first call. Raises Unsupported if it is missing or too old."""
    global _library
    if _library is not None:
        return _library
    try:
        loaded = ctypes.CDLL(SONAME, use_errno=True)
    except OSError as error:
        raise Unsupported(f"{SONAME} cannot be loaded ({error}); {_HOW_TO_GET}") from None
    for name, (result, arguments) in _SIGNATURES.items():
        try:
            function = getattr(loaded, name)
        except AttributeError:
            raise Unsupported(f"{SONAME} is too old: it lacks {name}; 1.1 or newer is needed") from None
        function.restype = result
        function.argtypes = arguments
    _library = loaded
    return loaded


def _capture_messages(loaded: ctypes.CDLL) -> None:
    """Store libbpf's messages from now on. Only calls on objects emit any."""
    if _keep:
        return
    printer = ctypes.CFUNCTYPE(c_int, c_int, c_char_p, c_void_p)
    show = bool(os.environ.get("PYLVS_DEBUG"))

    def message(level: int, text_format: bytes, arguments: int) -> int:
        if level >= _DEBUGGING and not show:
            return 0  # thousands of lines: formatting them takes longer than loading
        text = syscalls.vsnprintf(_LONGEST_MESSAGE, text_format, arguments).decode(errors="replace").rstrip("\n")
        if level < _DEBUGGING:
            messages.extend(text.split("\n"))
        if show:
            print(text, file=sys.stderr)
        return 0

    callback = printer(message)
    _keep.append(callback)
    loaded.libbpf_set_print(callback)


def check(result: int, doing: str) -> int:
    """Return the result, or raise the error of a negative one; `doing` begins its text."""
    if result < 0:
        raise syscalls.failure(ctypes.get_errno() or -result, doing)
    return result


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Block signals: an exception of a handler would be lost in libbpf's callback."""
    import signal  # late: only loading needs it

    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class BpfObject:
    """An object file: opened, configured, loaded. Closing it closes its descriptors."""

    def __init__(self, path: os.PathLike[str] | str) -> None:
        """Open without loading. Raises Unsupported without libbpf, PylvsError for an unreadable file."""
        self._lib = library()
        _capture_messages(self._lib)
        self.path = os.fspath(path)
        messages.clear()
        with _undisturbed():
            self._object: int | None = self._lib.bpf_object__open_file(os.fsencode(self.path), None)
        if not self._object:
            raise syscalls.failure(ctypes.get_errno(), f"opening {self.path}", messages)

    def __enter__(self) -> BpfObject:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release what is not pinned or attached. A second call does nothing."""
        if self._object:
            self._lib.bpf_object__close(self._object)
            self._object = None

    def _map(self, name: str) -> int:
        found: int | None = self._lib.bpf_object__find_map_by_name(self._object, name.encode())
        if not found:
            raise KeyError(f"{self.path}: no map {name}")
        return found

    def _program(self, name: str) -> int:
        found: int | None = self._lib.bpf_object__find_program_by_name(self._object, name.encode())
        if not found:
            raise KeyError(f"{self.path}: no program {name}")
        return found

    def maps(self) -> list[str]:
        """Return the names of its maps, data sections included."""
        return self._names(self._lib.bpf_object__next_map, self._lib.bpf_map__name)

    def programs(self) -> list[str]:
        """Return the names of its programs."""
        return self._names(self._lib.bpf_object__next_program, self._lib.bpf_program__name)

    def _names(self, following: Any, name: Any) -> list[str]:
        found = []
        item = following(self._object, None)
        while item:
            found.append(name(item).decode())
            item = following(self._object, item)
        return found

    def max_entries(self, name: str) -> int:
        """Return the size that a map will have."""
        return int(self._lib.bpf_map__max_entries(self._map(name)))

    def set_max_entries(self, name: str, count: int) -> None:
        """Set the size of a map, before loading."""
        check(self._lib.bpf_map__set_max_entries(self._map(name), count), f"sizing map {name} to {count}")

    def skip_program(self, name: str) -> None:
        """Exclude a program, before loading."""
        check(self._lib.bpf_program__set_autoload(self._program(name), False), f"leaving out program {name}")

    def skip_map(self, name: str) -> None:
        """Do not create a map, before loading. Programs may name it only in code that the verifier removes."""
        check(self._lib.bpf_map__set_autocreate(self._map(name), False), f"leaving out map {name}")

    def reuse_map(self, name: str, descriptor: int) -> None:
        """Use an existing map, before loading. libbpf duplicates the descriptor."""
        check(self._lib.bpf_map__reuse_fd(self._map(name), descriptor), f"reusing map {name}")

    def set_data(self, section: str, offset: int, value: bytes) -> None:
        """Set initial bytes of a variable, before loading, by its section (".rodata") and offset (see `abi`)."""
        found = self._map(section)
        size = c_size_t()
        start = self._lib.bpf_map__initial_value(found, byref(size))
        if not start or offset + len(value) > size.value:
            raise KeyError(f"{self.path}: {section} has no {len(value)} bytes at {offset}")
        content = bytearray(ctypes.string_at(start, size.value))
        content[offset : offset + len(value)] = value
        done = self._lib.bpf_map__set_initial_value(found, bytes(content), len(content))
        check(done, f"setting the initial value of {section}")

    def load(self) -> None:
        """Create the maps, verify and load the programs.

        Raises NotPermitted, NoSpace, Unsupported; the notes hold the end of the verifier's log.
        """
        messages.clear()
        with _undisturbed():
            result = self._lib.bpf_object__load(self._object)
        if result < 0:
            raise _load_failure(-result, os.path.basename(self.path), messages)

    def map_fd(self, name: str) -> int:
        """Return the descriptor of a loaded map, which the object closes."""
        return check(self._lib.bpf_map__fd(self._map(name)), f"asking for map {name}")

    def program_fd(self, name: str) -> int:
        """Return the descriptor of a loaded program, which the object closes."""
        return check(self._lib.bpf_program__fd(self._program(name)), f"asking for program {name}")


def create_map(
    kind: int, name: str, key_size: int, value_size: int, max_entries: int, flags: int = 0, inner: int = 0
) -> int:
    """Create a map without an object file; return its descriptor, which the caller closes.

    A map of maps needs `inner`, the descriptor of a map like those that it will have. Raises NoSpace, NotPermitted.
    """
    # struct bpf_map_create_opts: sz, four numbers of BTF, inner_map_fd, map_flags
    options = ctypes.create_string_buffer(struct.pack("<Q4III", 32, 0, 0, 0, 0, inner, flags), 32)
    done = library().bpf_map_create(kind, name.encode()[:15], key_size, value_size, max_entries, options)
    return check(done, f"creating map {name} of {max_entries} elements")


def pin(descriptor: int, path: str) -> None:
    """Pin a map, program or link at a path in a bpffs. Raises Busy if the path exists."""
    check(library().bpf_obj_pin(descriptor, os.fsencode(path)), f"pinning {path}")


def unpin(path: str) -> bool:
    """Remove a pin; return whether there was one."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise syscalls.failure(error.errno or 0, f"removing the pin {path}") from None
    return True


def open_pin(path: str) -> int | None:
    """Return a new descriptor of a pin, which the caller closes; None if the path does not exist."""
    result: int = library().bpf_obj_get(os.fsencode(path))
    if result < 0 and ctypes.get_errno() == 2:
        return None
    return check(result, f"opening {path}")


def possible_cpus() -> int:
    """Return the number of values in an element of a per-CPU map."""
    return check(library().libbpf_num_possible_cpus(), "counting the processors")


def _load_failure(number: int, name: str, log: Iterable[str]) -> PylvsError:
    """Return why an object did not load: lack of permission or memory first, then the verifier's message."""
    lines = [line for line in log if line.strip()]
    doing = f"loading {name}"
    if number == errno.EPERM or (number == errno.EACCES and syscalls.missing_capabilities("CAP_BPF", "CAP_NET_ADMIN")):
        return syscalls.failure(errno.EPERM, doing, lines)
    too_large = number == errno.E2BIG and any("failed to create" in line for line in lines)  # a map
    if number in (errno.ENOMEM, errno.ENODEV, errno.EMFILE) or too_large:
        return syscalls.failure(number, doing, lines)
    if number == errno.ENOENT and syscalls.missing_capabilities("CAP_BPF"):
        return syscalls.failure(errno.EPERM, doing, lines)
    reason = _reason(lines) or os.strerror(number)
    error = Unsupported(f"{doing}: this kernel ({os.uname().release}) refuses it: {reason}")
    error.errno = number
    return syscalls.with_notes(error, lines)


def _reason(lines: list[str]) -> str:
    """Return the line of the log that names the cause: the verifier's last message, or libbpf's first error."""
    noise = ("processed ", "-- END", "-- BEGIN", "verification time", "stack depth", "libbpf: failed to load object")
    if any("BEGIN PROG LOAD LOG" in line for line in lines):
        end = next((i for i, line in enumerate(lines) if "END PROG LOAD LOG" in line), len(lines))
        for line in reversed(lines[:end]):
            if not line.startswith(noise):
                return line.strip()
    errors = [line for line in lines if "Retrying" not in line]
    return errors[0].strip().removeprefix("libbpf: ") if errors else ""
