"""`kernel` reports what uname, /proc and /sys report."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pylvs.bpf import kernel, libbpf
from pylvs.model.errors import InvalidOperation, Unsupported


def test_the_clock_runs_at_a_rate_that_kernels_are_built_with() -> None:
    assert kernel.ticks_per_second() in (100, 250, 300, 1000)


def test_the_possible_processors_are_those_of_sysfs() -> None:
    last = Path("/sys/devices/system/cpu/possible").read_text().strip().split(",")[-1].split("-")[-1]
    assert libbpf.possible_cpus() == int(last) + 1


def test_an_old_kernel_is_refused_by_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    old = os.uname_result(("Linux", "host", "5.15.0-91-generic", "#1", "x86_64"))
    monkeypatch.setattr(os, "uname", lambda: old)
    assert kernel.release() == (5, 15)
    with pytest.raises(Unsupported, match=r"5\.15\.0-91-generic is too old: Linux 6\.1"):
        kernel.require()


def test_a_kernel_without_types_is_refused_by_their_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "TYPES", "/nowhere/vmlinux")
    with pytest.raises(Unsupported, match="CONFIG_DEBUG_INFO_BTF"):
        kernel.require()


@pytest.mark.parametrize(
    ("memory", "connections"),
    [
        (1 << 25, 16384),
        (1 << 30, 1 << 18),
        (3 << 29, 1 << 18),
        (23 << 30, 1 << 22),
        (24 << 30, 1 << 22),
        (1 << 40, 1 << 22),
    ],
)
def test_the_table_is_sized_by_memory_within_bounds(
    monkeypatch: pytest.MonkeyPatch, memory: int, connections: int
) -> None:
    monkeypatch.delenv(kernel.CONNECTIONS, raising=False)
    monkeypatch.setattr(kernel, "memory_limit", lambda: memory)
    monkeypatch.setattr(kernel, "memory_available", lambda: memory)
    assert kernel.connection_limit() == connections


def test_a_table_beside_many_others_is_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(kernel.CONNECTIONS, raising=False)
    monkeypatch.setattr(kernel, "memory_limit", lambda: 24 << 30)
    monkeypatch.setattr(kernel, "memory_available", lambda: 3 << 30)
    assert kernel.connection_limit() == 1 << 20


def test_the_environment_names_the_size_of_new_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(kernel.CONNECTIONS, "65536")
    assert kernel.connection_limit() == 65536
    monkeypatch.setenv(kernel.CONNECTIONS, "1000")
    with pytest.raises(InvalidOperation, match="conn_max=1000: must be 0, or from 1024"):
        kernel.connection_limit()


def test_the_limit_of_a_control_group_above_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    (tmp_path / "outer" / "memory.max").write_text(f"{1 << 29}\n")
    (inner / "memory.max").write_text("max\n")
    monkeypatch.setattr(kernel, "_group_mounts", lambda kind, _option: [(str(tmp_path), "/")] * (kind == "cgroup2"))
    opened = open

    def fake_open(path: str, *arguments: object, **more: object) -> object:
        if path == "/proc/self/cgroup":
            (tmp_path / "group").write_text("0::/outer/inner\n")
            path = str(tmp_path / "group")
        return opened(path, *arguments, **more)  # type: ignore[call-overload]

    monkeypatch.setattr("builtins.open", fake_open)
    assert kernel.memory_limit() == 1 << 29


def test_the_limit_never_exceeds_the_machine() -> None:
    assert 0 < kernel.memory_limit() <= kernel.memory_total()
