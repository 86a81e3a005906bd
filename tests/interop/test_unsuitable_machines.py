"""Commands on machines where pylvs cannot work: one line says why, and nothing is left behind.

Each machine is a mount, PID and network namespace with an empty /run of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pylvs.bpf import mounts
from pylvs.bpf.kernel import CONNECTIONS

PROGRAMS = Path(sys.executable).parent
OVERFLOW = "65534"
# Not nsfs: namespaces of other tests, whose mounts end everywhere when their names are deleted.
# Prints what the machine has before and after the command, which prints its exit status last.
SCRIPT = """\
mount -t tmpfs -o mode=755 run /run
state() { find /run ! -path /run/pylvs | sort; cut -d' ' -f4- /proc/self/mountinfo | grep -v ' - nsfs '; }
%s
state >/tmp/before
%s; echo "status $?"
state >/tmp/after
diff /tmp/before /tmp/after
"""
PRIVATE_TMP = "mount -t tmpfs tmp /tmp"  # the last of the preparations hides the test's files, too
WITHOUT_BPF = "setpriv --bounding-set -bpf,-sys_admin"
WITHOUT_MOUNTS = "setpriv --bounding-set -sys_admin"
# CAP_DAC_READ_SEARCH: the user finds the clone's programs, wherever it is.
NO_ROOT = f"setpriv --reuid {OVERFLOW} --clear-groups --inh-caps +dac_read_search --ambient-caps +dac_read_search"
HIDDEN_BTF = "mount -t tmpfs btf /sys/kernel/btf"
READ_ONLY_RUN = "mount -o remount,ro /run"
READ_ONLY_ETC = "mount --bind /etc /etc; mount -o remount,bind,ro /etc"
SERVICE = "protocol TCP\\n lvs_sched rr\\n lvs_method DR\\n real_server 10.0.0.2 80 {\\n weight 1\\n }"
CONFIGURATION = f"printf 'virtual_server 192.0.2.1 80 {{\\n {SERVICE}\\n}}\\n' >/tmp/k.conf"
DEVICE = "ip link add v0 type veth peer name v1"
EDIT = f"{PROGRAMS}/ipvsadm -A -t 192.0.2.1:80 -s rr"
ATTACH, DAEMON = f"{PROGRAMS}/pylvs attach v0", f"{PROGRAMS}/pylvs run -f /tmp/k.conf"
DENIED = "Permission denied (you must be root)"
NO_IPVS = "Are you sure that IP Virtual Server is built in the kernel or as module?"


def environment() -> dict[str, str]:
    """Return the environment of the commands, with the capacity of connection tables in tests."""
    return {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", CONNECTIONS: os.environ[CONNECTIONS]}


def answer(preparation: str, command: str) -> tuple[int, str, list[str]]:
    """Return exit status, output and the lines of stderr; assert that the command left nothing."""
    script = SCRIPT % ("\n".join([PRIVATE_TMP, CONFIGURATION, DEVICE, preparation]), command)
    done = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment(),
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
def test_one_line_says_why_and_nothing_is_left(preparation: str, become: str, cause: str, command: str) -> None:
    status, output, errors = answer(preparation, f"{become} {command}")
    assert (status != 0, output) == (True, "")
    if command == EDIT and become:
        assert errors == [f"Can't initialize ipvs: {DENIED}", NO_IPVS]  # as ipvsadm says it
    else:
        assert len(errors) == 1, errors
        assert cause in errors[0]


def test_a_bpffs_that_cannot_be_mounted_leaves_no_directory() -> None:
    assert answer("", f"{WITHOUT_MOUNTS} {EDIT}") == (255, "", [DENIED])
    status, output, errors = answer("", f"{WITHOUT_MOUNTS} {ATTACH}")
    assert (status, output, len(errors)) == (1, "", 1)
    assert "CAP_SYS_ADMIN missing" in errors[0]


def test_a_mount_that_fails_in_a_container_leaves_that_of_the_machine() -> None:
    """rmdir(2) of a directory detaches what other mount namespaces have mounted there: all pins would be lost."""
    deprived = "setpriv --bounding-set -sys_admin,-sys_ptrace"
    script = f"""
mount -t tmpfs -o mode=755 run /run
{EDIT}
unshare --mount sh -c 'umount {mounts.POINT}; {deprived} {EDIT.replace("192.0.2.1", "192.0.2.2")}; echo status $?'
{PROGRAMS}/ipvsadm -Sn
{PROGRAMS}/pylvs down
"""
    output = subprocess.check_output(
        ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script],
        stdin=subprocess.DEVNULL,
        text=True,
        env=environment(),
    )
    assert output.splitlines()[:2] == ["status 255", "-A -t 192.0.2.1:80 -s rr"]


def test_nothing_is_written_below_etc() -> None:
    steps = [EDIT, f"{PROGRAMS}/pylvs show >/tmp/show", f"{PROGRAMS}/pylvs down", f"rmdir {mounts.POINT}"]
    assert answer(READ_ONLY_ETC, " && ".join(steps)) == (0, "down; detached: lo, v1, v0\n", [])
