"""How guests start, with stand-ins for them: what runs a kernel, and that the ledger names those that died."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests import ledger
from tests.conformance import script
from tests.interop import guests

# Stands in for qemu: KVM does as $WITH_KVM says, TCG comes up and ends with status 5.
QEMU = """\
#!/bin/sh
share=$(printf '%s\\n' "$@" | sed -n 's/^local,id=job,path=\\([^,]*\\),.*/\\1/p')
case "$*" in
    *"-accel kvm"*) eval "$WITH_KVM" ;;
    *) mkdir "$share/taken" && echo 5 >"$share/rc" ;;
esac
"""


def booted(folder: Path, with_kvm: str, **environment: str) -> tuple[int, str]:
    """The exit status of `vm` with that qemu, and the line that says what ran the kernel."""
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
def test_a_kernel_that_comes_up_with_kvm_stays_there(tmp_path: Path) -> None:
    status, told = booted(tmp_path, 'mkdir "$share/taken" && echo 7 >"$share/rc"')
    assert (status, told.endswith(" runs on KVM")) == (7, True), told


@pytest.mark.timeout(guests.FETCHING_S)
@pytest.mark.parametrize("how", ["echo no such thing; exit 1", "kill -ABRT $$"])
def test_a_kernel_that_does_not_come_up_with_kvm_runs_on_tcg(tmp_path: Path, how: str) -> None:
    status, told = booted(tmp_path, how)
    assert (status, " runs on TCG: with KVM it did not come up" in told) == (5, True), told


@pytest.mark.timeout(guests.FETCHING_S)
def test_kvm_is_not_tried_where_it_is_not_wanted(tmp_path: Path) -> None:
    status, told = booted(tmp_path, "exit 1", ORACLE_ACCEL="tcg")
    assert (status, told.endswith(" runs on TCG: ORACLE_ACCEL says so")) == (5, True), told


def test_a_guest_that_died_is_in_the_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its stand-in dies twice, then gives back what it was given."""
    run = tmp_path / "run"
    run.write_text(f'#!/bin/sh\necho x >>{tmp_path}/boots\n[ $(wc -l <{tmp_path}/boots) -gt 2 ] && exec cp "$3" "$4"\n')
    run.write_text(run.read_text() + "echo Kernel panic; exit 70\n")
    run.chmod(0o755)
    monkeypatch.setattr(script, "ORACLE", tmp_path)
    monkeypatch.setenv(ledger.LEDGER, str(tmp_path / "ledger"))
    assert script.in_guest(Path(__file__), ["given"]) == ["given"]
    entries = ledger.read(tmp_path / "ledger")
    assert [each.reason for each in entries] == ["user-mode Linux died: Kernel panic"] * 2
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
