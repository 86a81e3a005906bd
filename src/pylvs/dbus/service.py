"""Answers to the method calls of clients, and the signals. It knows no socket.

The daemon executes what changes something, and knows the virtual routers. So most answers wait for a reply of the
daemon. Calls of the same status share one reply. The bus's policy decides who may call which method.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from jeepney import (
    DBusAddress,
    HeaderFields,
    Message,
    MessageFlag,
    MessageType,
    new_error,
    new_method_return,
    new_signal,
)

from pylvs.dbus.bus import Lost
from pylvs.dbus.interface import (
    GENERAL_METHODS,
    INSTANCE,
    INTROSPECTABLE,
    PEER,
    PROPERTIES,
    PROPERTY_TYPES,
    REFUSED_METHODS,
    RELOADED,
    SEND_GARP,
    STARTED,
    STATES,
    STATUS_CHANGE,
    STOPPED,
    VRRP,
    description,
    has_method,
    vrrp_path,
)
from pylvs.model.dataclass import dataclass, field

ERROR = "org.freedesktop.DBus.Error."
MOST_WAITING = 256  # calls
GENERAL_SIGNALS = (STARTED, RELOADED, STOPPED)
MACHINE_ID = "/etc/machine-id"
REFUSAL = (
    "virtual routers and their objects follow the configuration file: write a vrrp_instance, then call ReloadConfig"
)

Reply = Mapping[str, Any]
Ask = Callable[[str, str, Callable[[Reply], None]], None]  # method, name of a virtual router, receiver of the reply


class Refused(Exception):
    """An answer with an error: its name after `ERROR`, and a text."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name, self.text = name, text


@dataclass(frozen=True, slots=True)
class Routers:
    """The virtual routers by path: name and state. `error` is why there are none."""

    states: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    error: str = ""

    def find(self, path: str) -> tuple[str, str]:
        """Return name and state. Raises Refused."""
        if path in self.states:
            return self.states[path]
        if self.error:
            raise Refused("Failed", self.error)
        raise Refused("UnknownObject", f"there is no object {path}")

    def properties(self, path: str) -> dict[str, tuple[str, tuple[Any, ...]]]:
        """Return the properties of a virtual router as variants. Raises Refused."""
        name, state = self.find(path)
        values = {"Name": (name,), "State": STATES[state]}
        return {each: (PROPERTY_TYPES[each], value) for each, value in values.items()}


Answer = Callable[[Message, str, Routers], Message | None]  # None: the daemon's reply is the answer


