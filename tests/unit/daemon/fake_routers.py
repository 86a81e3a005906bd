"""A fake pylvs-vrrp: it serves the socket of the virtual routers, and invents their states.

It appends each request to `requests.json` in the state directory. `behaviour.json` there sets its behaviour:

- `version`: the version that it sends
- `refuses`: the error with which it refuses a configuration
- `warnings`: the warnings of a configuration
- `silent`: requests that it does not answer
- `age_s`: how long its routers have been in their state
- `takes_s`: how long its end takes
- `leaves`: a file that it leaves behind at its end
- `sessions`: the status of its BFD sessions
- `results`: their results by name

The request `emit` publishes an event.
"""

from __future__ import annotations

import errno
import json
import os
import select
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pylvs
from pylvs.model.plain import from_plain
from pylvs.system.processes import channel
from pylvs.vrrp import SOCKET_NAME
from pylvs.vrrp.control.requests import Configure
from pylvs.vrrp.ipc import KIND, PROTOCOL

ROOT = Path(__file__).parents[3]


def start_fake_routers(state: Path) -> subprocess.Popen[bytes]:
    code = f"import sys; sys.path[:0] = {[str(ROOT), str(Path(pylvs.__file__).parents[1])]!r}; "
    code += f"from {__name__} import main; main()"
    return subprocess.Popen([sys.executable, "-c", code, str(state)], start_new_session=True)


def set_behaviour(state: Path, **behaviour: Any) -> None:
    """Set the behaviour; see above."""
    state.mkdir(mode=0o700, exist_ok=True)
    draft = state / "behaviour.new"
    draft.write_text(json.dumps(behaviour))
    draft.replace(state / "behaviour.json")


