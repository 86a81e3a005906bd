"""Loading objects, and the errors when that fails."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pylvs.bpf import kernel, libbpf
from pylvs.bpf.libbpf import BpfObject
from pylvs.bpf.maps import HashMap, PerCpuArray
from pylvs.model.errors import Busy, NoSpace, NotPermitted, PylvsError, Unsupported
from pylvs.system import syscalls
from tests.waiting import until

PACKET = bytes(64)
XDP_PASS = 2
ARRAY = 2


def test_an_object_names_its_maps_and_programs(small: BpfObject) -> None:
    assert {"records", "words", "hits", "tables"} <= set(small.maps())
    assert small.programs() == ["small_xdp", "small_tc", "small_slow"]
    with pytest.raises(KeyError, match="no map nothing"):
        small.map_fd("nothing")


def test_sizes_set_before_loading_are_those_of_the_loaded_map(small: BpfObject) -> None:
    small.set_max_entries("records", 1000)
    small.load()
    info = kernel.map_info(small.map_fd("records"))
    assert (info.max_entries, info.key_size, info.value_size, info.name) == (1000, 8, 64, "records")


def test_read_only_data_set_before_loading_is_what_the_program_reads(small: BpfObject) -> None:
    small.set_data(".rodata", 0, (5).to_bytes(4, "little"))  # step
    with pytest.raises(KeyError):
        small.set_data(".rodata", 4096, b"x")
    small.load()
    done = kernel.run_program(small.program_fd("small_xdp"), PACKET, repeat=10)
    assert (done.verdict, done.data) == (XDP_PASS, PACKET)
    assert PerCpuArray.duplicate(small.map_fd("hits")).sums(0) == (50,)


def test_runs_that_a_signal_interrupts_are_repeated(small: BpfObject) -> None:
    small.load()
    calls = attempts = 0

    def attempt() -> kernel.Run:
        nonlocal attempts
        attempts += 1
        return kernel.run_program(small.program_fd("small_xdp"), PACKET, repeat=1_000_000)

    def is_repeated() -> bool:
        nonlocal calls
        calls += 1
        thread = threading.Timer(0.01, signal.pthread_kill, (threading.get_ident(), signal.SIGUSR1))
        thread.start()
        assert kernel.uninterrupted(attempt).verdict == XDP_PASS
        thread.join()
        return attempts > calls

    former = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        until(is_repeated)
    finally:
        signal.signal(signal.SIGUSR1, former)


def test_a_reused_map_is_shared_by_two_objects(small: BpfObject, objects: Path) -> None:
    small.load()
    with BpfObject(objects / "small.bpf.o") as second:
        second.reuse_map("hits", small.map_fd("hits"))
        second.load()
        kernel.run_program(second.program_fd("small_xdp"), PACKET)
    assert PerCpuArray.duplicate(small.map_fd("hits")).sums(0) == (1,)


def test_information_on_a_program_names_its_maps(small: BpfObject) -> None:
    small.load()
    info = kernel.program_info(small.program_fd("small_tc"))
    assert (info.type, info.name) == (kernel.PROG_TYPE_SCHED_CLS, "small_tc")
    assert kernel.map_info(small.map_fd("words")).id in info.map_ids
    assert kernel.describe_program(info.id) == info


def test_a_table_too_large_for_memory_raises_one_line(small: BpfObject) -> None:
    small.set_max_entries("records", 1 << 31)
    with pytest.raises(NoSpace) as caught:
        small.load()
    assert "\n" not in str(caught.value)


def test_the_error_of_a_program_that_the_verifier_refuses_has_the_reason_and_the_log(tmp_path: Path) -> None:
    import hatch_build

    root = tmp_path / "tree"
    (root / "bpf").mkdir(parents=True)
    (root / "src").symlink_to(Path(__file__).resolve().parents[3] / "src")
    (root / "bpf" / "bad.bpf.c").write_text(
        '#include <linux/bpf.h>\n__attribute__((section("xdp"), used))\n'
        "int bad(struct xdp_md *context) { return *(volatile char *)(long)context->data; }\n"
        'char LICENSE[] __attribute__((section("license"), used)) = "GPL";\n'
    )
    hatch_build.build(root, objects=tmp_path / "objects")
    with BpfObject(tmp_path / "objects" / "bad.bpf.o") as bad, pytest.raises(Unsupported) as caught:
        bad.load()
    assert "outside" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert any("R1" in note for note in caught.value.__notes__)


def test_a_file_that_is_no_object_is_an_error_and_not_a_crash(tmp_path: Path) -> None:
    (tmp_path / "x.o").write_text("nothing")
    with pytest.raises(PylvsError, match=r"opening .*x\.o: this is no eBPF object"):
        BpfObject(tmp_path / "x.o")
    with pytest.raises(PylvsError, match=r"opening .*y\.o: No such file"):
        BpfObject(tmp_path / "y.o")


def test_without_privileges_the_missing_ones_are_named(objects: Path) -> None:
    if os.geteuid():
        pytest.skip("needs root: gives privileges up")
    script = (
        "import os, sys; from pylvs.bpf.libbpf import BpfObject\n"
        "opened = BpfObject(sys.argv[1]); os.setresuid(65534, 65534, 65534)\n"
        "try: opened.load()\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    command = [sys.executable, "-c", script, str(objects / "small.bpf.o")]
    source = str(Path(__file__).resolve().parents[3] / "src")
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": source})
    assert done.stdout.startswith("NotPermitted "), done.stderr
    assert "CAP_BPF" in done.stdout
    assert "CAP_NET_ADMIN" in done.stdout
    assert done.stderr == "", "libbpf's messages belong to the exception"


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.ENOMEM, NoSpace), (errno.EEXIST, Busy), (errno.EPERM, NotPermitted), (errno.EOPNOTSUPP, Unsupported)],
)
def test_an_errno_becomes_its_error_with_what_was_done(number: int, kind: type[PylvsError]) -> None:
    error = syscalls.failure(number, "doing something")
    assert isinstance(error, kind)
    assert str(error).startswith("doing something: ")
    assert error.errno == number


def test_loading_the_library_starts_no_process_and_imports_nothing() -> None:
    """`ctypes.util.find_library` would run a compiler or ldconfig."""
    source = str(Path(__file__).resolve().parents[3] / "src")
    script = (
        "import sys\nfrom pylvs.bpf import libbpf\n"
        "events = set()\nsys.addaudithook(lambda event, _: events.add(event))\n"
        "libbpf.library()\nprint(*events & {'os.fork', 'os.posix_spawn', 'subprocess.Popen', 'import'}, 'end')"
    )
    environment = {**os.environ, "PYTHONPATH": source}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == "end\n"


def test_pins_come_and_go(small: BpfObject, tmp_path: Path) -> None:
    assert libbpf.open_pin(str(tmp_path / "nothing")) is None
    assert not libbpf.unpin(str(tmp_path / "nothing"))
    small.load()
    with pytest.raises(PylvsError):  # not a bpffs
        libbpf.pin(small.map_fd("words"), str(tmp_path / "words"))
    with pytest.raises(FileNotFoundError):
        HashMap.open(str(tmp_path / "words"))