class Service:
    """The objects below `root`. `send` sends a message, `ask` asks the daemon, `failed` reports a bug."""

    def __init__(self, root: str, send: Callable[[Message], None], ask: Ask, failed: Callable[[str], None]) -> None:
        self._vrrp = vrrp_path(root)
        self._send = send
        self._ask = ask
        self._failed = failed
        self._waiting = 0  # calls of methods of the daemon
        self._of_status: list[tuple[Message, Answer]] = []  # calls that wait for the status
        self._answers: Mapping[tuple[str, str], Answer] = {
            (INTROSPECTABLE, "Introspect"): self._introspect,
            (PROPERTIES, "Get"): self._get,
            (PROPERTIES, "GetAll"): self._get_all,
            (PROPERTIES, "Set"): self._set,
            (INSTANCE, SEND_GARP): self._send_garp,
        }

    def receive(self, message: Message) -> None:
        """Answer a method call, now or when the daemon has replied."""
        if message.header.message_type is not MessageType.method_call:
            return
        self._answering(message, lambda: self._call(message))

    def signal(self, name: str) -> None:
        """Emit a signal of the general object."""
        self._emit(self._vrrp, VRRP, name)

    def state_changed(self, path: str, state: str) -> None:
        """Emit the signals of a transition of a virtual router."""
        self._emit(path, INSTANCE, STATUS_CHANGE, "u", (STATES[state][0],))
        changed = {"State": (PROPERTY_TYPES["State"], STATES[state])}
        self._emit(path, PROPERTIES, "PropertiesChanged", "sa{sv}as", (INSTANCE, changed, []))

    def begin(self) -> None:
        """Emit what keepalived does when it has its name: VrrpStarted, then each state."""
        self.signal(STARTED)
        self._ask("status", "", lambda reply: self._emit_all(routers_of(reply)))

    def _emit_all(self, routers: Routers) -> None:
        for path, (_, state) in routers.states.items():
            self.state_changed(path, state)

    def _emit(
        self, path: str, interface: str, name: str, signature: str | None = None, body: tuple[Any, ...] = ()
    ) -> None:
        self._send(new_signal(DBusAddress(path, interface=interface), name, signature, body))

    def _call(self, call: Message) -> None:
        fields = call.header.fields
        path, member = fields[HeaderFields.path], fields[HeaderFields.member]
        interface = fields.get(HeaderFields.interface, "")
        if interface == VRRP and path == self._vrrp:
            self._general(call, member)
        elif not has_method(interface, member):
            known = interface in (INSTANCE, PEER, PROPERTIES, INTROSPECTABLE, VRRP)
            what = f"{interface} has no method {member}" if known else f"there is no interface '{interface}'"
            raise Refused("UnknownMethod" if known else "UnknownInterface", what)
        elif interface == PEER:
            self._answer(call, "s", (machine_id(),)) if member == "GetMachineId" else self._answer(call)
        elif interface == VRRP:
            raise Refused("UnknownObject", f"there is no {VRRP} at {path}")
        else:
            self._with_status(call, self._answers[interface, member])

    def _general(self, call: Message, member: str) -> None:
        if member in REFUSED_METHODS:
            raise Refused("NotSupported", f"{member}: {REFUSAL}")
        if member not in GENERAL_METHODS:
            raise Refused("UnknownMethod", f"{VRRP} has no method {member}")
        check_arguments(call, "")
        self._execute(call, member)

    def _execute(self, call: Message, method: str, name: str = "") -> None:
        """Let the daemon execute a method."""
        if self._waiting >= MOST_WAITING:
            raise Refused("LimitsExceeded", f"{self._waiting} calls wait already")
        self._waiting += 1
        self._ask(method, name, lambda reply: self._executed(call, reply))

    def _executed(self, call: Message, reply: Reply) -> None:
        self._waiting -= 1
        if reply.get("error"):
            self._refuse(call, Refused("Failed", str(reply["error"])))
        else:
            self._answer(call)

    def _with_status(self, call: Message, answer: Answer) -> None:
        if len(self._of_status) >= MOST_WAITING:
            raise Refused("LimitsExceeded", f"{len(self._of_status)} calls wait already")
        self._of_status.append((call, answer))
        if len(self._of_status) == 1:
            self._ask("status", "", self._status_known)

    def _status_known(self, reply: Reply) -> None:
        routers, waiting = routers_of(reply), self._of_status
        self._of_status = []
        for call, answer in waiting:
            self._answering(call, partial(self._answer_of_status, call, answer, routers))

    def _answer_of_status(self, call: Message, answer: Answer, routers: Routers) -> None:
        found = answer(call, call.header.fields[HeaderFields.path], routers)
        if found is not None:
            self._reply(call, found)

    def _answering(self, call: Message, answer: Callable[[], None]) -> None:
        """Answer with an error if that fails."""
        try:
            answer()
        except Refused as refused:
            self._refuse(call, refused)
        except Lost:
            raise
        except Exception as error:
            self._failed(f"{call.header.fields[HeaderFields.member]}: {type(error).__name__}: {error}: this is a bug")
            self._refuse(call, Refused("Failed", f"{type(error).__name__}: this is a bug"))

    def _introspect(self, call: Message, path: str, routers: Routers) -> Message:
        check_arguments(call, "")
        text = description(path, {self._vrrp: VRRP, **dict.fromkeys(routers.states, INSTANCE)})
        if not text:
            routers.find(path)
        return new_method_return(call, "s", (text,))

    def _get(self, call: Message, path: str, routers: Routers) -> Message:
        check_arguments(call, "ss")
        interface, name = call.body
        return new_method_return(call, "v", (self._property(path, interface, name, routers),))

    def _get_all(self, call: Message, path: str, routers: Routers) -> Message:
        check_arguments(call, "s")
        return new_method_return(call, "a{sv}", (self._properties(path, call.body[0], routers),))

    def _set(self, call: Message, path: str, routers: Routers) -> Message:
        check_arguments(call, "ssv")
        interface, name, _ = call.body
        self._property(path, interface, name, routers)
        raise Refused("PropertyReadOnly", f"{name} cannot be written")

    def _send_garp(self, call: Message, path: str, routers: Routers) -> None:
        check_arguments(call, "")
        name, _ = routers.find(path)
        self._execute(call, SEND_GARP, name)

    def _property(self, path: str, interface: str, name: str, routers: Routers) -> tuple[str, tuple[Any, ...]]:
        found = self._properties(path, interface, routers)
        if name not in found:
            raise Refused("UnknownProperty", f"{interface} has no property {name} at {path}")
        return found[name]

    def _properties(self, path: str, interface: str, routers: Routers) -> dict[str, tuple[str, tuple[Any, ...]]]:
        if path == self._vrrp:
            mine: dict[str, tuple[str, tuple[Any, ...]]] = {}
            own = VRRP
        else:
            mine, own = routers.properties(path), INSTANCE
        if interface not in (own, PROPERTIES, INTROSPECTABLE, PEER):
            raise Refused("UnknownInterface", f"there is no {interface} at {path}")
        return mine if interface == own else {}

    def _answer(self, call: Message, signature: str | None = None, body: tuple[Any, ...] = ()) -> None:
        self._reply(call, new_method_return(call, signature, body))

    def _refuse(self, call: Message, refused: Refused) -> None:
        self._reply(call, new_error(call, ERROR + refused.name, "s", (refused.text,)))

    def _reply(self, call: Message, reply: Message) -> None:
        if not call.header.flags & MessageFlag.no_reply_expected:
            self._send(reply)


def routers_of(reply: Reply) -> Routers:
    """Return the virtual routers in a reply to "status"."""
    states = {path: (name, state) for path, (name, state) in reply.get("routers", {}).items()}
    return Routers(states, str(reply.get("error", "")))


def check_arguments(call: Message, expected: str) -> None:
    """Raise Refused if a call has other arguments."""
    given = call.header.fields.get(HeaderFields.signature, "")
    if given != expected:
        member = call.header.fields[HeaderFields.member]
        raise Refused("InvalidArgs", f"{member} has arguments '{expected}', not '{given}'")


def machine_id() -> str:
    """Return the ID of this machine. Raises Refused."""
    try:
        return Path(MACHINE_ID).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        raise Refused("FileNotFound", f"{MACHINE_ID} cannot be read") from None
