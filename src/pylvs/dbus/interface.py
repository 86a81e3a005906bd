"""keepalived's interface on D-Bus: names, paths, states, and their description for introspection. Pure.

The facts are those of keepalived 2.2.7: vrrp_dbus.c and its interface files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping

from pylvs.model.wanted import Placement

MAX_REASON = 300  # characters of what the task reports
ROOT = "/org/keepalived/Vrrp1"
VRRP, INSTANCE = "org.keepalived.Vrrp1.Vrrp", "org.keepalived.Vrrp1.Instance"
PEER, PROPERTIES = "org.freedesktop.DBus.Peer", "org.freedesktop.DBus.Properties"
INTROSPECTABLE = "org.freedesktop.DBus.Introspectable"
PRINT_DATA, PRINT_STATS, PRINT_STATS_CLEAR, RELOAD = "PrintData", "PrintStats", "PrintStatsClear", "ReloadConfig"
SEND_GARP, STATUS_CHANGE = "SendGarp", "VrrpStatusChange"
STARTED, RELOADED, STOPPED = "VrrpStarted", "VrrpReloaded", "VrrpStopped"
GENERAL_METHODS = (PRINT_DATA, PRINT_STATS, PRINT_STATS_CLEAR, RELOAD)
REFUSED_METHODS = ("CreateInstance", "DestroyInstance")  # keepalived has them if it was built with them
STATES: Mapping[str, tuple[int, str]] = {
    "INIT": (0, "Init"),
    "BACKUP": (1, "Backup"),
    "MASTER": (2, "Master"),
    "FAULT": (3, "Fault"),
    "DELETED": (97, "Deleted"),
    "STOP": (98, "Stop"),
}
PROPERTY_TYPES = {"Name": "(s)", "State": "(us)"}  # of an instance

Arguments = Iterable[tuple[str, str, str]]  # name, type, direction
_NO_ARGUMENTS: Arguments = ()
_METHODS: Mapping[str, Mapping[str, Arguments]] = {
    VRRP: dict.fromkeys(GENERAL_METHODS, _NO_ARGUMENTS),
    INSTANCE: {SEND_GARP: _NO_ARGUMENTS},
    PEER: {"Ping": (), "GetMachineId": (("machine_uuid", "s", "out"),)},
    INTROSPECTABLE: {"Introspect": (("xml_data", "s", "out"),)},
    PROPERTIES: {
        "Get": (("interface_name", "s", "in"), ("property_name", "s", "in"), ("value", "v", "out")),
        "GetAll": (("interface_name", "s", "in"), ("properties", "a{sv}", "out")),
        "Set": (("interface_name", "s", "in"), ("property_name", "s", "in"), ("value", "v", "in")),
    },
}
_SIGNALS: Mapping[str, Mapping[str, Arguments]] = {
    VRRP: dict.fromkeys((STARTED, RELOADED, STOPPED), _NO_ARGUMENTS),
    INSTANCE: {STATUS_CHANGE: (("status", "u", ""),)},
    PROPERTIES: {
        "PropertiesChanged": (
            ("interface_name", "s", ""),
            ("changed_properties", "a{sv}", ""),
            ("invalidated_properties", "as", ""),
        )
    },
}
_DOCTYPE = (
    '<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"\n'
    '"http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">\n'
)


def element(text: str) -> str:
    """Return a text as one element of an object's path: other bytes than letters and digits become "_"."""
    return re.sub(rb"[^A-Za-z0-9]", b"_", os.fsencode(text)).decode()


def root_of(placement: Placement) -> str:
    """Return the path above all objects: with the names of the network namespace and of the daemon's instance."""
    names = filter(None, (placement.net_namespace, placement.instance))
    return "/".join((ROOT, *map(element, names)))


def vrrp_path(root: str) -> str:
    """Return the path of the general object."""
    return f"{root}/Vrrp"


def instance_path(root: str, interface: str, vrid: int, family: int) -> str:
    """Return the path of a virtual router."""
    return f"{root}/Instance/{element(interface)}/{vrid}/IPv{family}"


def has_method(interface: str, member: str) -> bool:
    """Return whether an interface has a method."""
    return member in _METHODS.get(interface, {})


def description(path: str, objects: Mapping[str, str]) -> str:
    """Return the XML for a path, from the interface of each object by its path; "" if there is nothing."""
    below = path.rstrip("/") + "/"
    children = sorted({each[len(below) :].split("/")[0] for each in objects if each.startswith(below)})
    if path not in objects and not children:
        return ""
    interfaces = (PROPERTIES, INTROSPECTABLE, PEER, objects[path]) if path in objects else (INTROSPECTABLE, PEER)
    lines = [line for each in interfaces for line in _interface_lines(each)]
    lines += [f'  <node name="{each}"/>' for each in children]
    return _DOCTYPE + "\n".join(("<node>", *lines, "</node>", ""))


def _interface_lines(interface: str) -> Iterable[str]:
    yield f'  <interface name="{interface}">'
    for kind, members in (("method", _METHODS[interface]), ("signal", _SIGNALS.get(interface, {}))):
        for name, arguments in members.items():
            yield f'    <{kind} name="{name}">'
            for argument, signature, direction in arguments:
                more = f' direction="{direction}"' if direction else ""
                yield f'      <arg type="{signature}" name="{argument}"{more}/>'
            yield f"    </{kind}>"
    for name, signature in PROPERTY_TYPES.items() if interface == INSTANCE else ():
        yield f'    <property type="{signature}" name="{name}" access="read"/>'
    yield "  </interface>"