def record(state: Path) -> list[dict[str, Any]]:
    """Return the requests, each with the number of the process that got it."""
    path = state / "requests.json"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class FakeRouters:
    """The fake pylvs-vrrp."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.names: list[str] = []
        self.held: set[str] = set()
        self.data_plane: dict[str, Any] = {"up": True, "reason": ""}
        self.begun = time.time() - self.behaviour.get("age_s", 0)
        self.pipes: dict[socket.socket, set[str]] = {}  # what each has sent: "hello", "subscribe"
        self.listener = socket.socket(socket.AF_UNIX, KIND)
        os.chdir(state)
        Path(SOCKET_NAME).unlink(missing_ok=True)
        self.listener.bind(SOCKET_NAME)
        self.listener.listen()

    @property
    def behaviour(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.state / "behaviour.json").read_text())
        except FileNotFoundError:
            return {}
        return found

    def run(self) -> None:
        """Serve clients until `stop`."""
        while True:
            pipes = {pipe.fileno(): pipe for pipe in self.pipes}
            ready, _, _ = select.select([self.listener.fileno(), *pipes], [], [])
            for readable in ready:
                if readable in pipes:
                    self.read(pipes[readable])
                else:
                    self.pipes[self.listener.accept()[0]] = set()

    def read(self, pipe: socket.socket) -> None:
        """Read a message of a client."""
        try:
            message, descriptors = channel.receive(pipe)
            channel.close_all(descriptors)
            if "hello" in self.pipes[pipe]:
                self.reply(pipe, message)
            else:
                self.pipes[pipe].add("hello")
                version = self.behaviour.get("version", pylvs.__version__)
                protocol = self.behaviour.get("protocol", PROTOCOL)
                self.send(pipe, {"hello": version, "pid": os.getpid(), "protocol": protocol})
        except (EOFError, OSError):
            del self.pipes[pipe]
            pipe.close()

    def send(self, pipe: socket.socket, message: dict[str, Any]) -> None:
        data, files, _ = channel.packet(message, may_be_long=True)
        socket.send_fds(pipe, [data], [each.fileno() for each in files])
        for each in files:
            each.close()

    def reply(self, pipe: socket.socket, message: dict[str, Any]) -> None:
        """Reply to a request."""
        verb, behaviour = message["verb"], self.behaviour
        request = {name: value for name, value in message.items() if name not in ("id", "configuration", "settings")}
        if verb == "configure":
            fields = {name: message[name] for name in ("configuration", "settings")}
            wanted: Configure = from_plain(Configure, fields)
            request["names"] = [each.name for each in wanted.configuration.instances]
            request["router_id"] = wanted.settings.router_id
        with open(self.state / "requests.json", "a", encoding="utf-8") as file:
            file.write(json.dumps({"pid": os.getpid(), **request}) + "\n")
        if verb in behaviour.get("silent", ()):
            return
        reply: dict[str, Any] = {"id": message["id"]}
        if verb == "subscribe":
            self.pipes[pipe].add("subscribe")
            reply["ok"] = {}
        elif verb == "configure" and behaviour.get("refuses"):
            reply["error"] = behaviour["refuses"]
        elif verb == "configure":
            self.names = request["names"]
            reply["ok"] = {"warnings": behaviour.get("warnings", [])}
        elif verb in ("yield", "unyield"):
            unknown = [name for name in message["names"] if name not in self.names]
            names = message["names"] or self.names
            if unknown:
                reply |= {"error": self.unknown(unknown[0]), "errno": errno.ENOENT}
            else:
                self.held = self.held | set(names) if verb == "yield" else self.held - set(names)
                reply["ok"] = {"names": names}
                for name in names:
                    self.publish(name, *(("MASTER", "BACKUP") if verb == "yield" else ("BACKUP", "MASTER")))
        elif verb == "emit":
            self.send_event(message["event"])
            reply["ok"] = {}
        elif verb == "sessions":
            reply["ok"] = behaviour.get("results", {})
        elif verb == "data_plane":
            self.data_plane = {"up": message["up"], "reason": message["reason"]}
            reply["ok"] = {}
        elif verb == "why" and message["name"] not in (None, *self.names):
            reply |= {"error": self.unknown(message["name"]), "errno": errno.ENOENT}
        elif verb == "why":
            names = [message["name"]] if message["name"] else self.names
            reply["ok"] = {name: self.transitions(name) for name in names}
        else:
            reply["ok"] = self.status() if verb == "status" else {}
        self.send(pipe, reply)
        if verb == "stop":
            Path(SOCKET_NAME).unlink()
            time.sleep(behaviour.get("takes_s", 0))
            if "leaves" in behaviour:
                Path(behaviour["leaves"]).touch()
            sys.exit()

    def unknown(self, name: str) -> str:
        return f"{name}: no such virtual router; there are: {', '.join(self.names)}"

    def publish(self, name: str, before: str, state: str) -> None:
        """Publish a transition to all subscribers."""
        event = {
            "event": "transition",
            "instance": name,
            "time": time.time(),
            "before": before,
            "state": state,
            "why": "yielded by the operator",
            "detail": "",
        }
        self.send_event(event)

    def send_event(self, event: dict[str, Any]) -> None:
        for pipe, seen in self.pipes.items():
            if "subscribe" in seen:
                self.send(pipe, event)

    def transitions(self, name: str) -> list[dict[str, Any]]:
        first = {
            "time": self.begun,
            "before": "FAULT",
            "state": "BACKUP",
            "why": "start",
            "detail": "",
            "priority": 100,
        }
        why = "no advertisement came in time"
        second = {**first, "before": "BACKUP", "state": "MASTER", "why": why, "detail": "for 3.61 s"}
        return [first, second] if name == self.names[0] else [first]

    def status(self) -> dict[str, Any]:
        """Return a status in which the first router is master."""
        return {
            "instances": [self.instance(at, name) for at, name in enumerate(self.names)],
            "groups": [{"name": "G", "state": "MASTER", "members": self.names}],
            "process": {
                "pid": os.getpid(),
                "realtime": 1,
                "locked": True,
                "longest_gap_ms": 0.25,
                "helper_running": True,
            },
            "data_plane": self.data_plane,
            "sessions": self.behaviour.get("sessions", []),
        }

    def instance(self, at: int, name: str) -> dict[str, Any]:
        last = self.transitions(name)[-1]
        master = last["state"] == "MASTER" and name not in self.held
        return {
            "name": name,
            "interface": "eth0",
            "vrid": 51 + at,
            "version": 2,
            "family": 4,
            "state": "MASTER" if master else "BACKUP",
            "since": self.begun,
            "priority": 98,
            "base_priority": 100,
            "addresses": [f"192.0.2.{at + 1}/24"],
            "master": "self" if master else "10.0.0.9",
            "why": f"{last['why']}: {last['detail']}" if last["detail"] else last["why"],
            "advert_interval_s": 1.0,
            "master_down_s": 3.61,
            "tracks": [{"kind": "script", "name": "web", "up": False, "weight": -2, "reason": "exit status 1"}],
            "faults": [],
            "counters": {
                "sent": 7,
                "received": 3,
                "dropped": {"wrong password": 2},
                "became_master": 1,
                "became_backup": 1,
                "became_fault": 0,
            },
            "group": "G",
            "held_until": self.begun + 600 if name in self.held else None,
        }


def main() -> None:
    """Run the process; its argument is the state directory."""
    FakeRouters(Path(sys.argv[1])).run()
