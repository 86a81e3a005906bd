"""Maps return what was stored: one by one, in batches, per CPU and through memory."""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Iterator

import pytest

from pylvs.bpf import kernel, libbpf
from pylvs.bpf.libbpf import BpfObject, create_map
from pylvs.bpf.maps import EXIST, MMAPABLE, NOEXIST, ArrayMap, HashMap, LargeArray, MmapArray, PerCpuArray, grace_period
from pylvs.model.errors import NoSpace, PylvsError
from tests.maps import clear, values
from tests.waiting import Void, until, until_valid

HASH, ARRAY, PERCPU_ARRAY = 1, 2, 6
BEGAN, ENDED = 14, 15  # what the slow program stores in `words`
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes BPF maps")


def key(number: int) -> bytes:
    return struct.pack("<Q", number)


def value(number: int) -> bytes:
    return struct.pack("<QI", number, number % 7)


@pytest.fixture
def table() -> Iterator[HashMap]:
    with HashMap(create_map(HASH, "table", 8, 12, 20000)) as made:
        yield made


def test_a_hash_gives_back_what_was_put(table: HashMap) -> None:
    assert table.get(key(1)) is None
    assert not table.put(key(1), value(1), EXIST)
    assert table.put(key(1), value(1), NOEXIST)
    assert not table.put(key(1), value(2), NOEXIST)
    assert table.get(key(1)) == value(1)
    assert table.put(key(1), value(2), EXIST)
    assert table.get(key(1)) == value(2)
    assert list(table.keys()) == [key(1)]
    assert table.remove(key(1))
    assert not table.remove(key(1))


def test_batches_store_list_and_delete_every_element_once(table: HashMap) -> None:
    count = 10000
    keys = b"".join(key(i) for i in range(count))
    table.put_many(keys, b"".join(value(i) for i in range(count)), count)
    assert len(table) == count
    found = list(table.items())
    assert len(found) == count
    assert dict(found) == {key(i): value(i) for i in range(count)}
    some = list(range(0, 2 * count, 2))  # half of them are not there
    assert table.remove_many(b"".join(key(i) for i in some), len(some)) == count // 2
    assert {each for each, _ in table.items()} == {key(i) for i in range(1, count, 2)}
    clear(table)
    assert len(table) == 0


def test_small_batches_grow_until_a_bucket_fits(table: HashMap) -> None:
    count = 3000
    table.put_many(b"".join(key(i) for i in range(count)), bytes(12 * count), count)
    seen = [bytes(keys[8 * i : 8 * i + 8]) for keys, _, n in table.chunks(1) for i in range(n)]
    assert sorted(seen) == sorted(key(i) for i in range(count))


def test_a_full_hash_is_reported() -> None:
    with HashMap(create_map(HASH, "small", 8, 12, 4)) as table:
        table.put_many(b"".join(map(key, range(4))), b"".join(map(value, range(4))), 4)
        with pytest.raises(NoSpace, match="small is full: it holds 4") as caught:
            table.put(key(9), value(9))
        assert (caught.value.table, caught.value.limit) == ("small", 4)
        with pytest.raises(NoSpace):
            table.put_many(key(9), value(9), 1)
        assert table.put(key(3), value(30))
    with pytest.raises(ValueError, match="do not fit"), HashMap(create_map(HASH, "x", 8, 12, 4)) as table:
        table.put_many(b"", b"", 1)


def test_an_array_refuses_an_index_beyond_its_end() -> None:
    with ArrayMap(create_map(ARRAY, "array", 4, 8, 3)) as array:
        array.put(2, key(5))
        assert array.get(2) == key(5)
        assert array.get(0) == bytes(8)
        for index in (-1, 3):
            with pytest.raises(IndexError):
                array.get(index)
            with pytest.raises(IndexError):
                array.put(index, key(1))


@pytest.mark.parametrize("count", [1, 40000])
def test_per_cpu_values_sum_up(count: int) -> None:
    with PerCpuArray(create_map(PERCPU_ARRAY, "percpu", 4, 16, count)) as array:
        cpus = libbpf.possible_cpus()
        array.put(count - 1, b"".join(struct.pack("<QQ", 1 << 40, i) for i in range(cpus)))
        assert array.sums(count - 1) == (cpus << 40, sum(range(cpus)))
        assert values(array, count - 1)[cpus - 1] == struct.pack("<QQ", 1 << 40, cpus - 1)
        every = array.all_sums()
        assert len(every) == count
        assert every[-1] == array.sums(count - 1)
        assert set(every[:-1]) <= {(0, 0)}
        array.fill(0, struct.pack("<QQ", 7, 8))
        assert array.sums(0) == (7 * cpus, 8 * cpus)


