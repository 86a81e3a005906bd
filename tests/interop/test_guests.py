"""The start of guests, with stand-ins for qemu: the choice of KVM or TCG, and the ledger of guests that died."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

import pytest

from tests import ledger
from tests.conformance import script
from tests.interop import guests
from tests.package import boot
from tests.package.roots import Failed

# Stands in for qemu: KVM runs $WITH_KVM, TCG boots and ends with status 5.
QEMU = """\
#!/bin/sh
share=$(printf '%s\\n' "$@" | sed -n 's/^local,id=job,path=\\([^,]*\\),.*/\\1/p')
case "$*" in
    *"-accel kvm"*) eval "$WITH_KVM" ;;
    *) mkdir "$share/taken" && echo 5 >"$share/rc" ;;
esac
"""


def booted(folder: Path, with_kvm: str, **environment: str) -> tuple[int, str]:
    """Return the exit status of `vm` with that qemu, and the line about what ran the kernel."""
    (folder / "qemu-system-x86_64").write_text(QEMU)
    (folder / "qemu-system-x86_64").chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}:/usr/sbin:/sbin"
    done = subprocess.run(
        [guests.VM, "--kernel", guests.KERNELS[0], "true"],
        cwd="/",
        env=os.environ | {"PATH": path, "ORACLE_ACCEL": "kvm", "WITH_KVM": with_kvm} | environment,
        capture_output=True,
        text=True,
    )
    if done.returncode == guests.UNAVAILABLE:
        pytest.skip(done.stderr)
    return done.returncode, done.stderr.strip().splitlines()[-1]


@pytest.mark.timeout(guests.FETCHING_S)
def test_a_kernel_that_boots_with_kvm_keeps_it(tmp_path: Path) -> None:
    status, line = booted(tmp_path, 'mkdir "$share/taken" && echo 7 >"$share/rc"')
    assert (status, line.endswith(" runs on KVM")) == (7, True), line


@pytest.mark.timeout(guests.FETCHING_S)
@pytest.mark.parametrize("how", ["echo no such thing; exit 1", "kill -ABRT $$"])
def test_a_kernel_that_does_not_boot_with_kvm_runs_on_tcg(tmp_path: Path, how: str) -> None:
    status, line = booted(tmp_path, how)
    assert (status, " runs on TCG: with KVM it did not come up" in line) == (5, True), line


@pytest.mark.timeout(guests.FETCHING_S)
def test_kvm_can_be_disabled(tmp_path: Path) -> None:
    status, line = booted(tmp_path, "exit 1", ORACLE_ACCEL="tcg")
    assert (status, line.endswith(" runs on TCG: ORACLE_ACCEL says so")) == (5, True), line


def test_a_guest_that_died_is_in_the_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in dies twice, then returns its input."""
    run = tmp_path / "run"
    run.write_text(f'#!/bin/sh\necho x >>{tmp_path}/boots\n[ $(wc -l <{tmp_path}/boots) -gt 2 ] && exec cp "$3" "$4"\n')
    run.write_text(run.read_text() + "echo Kernel panic; exit 70\n")
    run.chmod(0o755)
    monkeypatch.setattr(script, "ORACLE", tmp_path)
    monkeypatch.setenv(ledger.LEDGER, str(tmp_path / "ledger"))
    assert script.in_guest(Path(__file__), ["given"]) == ["given"]
    entries = ledger.read(tmp_path / "ledger")
    assert [each.reason for each in entries] == ["the guest failed: Kernel panic"] * 2
    assert all("test_a_guest_that_died_is_in_the_ledger" in each.test for each in entries)
    assert all(each.second_s is not None for each in entries)


def test_a_guest_that_dies_each_time_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").write_text("#!/bin/sh\necho Kernel panic\nexit 70\n")
    (tmp_path / "run").chmod(0o755)
    monkeypatch.setattr(script, "ORACLE", tmp_path)
    monkeypatch.setenv(ledger.LEDGER, str(tmp_path / "ledger"))
    with pytest.raises(script.NoGuest, match="Kernel panic"):
        script.in_guest(Path(__file__), [])
    assert len(ledger.read(tmp_path / "ledger")) == script.ATTEMPTS - 1


@pytest.mark.parametrize(("failure", "boots"), [(boot.PanickedEarly, 2), (Failed, 1)])
def test_an_emulated_kernel_that_panics_before_anything_is_started_boots_once_more(
    failure: type[Failed], boots: int
) -> None:
    begun: list[list[str]] = []

    def start(accelerator: list[str]) -> str:
        begun.append(accelerator)
        if len(begun) == 1:
            raise failure("Kernel panic")
        return "result 0"

    with contextlib.suppress(Failed):
        assert boot.boot_with([["-accel", "tcg"]], start) == "result 0"
    assert len(begun) == boots


@pytest.mark.parametrize("emulated", [True, False])
def test_units_keep_their_limits_on_a_real_processor_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, emulated: bool
) -> None:
    """The stand-in for qemu prints the drop-ins that systemd would find; the root had been booted the other way."""
    root = tmp_path / "root"
    (root / "etc/test-network").mkdir(parents=True)
    qemu = tmp_path / "qemu-system-x86_64"
    qemu.write_text(
        f"#!/bin/sh\ncd {root}/etc/ && (cat systemd/system/*.d/* ; echo result 0) >test-network/output 2>&1\n"
    )
    qemu.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    accelerators = [["-accel", "kvm"], ["-accel", boot.EMULATOR]]
    shown = [boot.booted(tmp_path, tmp_path, root, tmp_path, each) for each in accelerators[:: 1 if emulated else -1]]
    assert shown[-1].count(boot.PATIENT) == (2 if emulated else 0)
