"""The status of virtual routers, and of one that an event is about."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from typing import Any

from pylvs.model.errors import NoSuchDevice
from pylvs.netlink import links
from pylvs.snmp.keepalived_mib import RouterStatus


def router_status(found: dict[str, Any]) -> RouterStatus:
    """Return the status that pylvs-vrrp reports."""
    devices = {each["name"]: str(each["device"]) for each in found["instances"]}
    instances = {each["name"]: each for each in found["instances"]}
    groups = {each["name"]: each["state"] for each in found["groups"]}
    unknown = sum(each["count"] for each in found["unknown_vrids"])
    return RouterStatus(instances, groups, devices, index_of, link_address_of, unknown, time.time())


def event_status(event: Mapping[str, Any]) -> RouterStatus:
    """Return the status of the one virtual router that an event has."""
    name = event["instance"]
    devices = {name: str(event["device"])} if "device" in event else {}
    return RouterStatus({name: event}, devices=devices, index_of=index_of)


def index_of(device: str) -> int:
    """Return the index of a device, 0 if it does not exist."""
    try:
        return socket.if_nametoindex(device)
    except OSError:
        return 0


def link_address_of(device: str) -> bytes:
    """Return the link address of a device, b"" if it does not exist."""
    try:
        return links.device(device).mac
    except (NoSuchDevice, OSError):
        return b""
