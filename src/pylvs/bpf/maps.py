"""BPF maps as Python objects. Keys and values are bytes; the codecs of `abi` pack and unpack them.

A map object owns its descriptor and closes it. A failed call raises a PylvsError. A missing element is
no error.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import select
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import groupby

from pylvs.bpf import kernel, libbpf
from pylvs.bpf.libbpf import library
from pylvs.model.errors import NoSpace, PylvsError, Unsupported
from pylvs.system import syscalls

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from typing import Any, TypeVar

    Self = TypeVar("Self", bound="Map")

_ARRAY, _ARRAY_OF_MAPS = 2, 12  # linux/bpf.h
ANY, NOEXIST, EXIST = 0, 1, 2  # BPF_ANY, BPF_NOEXIST, BPF_EXIST
MMAPABLE = 1 << 10  # BPF_F_MMAPABLE

_BATCH = 4096  # elements of one batch call
_MASK32 = 0xFFFFFFFF
PAGE = mmap.PAGESIZE
_FIRST_MAPPED = 1 << 15  # bytes of an array that are mapped at first
_WINDOW = 1 << 22  # bytes of a large array that are in memory at once
_ORDERED = ("x86_64",)  # where CPUs keep stores in order (TSO): a barrier may be missing


def full_barrier() -> None:
    """Order all accesses before the call against all after it, on every CPU. Raises Unsupported.

    membarrier(2) runs smp_mb() on the calling CPU. It interrupts only processes that registered for it; no process of
    pylvs does. The order in which packets see what Python writes: docs/architecture.md, "Memory order".
    """
    try:
        syscalls.membarrier(syscalls.MEMBARRIER_CMD_GLOBAL_EXPEDITED)
    except OSError as error:
        machine = os.uname().machine
        if machine not in _ORDERED:
            reason = error.strerror
            raise Unsupported(
                f"membarrier(2): {reason}: without it no edit of the tables is safe on {machine}"
            ) from None


def grace_period() -> None:
    """Wait until all programs that run now, on every CPU, have ended: an RCU grace period, about 10 ms.

    The kernel waits for one in each update of a map of maps (maybe_wait_bpf_programs() in kernel/bpf/syscall.c).
    MEMBARRIER_CMD_GLOBAL would not wait with one CPU online, and fails with nohz_full. Raises PylvsError.
    """
    with (
        Map(libbpf.create_map(_ARRAY, "grace_inner", 4, 4, 1)) as inner,
        ArrayMap(libbpf.create_map(_ARRAY_OF_MAPS, "grace", 4, 4, 1, inner=inner.fd)) as outer,
    ):
        outer.put(0, struct.pack("=I", inner.fd))


class Map:
    """A map of any type."""

    def __init__(self, descriptor: int) -> None:
        """Take over an open descriptor."""
        self.fd = descriptor
        self.info = kernel.map_info(descriptor)
        self.name = self.info.name
        self.key_size = self.info.key_size
        self.value_size = self.info.value_size
        self.max_entries = self.info.max_entries
        self._lib = library()
        self._value = ctypes.create_string_buffer(max(self._width(), 1))

    def _width(self) -> int:
        """Return the bytes that a lookup writes."""
        return self.value_size

    @classmethod
    def open(cls: type[Self], path: str) -> Self:
        """Open the map that is pinned at a path. Raises FileNotFoundError."""
        descriptor = libbpf.open_pin(path)
        if descriptor is None:
            raise FileNotFoundError(errno.ENOENT, "nothing is pinned here", path)
        return cls(descriptor)

    @classmethod
    def duplicate(cls: type[Self], descriptor: int) -> Self:
        """Return a map over a duplicate of a descriptor that another object still owns."""
        return cls(os.dup(descriptor))

    def close(self) -> None:
        """Close the descriptor. A second call does nothing."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "fd", -1) >= 0:
            self.close()

    def _failed(self, doing: str) -> PylvsError:
        return syscalls.failure(ctypes.get_errno(), f"{doing} map {self.name}")

    def _full(self) -> NoSpace:
        most = self.max_entries
        return NoSpace(f"map {self.name} is full: it holds {most} elements", self.name, most)

    def _check(self, index: int) -> None:
        if not 0 <= index < self.max_entries:
            raise IndexError(f"map {self.name}: no element {index} of {self.max_entries}")

    def put_many(self, keys: bytes, values: bytes, count: int) -> None:
        """Store many packed elements, as wide as those of `get`. Raises NoSpace, after which some may be stored."""
        width, length = self.key_size, self._width()
        if len(keys) != count * width or len(values) != count * length:
            raise ValueError(f"map {self.name}: {count} elements do not fit {len(keys)} and {len(values)} bytes")
        done = 0
        while done < count:
            some = ctypes.c_uint32(min(_BATCH, count - done))
            part = keys[done * width : (done + some.value) * width]
            result = self._lib.bpf_map_update_batch(
                self.fd, part, values[done * length : (done + some.value) * length], ctypes.byref(some), None
            )
            done += some.value
            if result and ctypes.get_errno() != errno.EINTR:
                raise self._full() if ctypes.get_errno() == errno.E2BIG else self._failed("writing")

    def _in_memory(self, length: int, protection: int, offset: int = 0) -> mmap.mmap:
        try:
            return mmap.mmap(self.fd, length, mmap.MAP_SHARED, protection, offset=offset)
        except OSError as error:
            raise syscalls.failure(error.errno or 0, f"mapping {self.name} into memory") from None


