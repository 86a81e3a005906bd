"""What can go wrong while the package is installed: each ends with a clear line and an exit status that is not zero."""

from __future__ import annotations

from collections.abc import Callable

from tests.package.roots import Failed, Root, System

Check = Callable[[object, str], None]


def _refused(run: Callable[[str], str], command: str) -> str:
    """Return the output of a command that must fail. Raises Failed if it succeeds."""
    try:
        output = run(command)
    except Failed as error:
        return str(error)
    raise Failed(f"{command}: succeeded: {output}")


def play(root: Root, check: Check) -> None:
    """Play the mistakes before the installation."""
    output = _refused(root.run, "mount --bind /etc /etc && mount -o remount,ro,bind /etc && dpkg -i /srv/first.deb")
    check("pylvs: /etc is read-only: nothing was changed" in output, "read-only /etc is named")
    root.run("dpkg --purge pylvs 2>/dev/null")
    lock = "exec 9>/var/lib/dpkg/lock-frontend; python3 -c 'import fcntl; fcntl.lockf(9, fcntl.LOCK_EX)"
    command = f'{lock}; import os; os.system("dpkg -i /srv/first.deb; echo status $?")\''
    output = root.run(command)
    check("lock" in output and "status 2" in output, "a busy lock of dpkg is named")
    older = "mkdir /tmp/old && dpkg-deb -R /srv/first.deb /tmp/old && "
    older += (
        "sed -i 's/python3 (>= 3.11)/python3 (>= 9.9)/' /tmp/old/DEBIAN/control && dpkg-deb -b /tmp/old /tmp/old.deb"
    )
    root.run(f"{older} >/dev/null")
    output = _refused(root.run, "apt-get -q install -y /tmp/old.deb")
    check("Depends: python3 (>= 9.9)" in output, "a Python that is too old is named")
    root.run("rm -r /tmp/old /tmp/old.deb")


def play_interrupted(system: System, check: Check) -> None:
    """Kill an installation in the middle; the next one completes it. Play a kernel without BTF."""
    # As power cuts: while dpkg works, then between unpacking and configuring.
    for seconds in (0.1, 0.5, 1.5):
        system.run(f"timeout -s KILL {seconds} dpkg -i /srv/first.deb >/dev/null 2>&1 || :")
        system.run("while pgrep -x dpkg >/dev/null; do sleep 0.1; done")  # it may still wait for the disk
    system.run("dpkg --unpack /srv/first.deb")
    check("unpacked" in system.run("dpkg-query -W -f '${Status}' pylvs"), "killed three times, then unpacked only")
    system.run("dpkg --configure -a && dpkg --configure -a")
    check("installed" in system.run("dpkg-query -W -f '${Status}' pylvs"), "dpkg --configure -a completes it")
    for _ in range(2):
        system.run("/var/lib/dpkg/info/pylvs.postinst configure '' && /var/lib/dpkg/info/pylvs.postinst triggered x")
    check(
        system.run("readlink -f /usr/sbin/ipvsadm") == "/usr/lib/pylvs/ipvsadm\n", "a repeated postinst changes nothing"
    )
    hidden = "unshare --net --mount sh -c 'mount -t tmpfs none /sys/kernel/btf && ipvsadm -A -t 192.0.2.1:80'"
    output = _refused(system.run, hidden)
    lines = output.strip().splitlines()[1:]
    check(len(lines) == 1 and "BTF" in lines[0], f"a kernel without BTF: {lines}")