@pytest.mark.parametrize("count", [1, 20000])
def test_records_of_a_per_cpu_value_sum_up_one_by_one(count: int) -> None:
    with PerCpuArray(create_map(PERCPU_ARRAY, "percpu", 4, 3 * 24, count)) as array:
        array.records = 3
        cpus = libbpf.possible_cpus()
        array.put(count - 1, b"".join(struct.pack("<9Q", *range(1, 10)) for _ in range(cpus)))
        wanted = [tuple(cpus * each for each in row) for row in ((1, 2), (4, 5), (7, 8))]
        assert [array.sums(3 * (count - 1) + at, 2) for at in range(3)] == wanted
        every = array.all_sums(width=2)
        assert len(every) == 3 * count
        assert every[-3:] == wanted
        assert set(every[:-3]) <= {(0, 0)}
        assert array.all_sums(3 * count - 1, 2) == every
        assert len(array.all_sums(2, 2)) == 3


def test_mapped_memory_and_calls_see_the_same_words() -> None:
    descriptor = create_map(ARRAY, "mapped", 4, 12, 1000, MMAPABLE)
    with MmapArray(descriptor) as mapped, ArrayMap.duplicate(descriptor) as array:
        assert mapped.stride == 16
        mapped.words[2 * 7] = 1 << 63
        assert array.get(7) == struct.pack("<QI", 1 << 63, 0)
        array.put(999, value(3))
        live = mapped.value(999)
        assert bytes(live) == value(3)
        array.put(999, value(4))
        assert bytes(live) == value(4), "a view is live"
        with pytest.raises(IndexError):
            mapped.value(1000)


def test_an_array_is_mapped_as_far_as_it_is_used() -> None:
    def mapped_bytes() -> int:
        with open("/proc/self/maps", encoding="utf-8") as file:
            ranges = [line.split()[0].split("-") for line in file if "bpf-map" in line]
        return sum(int(end, 16) - int(start, 16) for start, end in ranges)

    count, before = 100_000, mapped_bytes()
    descriptor = create_map(ARRAY, "growing", 4, 64, count, MMAPABLE)
    with MmapArray(descriptor) as mapped, ArrayMap.duplicate(descriptor) as array:
        early = mapped.elements(3, 2)
        assert mapped_bytes() - before < 1 << 16
        mapped.store(20_000, 8, 5)
        assert 20_000 * 64 < mapped_bytes() - before < 50_000 * 64
        assert array.get(20_000) == struct.pack("<QQ48x", 0, 5)
        array.put(3, bytes(63) + b"x")
        assert bytes(early) == bytes(63) + b"x" + bytes(64), "a view of the former mapping is live"
        assert mapped.upto(count - 1)[count * 64 - 64 :] == bytes(64)
        for wrong in (lambda: mapped.upto(count), lambda: mapped.store(count, 0, 1), lambda: mapped.elements(count, 1)):
            with pytest.raises(IndexError):
                wrong()
        early.release()
    assert mapped_bytes() == before


def test_a_large_array_is_read_in_parts_and_whole() -> None:
    """The array is larger than one window, and its size is not a multiple of a part."""
    count, part = 150_001, 1 << 16
    with MmapArray(create_map(ARRAY, "large", 4, 64, count, MMAPABLE)) as mapped:
        for index in range(0, count, 5_000):
            mapped.words[index * 8] = index + 1
        with LargeArray.duplicate(mapped.fd) as large:
            blocks = list(large.blocks(part))
        assert {len(block) for block in blocks[:-1]} == {part}
        whole = b"".join(blocks)
        assert whole[: len(mapped.memory)] == mapped.memory.tobytes()
        assert not any(whole[len(mapped.memory) :])


def test_a_map_that_was_not_made_for_it_cannot_be_mapped() -> None:
    with pytest.raises(PylvsError, match="mapping plain into memory"):
        MmapArray(create_map(ARRAY, "plain", 4, 8, 10))


def test_a_map_closed_twice_closes_no_other_descriptor() -> None:
    table = HashMap(create_map(HASH, "twice", 4, 4, 1))
    table.close()
    other = os.open("/dev/null", os.O_RDONLY)
    table.close()
    os.fstat(other)
    os.close(other)


def test_a_grace_period_ends_after_the_programs_that_run(small: BpfObject) -> None:
    small.load()
    program = small.program_fd("small_slow")
    with MmapArray(os.dup(small.map_fd("words"))) as words:

        def stored(index: int) -> int:
            return int(struct.unpack_from("=Q", words.upto(index), index * words.stride)[0])

        def attempt() -> None:
            words.store(BEGAN, 0, 0)
            words.store(ENDED, 0, 0)
            thread = threading.Thread(target=kernel.run_program, args=(program, bytes(64)))
            thread.start()
            try:
                until(lambda: stored(BEGAN))
                was_running = not stored(ENDED)
                grace_period()
                assert stored(ENDED)
            finally:
                thread.join()
            if not was_running:
                raise Void("the program had ended before")

        until_valid("grace period", attempt)