class HashMap(Map):
    """A hash of any type that is not per CPU, an LPM trie, or a hash of maps, whose values are descriptors."""

    def get(self, key: bytes) -> bytes | None:
        """Return the value of a key, or None."""
        if self._lib.bpf_map_lookup_elem(self.fd, key, self._value):
            if ctypes.get_errno() == errno.ENOENT:
                return None
            raise self._failed("reading")
        return self._value.raw

    def put(self, key: bytes, value: bytes, flags: int = ANY) -> bool:
        """Store a value; return False if NOEXIST meets an existing key, or EXIST a missing one. Raises NoSpace."""
        if self._lib.bpf_map_update_elem(self.fd, key, value, flags):
            if ctypes.get_errno() in (errno.EEXIST, errno.ENOENT):
                return False
            raise self._full() if ctypes.get_errno() == errno.E2BIG else self._failed("writing")
        return True

    def remove(self, key: bytes) -> bool:
        """Delete a key; return whether it existed."""
        if self._lib.bpf_map_delete_elem(self.fd, key):
            if ctypes.get_errno() == errno.ENOENT:
                return False
            raise self._failed("deleting from")
        return True

    def keys(self) -> Iterator[bytes]:
        """Yield all keys, by one call each. Deleting the present key restarts the walk: use `chunks` for large maps."""
        following = ctypes.create_string_buffer(self.key_size)
        key: bytes | None = None
        while True:
            if self._lib.bpf_map_get_next_key(self.fd, key, following):
                if ctypes.get_errno() == errno.ENOENT:
                    return
                raise self._failed("walking")
            key = following.raw
            yield key

    def chunks(self, size: int = _BATCH) -> Iterator[tuple[memoryview, memoryview, int]]:
        """Yield batches of packed keys and values, with their number.

        The views are valid until the next batch. Unpack them by `struct.Struct.iter_unpack` over
        `keys[: n * key_size]`. An element that exists during the whole walk appears exactly once.
        """
        cursor = ctypes.create_string_buffer(max(self.key_size, 4))
        first = True
        while True:
            keys = ctypes.create_string_buffer(size * self.key_size)
            values = ctypes.create_string_buffer(size * self._width())
            while True:
                count = ctypes.c_uint32(size)
                start = None if first else cursor
                result = self._lib.bpf_map_lookup_batch(self.fd, start, cursor, keys, values, ctypes.byref(count), None)
                number = ctypes.get_errno() if result else 0
                if number in (0, errno.ENOENT):
                    yield memoryview(keys), memoryview(values), count.value
                    if number:
                        return
                    first = False
                elif number == errno.ENOSPC:  # a bucket has more elements than the batch
                    size *= 2
                    break
                elif number != errno.EINTR:
                    raise self._failed("listing")

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield all keys with their values."""
        width, length = self.key_size, self._width()
        for keys, values, count in self.chunks():
            for i in range(count):
                yield bytes(keys[i * width : i * width + width]), bytes(values[i * length : i * length + length])

    def remove_many(self, keys: bytes, count: int) -> int:
        """Delete many packed keys, ignore missing ones, and return the number deleted."""
        width = self.key_size
        if len(keys) != count * width:
            raise ValueError(f"map {self.name}: {count} keys do not fit {len(keys)} bytes")
        at = deleted = 0
        while at < count:
            asked = min(_BATCH, count - at)
            some = ctypes.c_uint32(asked)
            part = keys[at * width : (at + asked) * width]
            result = self._lib.bpf_map_delete_batch(self.fd, part, ctypes.byref(some), None)
            number = ctypes.get_errno() if result else 0
            deleted += some.value
            at += some.value
            if number == errno.ENOENT:
                at += 1  # the call stops at a missing key
            elif number not in (0, errno.EINTR):
                raise self._failed("deleting from")
        return deleted

    def __len__(self) -> int:
        return sum(count for _keys, _values, count in self.chunks())

    def __bool__(self) -> bool:
        return True  # without this, `__len__` would make an empty map false


class PerCpuHash(HashMap):
    """A hash with a 64-bit counter for each possible CPU."""

    def _width(self) -> int:
        self.cpus = libbpf.possible_cpus()
        return 8 * self.cpus

    def sums(self) -> Iterator[tuple[bytes, int]]:
        """Yield all keys with the sums of their counters."""
        form = struct.Struct(f"<{self.cpus}Q")
        for key, value in self.items():
            yield key, sum(form.unpack(value))

    def begin(self, key: bytes, count: int) -> None:
        """Store a key with a count, on one CPU. Raises NoSpace."""
        self.put(key, struct.pack("<Q", count).ljust(self._width(), b"\0"))


class RingBuffer(Map):
    """A BPF ring buffer, for one reader. The layout is in Documentation/bpf/ringbuf.rst."""

    _BUSY, _DISCARDED, _HEADER = 1 << 31, 1 << 30, 8
    _views: Sequence[memoryview | mmap.mmap] = ()  # of the memory that the kernel shares

    def __init__(self, descriptor: int) -> None:
        """Take over an open descriptor."""
        super().__init__(descriptor)
        read = self._in_memory(PAGE, mmap.PROT_READ | mmap.PROT_WRITE)
        self._data = self._in_memory(PAGE + 2 * self.max_entries, mmap.PROT_READ, PAGE)
        self._read_to, self._written_to = memoryview(read).cast("Q"), memoryview(self._data).cast("Q")
        self._words = memoryview(self._data).cast("I")
        self._views = self._read_to, self._written_to, self._words, read, self._data

    def close(self) -> None:
        """Give the memory back, and close the descriptor. A second call does nothing."""
        for view in self._views:
            view.release() if isinstance(view, memoryview) else view.close()
        self._views = ()
        super().close()

    def wait(self, timeout_s: float) -> None:
        """Return after the timeout, or once there is a record."""
        waiting = select.poll()
        waiting.register(self.fd, select.POLLIN)
        waiting.poll(timeout_s * 1000)

    def __iter__(self) -> Iterator[bytes]:
        """Yield the records that are there; their memory is free then."""
        while (at := self._read_to[0]) < self._written_to[0]:
            start = PAGE + at % self.max_entries  # the data is mapped twice, so a record is always contiguous
            header = self._words[start // 4]
            if header & self._BUSY:
                return
            full_barrier()  # the record was written before its header
            length = header & ~self._DISCARDED
            record = self._data[start + self._HEADER : start + self._HEADER + length]
            self._read_to[0] = at + (length + self._HEADER + 7 & ~7)
            if not header & self._DISCARDED:
                yield record

    def records(self) -> list[bytes]:
        """Return the records that are there, and free their memory."""
        return list(self)


class QueueMap(Map):
    """A queue or a stack."""

    def push(self, value: bytes) -> None:
        """Add a value. Raises NoSpace."""
        if self._lib.bpf_map_update_elem(self.fd, None, value, ANY):
            raise self._full() if ctypes.get_errno() == errno.E2BIG else self._failed("writing")


class ArrayMap(Map):
    """An array, also of maps or programs, whose values are descriptors."""

    def get(self, index: int) -> bytes | None:
        """Return the value at an index; None for an empty slot of an array of maps. Raises IndexError."""
        self._check(index)
        if self._lib.bpf_map_lookup_elem(self.fd, struct.pack("<I", index), self._value):
            if ctypes.get_errno() == errno.ENOENT:
                return None
            raise self._failed("reading")
        return self._value.raw

    def put(self, index: int, value: bytes) -> None:
        """Store a value at an index. Raises IndexError."""
        self._check(index)
        if self._lib.bpf_map_update_elem(self.fd, struct.pack("<I", index), value, ANY):
            raise self._failed("writing")

    def put_descriptor(self, index: int, descriptor: int) -> None:
        """Store a map or a program at an index. Raises IndexError."""
        self.put(index, struct.pack("<i", descriptor))

    def remove(self, index: int) -> bool:
        """Empty a slot of an array of maps or programs; return False if it was empty."""
        self._check(index)
        if self._lib.bpf_map_delete_elem(self.fd, struct.pack("<I", index)):
            if ctypes.get_errno() == errno.ENOENT:
                return False
            raise self._failed("deleting from")
        return True


def _sums(rows: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(map(sum, zip(*rows, strict=True)))


class PerCpuArray(ArrayMap):
    """An array with a value for each possible CPU. A value may consist of several `records` of the same size."""

    records = 1

    def _width(self) -> int:
        self.cpus = libbpf.possible_cpus()
        self.stride = (self.value_size + 7) & ~7  # the kernel pads each CPU's value to 8 bytes
        return self.stride * self.cpus

    def _counters(self, width: int | None) -> struct.Struct:
        """Return the format of a record: its first `width` 64-bit counters, or all of it."""
        size = self.stride // self.records
        return struct.Struct(f"<{size // 8}Q" if width is None else f"<{width}Q{size - 8 * width}x")

    def sums(self, record: int, width: int | None = None) -> tuple[int, ...]:
        """Return the sums over all CPUs of a record's first `width` 64-bit counters, or of all of them."""
        index, at = divmod(record, self.records)
        raw = self.get(index)
        assert raw is not None  # a per-CPU array has no empty slots
        form = self._counters(width)
        return _sums(form.unpack_from(raw, cpu * self.stride + at * form.size) for cpu in range(self.cpus))

    def all_sums(self, first: int | None = None, width: int | None = None) -> list[tuple[int, ...]]:
        """Return `sums` of every record, or of the first ones (at least `first`), in few calls."""
        most = self.max_entries * self.records
        wanted = most if first is None else min(first, most)
        size = max(1, min(-(-wanted // self.records), (1 << 20) // (self.stride * self.cpus)))
        keys = ctypes.create_string_buffer(4 * size)
        values = ctypes.create_string_buffer(self.stride * self.cpus * size)
        cursor = ctypes.create_string_buffer(4)
        found: list[tuple[int, ...]] = []
        form, step = self._counters(width), self.records * self.cpus
        zeros = [(0,) * len(form.unpack(bytes(form.size)))] * self.records
        while len(found) < wanted:
            count = ctypes.c_uint32(size)
            start = cursor if found else None
            result = self._lib.bpf_map_lookup_batch(self.fd, start, cursor, keys, values, ctypes.byref(count), None)
            if result and ctypes.get_errno() not in (errno.ENOENT, errno.EINTR):
                raise self._failed("listing")
            rows = list(form.iter_unpack(memoryview(values)[: form.size * step * count.value]))
            for begin in range(0, len(rows), step):  # the records of one CPU are contiguous
                copies = rows[begin : begin + step]
                found += (
                    [_sums(copies[at :: self.records]) for at in range(self.records)]
                    if any(map(any, copies))
                    else zeros
                )
            if result and ctypes.get_errno() == errno.ENOENT:
                break
        return found

    def rows(self, form: struct.Struct, first: int | None = None) -> Iterator[tuple[Any, ...]]:
        """Yield every record of each CPU, or the first ones (at least `first`), unpacked."""
        most = self.max_entries * self.records
        for index in range(-(-(most if first is None else min(first, most)) // self.records)):
            raw = self.get(index) or b""
            for start in range(0, len(raw), self.stride):
                for at in range(start, start + self.records * form.size, form.size):
                    yield form.unpack_from(raw, at)

    def fill(self, index: int, value: bytes) -> None:
        """Store the same value for every CPU. Raises IndexError."""
        self.put(index, value.ljust(self.stride, b"\0") * self.cpus)


class MmapArray(Map):
    """An array made with BPF_F_MMAPABLE, as memory: packets see each store at once.

    Elements are `stride` bytes apart. `upto` and `store` map no more than was used so far, because each mapped page
    costs time and memory and most tables are nearly empty. `memory` and `words` map the whole array. An assignment to
    a 64-bit word of `words` is a single store; `struct.pack_into` writes byte by byte.
    """

    def __init__(self, descriptor: int) -> None:
        """Take over an open descriptor. Raises Unsupported if the map cannot be mapped."""
        super().__init__(descriptor)
        self.stride = (self.value_size + 7) & ~7
        self._map(1)

    def _map(self, count: int) -> None:
        """Map `count` elements and about as many more. Views of the former mapping stay valid."""
        size = self.stride * min(max(2 * count, _FIRST_MAPPED // self.stride), self.max_entries)
        self._memory = self._in_memory(-(-size // PAGE) * PAGE, mmap.PROT_READ | mmap.PROT_WRITE)
        self._mapped = size // self.stride
        self._view = memoryview(self._memory)[:size]
        self._words, self._halves = self._view.cast("Q"), self._view.cast("I")

    @property
    def memory(self) -> memoryview:
        """All elements, mapped."""
        if self._mapped < self.max_entries:
            self._map(self.max_entries)
        return self._view

    @property
    def words(self) -> memoryview:
        """All elements as 64-bit words."""
        if self._mapped < self.max_entries:
            self._map(self.max_entries)
        return self._words

    def upto(self, index: int) -> memoryview:
        """Return the memory of the elements up to this one, and perhaps more. Raises IndexError."""
        if index >= self._mapped:
            self._check(index)
            self._map(index + 1)
        return self._view

    def elements(self, start: int, count: int) -> memoryview:
        """Return the memory of `count` elements. Raises IndexError."""
        memory = self.upto(start + count - 1) if count else self._view
        return memory[start * self.stride : (start + count) * self.stride]

    def store(self, index: int, offset: int, word: int) -> None:
        """Write the 64-bit word at an offset of an element by a single store. Raises IndexError."""
        if index >= self._mapped:
            self._check(index)
            self._map(index + 1)
        self._words[(index * self.stride + offset) // 8] = word

    def store_half(self, index: int, offset: int, word: int) -> None:
        """Write the 32-bit word at an offset of an element by a single store. Raises IndexError."""
        self.upto(index)
        self._halves[(index * self.stride + offset) // 4] = word & _MASK32

    def publish(self, index: int, offset: int, word: int) -> None:
        """Store a 64-bit word by which packets find what was written before.

        A CPU that sees the word sees everything written before it. A CPU that sees a later store sees the word.
        Raises IndexError; Unsupported, and then stores nothing.
        """
        full_barrier()
        self.store(index, offset, word)
        full_barrier()

    def value(self, index: int) -> memoryview:
        """Return the memory of an element. Raises IndexError."""
        self._check(index)
        return self.upto(index)[index * self.stride : index * self.stride + self.value_size]

    def close(self) -> None:
        """Unmap the memory and close the descriptor. Views that callers still hold keep the memory mapped."""
        if self.fd >= 0 and hasattr(self, "_words"):
            self._words.release()
            self._halves.release()
            self._view.release()
            with suppress(BufferError):  # a caller still holds a view; the last one unmaps the memory
                self._memory.close()
        super().close()


class LargeArray(Map):
    """A large array made with BPF_F_MMAPABLE, read in parts so that the process stays small."""

    def blocks(self, size: int) -> Iterator[bytes]:
        """Yield copies of `size` bytes each, the last one shorter. `size` must be whole pages, 4 MiB at most."""
        stride = (self.value_size + 7) & ~7
        length = (stride * self.max_entries + PAGE - 1) // PAGE * PAGE
        whole = _WINDOW // size * size
        for start in range(0, length, whole):
            with self._in_memory(min(whole, length - start), mmap.PROT_READ, start) as window:
                for at in range(0, len(window), size):
                    yield window[at : at + size]

    def pages(self, numbers: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        """Yield copies of these pages, whose numbers increase, each with its number."""
        length = ((self.value_size + 7) & ~7) * self.max_entries
        for window_number, group in groupby(numbers, key=lambda number: number * PAGE // _WINDOW):
            start = window_number * _WINDOW
            size = min(_WINDOW, (length + PAGE - 1) // PAGE * PAGE - start)
            with self._in_memory(size, mmap.PROT_READ, start) as window:
                for number in group:
                    at = number * PAGE - start
                    yield number, window[at : at + PAGE]
