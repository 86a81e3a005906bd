"""Commands on machines where pylvs cannot work: one line says why, and nothing is left behind.

Each machine is a mount, PID and network namespace with an empty /run of its own. The scripts write into the current
directory: a mount over /tmp could hide the clone.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pylvs.bpf import mounts
from pylvs.bpf.kernel import CONNECTIONS
from tests.privileges import AS_ORDINARY_USER

PROGRAMS = Path(sys.executable).parent
PYLVS, IPVSADM = shlex.quote(f"{PROGRAMS}/pylvs"), shlex.quote(f"{PROGRAMS}/ipvsadm")
# Not nsfs: namespaces of other tests, whose mounts end everywhere when their names are deleted.
# Prints what the machine has before and after the command, which prints its exit status last.
SCRIPT = """\
mount -t tmpfs -o mode=755 run /run
state() { find /run ! -path /run/pylvs | sort; cut -d' ' -f4- /proc/self/mountinfo | grep -v ' - nsfs '; }
%s
state >before
%s; echo "status $?"
state >after
diff before after
"""
WITHOUT_BPF = "setpriv --bounding-set -bpf,-sys_admin"
WITHOUT_MOUNTS = "setpriv --bounding-set -sys_admin"
NO_ROOT = shlex.join(AS_ORDINARY_USER)
HIDDEN_BTF = "mount -t tmpfs btf /sys/kernel/btf"
READ_ONLY_RUN = "mount -o remount,ro /run"
READ_ONLY_ETC = "mount --bind /etc /etc; mount -o remount,bind,ro /etc"
SERVICE = "protocol TCP\\n lvs_sched rr\\n lvs_method DR\\n real_server 10.0.0.2 80 {\\n weight 1\\n }"
CONFIGURATION = f"printf 'virtual_server 192.0.2.1 80 {{\\n {SERVICE}\\n}}\\n' >k.conf"
DEVICE = "ip link add v0 type veth peer name v1"
EDIT = f"{IPVSADM} -A -t 192.0.2.1:80 -s rr"
ATTACH, DAEMON = f"{PYLVS} attach v0", f"{PYLVS} run -f k.conf"
DENIED = "Permission denied (you must be root)"
NO_IPVS = "Are you sure that IP Virtual Server is built in the kernel or as module?"


def environment() -> dict[str, str]:
    """Return the environment of the commands, with the capacity of connection tables in tests."""
    return {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", CONNECTIONS: os.environ[CONNECTIONS]}


def answer(folder: Path, preparation: str, command: str) -> tuple[int, str, list[str]]:
    """Return exit status, output and the lines of stderr; assert that the command left nothing."""
    script = SCRIPT % ("\n".join([CONFIGURATION, DEVICE, preparation]), command)
    done = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment(),
        cwd=folder,
        timeout=240,
    )
    output, _, rest = done.stdout.rpartition("status ")
    status, _, difference = rest.partition("\n")
    assert (difference, done.returncode) == ("", 0), done
    return int(status), output, done.stderr.splitlines()


@pytest.mark.parametrize("command", [EDIT, ATTACH, DAEMON], ids=["ipvsadm", "attach", "run"])
@pytest.mark.parametrize(
    ("preparation", "become", "cause"),
    [
        (HIDDEN_BTF, "", "has no BTF (/sys/kernel/btf/vmlinux is missing)"),
        ("", WITHOUT_BPF, "CAP_BPF missing: root has been deprived of it"),
        ("", NO_ROOT, "as root"),
        (READ_ONLY_RUN, "", "Read-only file system"),
    ],
    ids=["without BTF", "without CAP_BPF", "no root", "read-only run"],
)
def test_one_line_names_the_reason_and_nothing_is_left(
    tmp_path: Path, preparation: str, become: str, cause: str, command: str
) -> None:
    status, output, errors = answer(tmp_path, preparation, f"{become} {command}")
    assert (status != 0, output) == (True, "")
    if command == EDIT and become:
        assert errors == [f"Can't initialize ipvs: {DENIED}", NO_IPVS]  # as ipvsadm says it
    else:
        assert len(errors) == 1, errors
        assert cause in errors[0]


def test_a_bpffs_that_cannot_be_mounted_leaves_no_directory(tmp_path: Path) -> None:
    assert answer(tmp_path, "", f"{WITHOUT_MOUNTS} {EDIT}") == (255, "", [DENIED])
    status, output, errors = answer(tmp_path, "", f"{WITHOUT_MOUNTS} {ATTACH}")
    assert (status, output, len(errors)) == (1, "", 1)
    assert "CAP_SYS_ADMIN missing" in errors[0]


def test_a_mount_that_fails_in_a_container_leaves_that_of_the_machine() -> None:
    """rmdir(2) of a directory detaches what other mount namespaces have mounted there: all pins would be lost."""
    deprived = "setpriv --bounding-set -sys_admin,-sys_ptrace"
    inner = f"umount {mounts.POINT}; {deprived} {EDIT.replace('192.0.2.1', '192.0.2.2')}; echo status $?"
    script = f"""
mount -t tmpfs -o mode=755 run /run
{EDIT}
unshare --mount sh -c {shlex.quote(inner)}
{IPVSADM} -Sn
{PYLVS} down
"""
    output = subprocess.check_output(
        ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script],
        stdin=subprocess.DEVNULL,
        text=True,
        env=environment(),
    )
    assert output.splitlines()[:2] == ["status 255", "-A -t 192.0.2.1:80 -s rr"]


def test_nothing_is_written_below_etc(tmp_path: Path) -> None:
    steps = [EDIT, f"{PYLVS} show >show", f"{PYLVS} down", f"rmdir {mounts.POINT}"]
    assert answer(tmp_path, READ_ONLY_ETC, " && ".join(steps)) == (0, "down; detached: lo, v1, v0\n", [])
