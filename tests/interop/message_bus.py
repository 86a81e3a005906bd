"""A private message bus with the rules of a system bus, the policy that pylvs installs, and clients of it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from pylvs.system.sandbox import USER, account
from tests.waiting import PATIENCE_S, until, until_listening

PROGRAMS = ("dbus-daemon", "busctl")
REASON = next((f"{each} is not installed" for each in PROGRAMS if shutil.which(each) is None), "")
POLICY = Path(__file__).parents[2] / "packaging" / "dbus" / "pylvs.conf"
KEEPALIVED_POLICY = Path("/etc/dbus-1/system.d/org.keepalived.Vrrp1.conf")
SERVICE = "org.keepalived.Vrrp1"
ERROR = "org.freedesktop.DBus.Error."
CONFIGURATION = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>ADDRESS</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <deny own="*"/>
    <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus"/>
  </policy>
  INCLUDES
</busconfig>
"""


class MessageBus:
    """A bus in a directory that every user may enter."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = f"unix:path={folder}/bus"
        self._process: subprocess.Popen[bytes] | None = None
        policy = folder / "pylvs.conf"
        policy.write_text(POLICY.read_text().replace(f'user="{USER}"', f'user="{user_of_pylvs()}"'))
        policies = [each for each in (policy, KEEPALIVED_POLICY) if each.exists()]
        includes = "".join(f"<include>{each}</include>" for each in policies)
        text = CONFIGURATION.replace("ADDRESS", self.address).replace("INCLUDES", includes)
        (folder / "bus.conf").write_text(text)

    def start(self) -> None:
        """Start the bus, and wait until it listens."""
        command = ["dbus-daemon", "--nofork", "--nopidfile", f"--config-file={self.folder}/bus.conf"]
        with open(self.folder / "bus.log", "ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        until_listening(self.folder / "bus")

    def stop(self) -> None:
        """Send SIGTERM, and remove the socket."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE_S)
            with contextlib.suppress(FileNotFoundError):
                (self.folder / "bus").unlink()

    def run(self, *words: str, user: int = 0) -> subprocess.CompletedProcess[str]:
        """Run busctl."""
        command = ["busctl", f"--address={self.address}", "--json=short", "--timeout=60", *words]
        return subprocess.run(command, capture_output=True, text=True, user=user, group=user, extra_groups=[])

    def call(self, path: str, interface: str, method: str, *words: str, user: int = 0) -> Any:
        """Return the result of a method, or its error as text."""
        done = self.run("call", SERVICE, path, interface, method, *words, user=user)
        if done.returncode:
            return done.stderr.strip()
        return json.loads(done.stdout)["data"] if done.stdout.strip() else None

    def property(self, path: str, name: str, user: int = 0) -> Any:
        """Return a property of a virtual router, or the error as text."""
        done = self.run("get-property", SERVICE, path, f"{SERVICE}.Instance", name, user=user)
        return json.loads(done.stdout) if done.returncode == 0 else done.stderr.strip()

    def members(self, path: str) -> dict[str, set[str]]:
        """Return the members of each interface of an object, and in "" the names below it."""
        found = self.call(path, "org.freedesktop.DBus.Introspectable", "Introspect")
        assert isinstance(found, list), found
        node = ElementTree.fromstring(found[0])
        members = {"": {each.attrib["name"] for each in node.findall("node")}}
        for interface in node.findall("interface"):
            members[interface.attrib["name"]] = {_text(each) for each in interface}
        return members

    @contextlib.contextmanager
    def signals(self) -> Iterator[Signals]:
        """Record the signals of the service within the block."""
        file = self.folder / "signals"
        command = ["busctl", f"--address={self.address}", "--json=short", "monitor", "--match=type='signal'"]
        with (
            file.open("w") as out,
            subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL, start_new_session=True) as process,
        ):
            try:
                recorded = Signals(file)
                until(lambda: self._marked(recorded), "the recorder receives signals")
                yield recorded
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(PATIENCE_S)

    def _marked(self, recorded: Signals) -> bool:
        self.run("emit", "/", "test.Mark", "Mark")
        return "test.Mark" in recorded.file.read_text()


class Signals:
    """The signals that busctl has written to a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def all(self) -> list[tuple[Any, ...]]:
        """Return path, member and arguments of each signal of keepalived's interfaces."""
        lines = self.file.read_text().splitlines(keepends=True)
        found = (json.loads(line) for line in lines if line.endswith("\n"))
        return [
            (each["path"], each["member"], *each["payload"].get("data", ()))
            for each in found
            if each.get("interface", "").startswith(SERVICE)
        ]


def _text(member: ElementTree.Element) -> str:
    arguments = [f"{each.get('type')} {each.get('direction', '')}".strip() for each in member.findall("arg")]
    return f"{member.tag} {member.attrib['name']}({', '.join(arguments)}){member.get('type', '')}"


def user_of_pylvs() -> int:
    """Return the user as which the process of D-Bus runs here."""
    return account(named=True)[0]


@contextlib.contextmanager
def message_bus() -> Iterator[MessageBus]:
    """Provide a bus, which does not run yet; end it after the block. pytest's directories are for root alone."""
    with tempfile.TemporaryDirectory(prefix="pylvs-bus-") as folder:
        os.chmod(folder, 0o755)
        bus = MessageBus(Path(folder))
        try:
            yield bus
        finally:
            bus.stop()
