"""Mark rules as text: parsing and writing the options of `pylvs mark add`."""

from __future__ import annotations

import re
import shlex
import socket
from collections.abc import Callable
from ipaddress import ip_network
from typing import Any, TypeVar

from pylvs.model.errors import InvalidOperation, shown
from pylvs.model.marks import (
    ALL_BITS,
    PROTOCOL_NAMES,
    TO_THE_END,
    MarkRule,
    Network,
    Not,
    Ranges,
    checked_device,
    joined,
)

_PROTOCOLS = {name: number for number, name in PROTOCOL_NAMES.items()} | {"all": 0, "ipv6-icmp": 58}
Value = TypeVar("Value")


def number_of(text: str, most: int, what: str) -> int:
    """Parse a decimal or hexadecimal (0x) number from 0 to `most`. Raises InvalidOperation."""
    if re.fullmatch(r"[0-9]+|0[xX][0-9a-fA-F]+", text):
        number = int(text, 16 if text[:2].lower() == "0x" else 10)
        if number <= most:
            return number
    raise InvalidOperation(f"{shown(text)}: {what} is a number from 0 to {most}")


def masked(text: str, most: int, what: str) -> tuple[int, int]:
    """Parse VALUE or VALUE/MASK; without a mask all bits count. Raises InvalidOperation."""
    value, slash, mask = text.partition("/")
    return number_of(value, most, what), number_of(mask, most, what) if slash else most


def protocol_number(text: str) -> int:
    """Parse a protocol's name or number; 0 for "all". Raises InvalidOperation."""
    if text.lower() in _PROTOCOLS:
        return _PROTOCOLS[text.lower()]
    try:
        return number_of(text, 255, "a protocol")
    except InvalidOperation:
        raise InvalidOperation(f"{shown(text)}: no such protocol; tcp, udp, sctp or a number") from None


def network(text: str) -> Network:
    """Parse an address or prefix; bits beyond the prefix are dropped. Raises InvalidOperation."""
    try:
        return ip_network(text, strict=False)
    except ValueError:
        raise InvalidOperation(f"{shown(text)}: not an address, and not a prefix such as 192.0.2.0/24") from None


def port_ranges(text: str, protocol: int) -> Ranges:
    """Parse `80,https,8000-8010` into the fewest ranges, in order. Raises InvalidOperation."""
    return joined(_port_range(part, protocol) for part in text.split(","))


def _port_range(part: str, protocol: int) -> tuple[int, int]:
    first, dash, last = part.partition("-")
    if dash and re.fullmatch(r"\d+-\d+", part):
        found = number_of(first, 65535, "a port"), number_of(last, 65535, "a port")
        if found[0] > found[1]:
            raise InvalidOperation(f"{part}: this range of ports ends before it begins")
        return found
    if part.isdigit():
        return (number_of(part, 65535, "a port"),) * 2
    try:
        return (socket.getservbyname(part, PROTOCOL_NAMES.get(protocol, "tcp")),) * 2
    except (OSError, ValueError):  # ValueError: for example a zero byte in the name
        raise InvalidOperation(f"{shown(part)}: not a port, and not a range such as 8000-8010") from None


def link_address(text: str) -> bytes:
    """Parse six bytes from `02:00:00:00:00:01`. Raises InvalidOperation."""
    if not re.fullmatch(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}", text):
        raise InvalidOperation(f"{shown(text)}: not a link address such as 02:00:00:00:00:01")
    return bytes.fromhex(text.replace(":", ""))


def rule_of(
    mark: str,
    *,
    proto: str = "",
    src: str = "",
    dst: str = "",
    sports: str = "",
    dports: str = "",
    device: str = "",
    mac: str = "",
    tcp_flags: str = "",
    tos: str = "",
    if_mark: str = "",
    final: bool = False,
) -> MarkRule:
    """Build a rule from the options of `pylvs mark add`; a leading `!` inverts a condition.

    Raises InvalidOperation, which names the option.
    """
    turned = Not(0)

    def read(option: str, text: str, bit: Not, parse: Callable[[str], Value], missing: Value) -> Value:
        nonlocal turned
        if not text:
            return missing
        if text.startswith("!"):
            turned |= bit
        try:
            return parse(text.removeprefix("!").strip())
        except InvalidOperation as error:
            raise InvalidOperation(f"--{option} {error}") from None

    def pair(most: int, what: str) -> Callable[[str], tuple[int, int] | None]:
        def parse(text: str) -> tuple[int, int]:
            value, mask = masked(text, most, what)
            return value & mask, mask

        return parse

    value, mask = masked(mark, ALL_BITS, "a mark")
    protocol = read("proto", proto, Not.PROTOCOL, protocol_number, 0)
    any_network: Network | None = None
    return MarkRule(
        mask=mask,
        value=value,
        protocol=protocol,
        source=read("src", src, Not.SOURCE, network, any_network),
        target=read("dst", dst, Not.TARGET, network, any_network),
        source_ports=read("sports", sports, Not.SOURCE_PORTS, lambda text: port_ranges(text, protocol), ()),
        target_ports=read("dports", dports, Not.TARGET_PORTS, lambda text: port_ranges(text, protocol), ()),
        device=read("in", device, Not.DEVICE, checked_device, ""),
        link=read("mac", mac, Not.LINK, link_address, b""),
        tcp_flags=read("tcp-flags", tcp_flags, Not.TCP_FLAGS, pair(0xFF, "a set of TCP flags"), None),
        tos=read("tos", tos, Not.TOS, pair(0xFF, "a type of service"), None),
        mark=read("if-mark", if_mark, Not.MARK, pair(ALL_BITS, "a mark"), None),
        turned=turned,
        then_skip=TO_THE_END if final else 0,
    )


def network_text(found: Network) -> str:
    """Write an address, or a prefix."""
    return str(found.network_address if found.prefixlen == found.max_prefixlen else found)


def ports_text(ranges: Ranges) -> str:
    """Write ports as `80,443,8000-8010`."""
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def mark_text(value: int, mask: int) -> str:
    """Write `5`, or `0x5/0xff` where not all bits are set."""
    return str(value) if mask == ALL_BITS else f"{value:#x}/{mask:#x}"


def conditions(rule: MarkRule) -> dict[str, str]:
    """Return a rule's conditions by the option's name without its dashes; a `!` inverts one."""
    turned = rule.turned
    found: list[tuple[str, Not, Any, str]] = [
        ("proto", Not.PROTOCOL, rule.protocol, PROTOCOL_NAMES.get(rule.protocol, str(rule.protocol))),
        ("src", Not.SOURCE, rule.source is not None, network_text(rule.source) if rule.source else ""),
        ("sports", Not.SOURCE_PORTS, rule.source_ports, ports_text(rule.source_ports)),
        ("dst", Not.TARGET, rule.target is not None, network_text(rule.target) if rule.target else ""),
        ("dports", Not.TARGET_PORTS, rule.target_ports, ports_text(rule.target_ports)),
        ("in", Not.DEVICE, rule.device, rule.device),
        ("mac", Not.LINK, rule.link, rule.link.hex(":")),
        ("tcp-flags", Not.TCP_FLAGS, rule.tcp_flags, _pair_text(rule.tcp_flags)),
        ("tos", Not.TOS, rule.tos, _pair_text(rule.tos)),
        ("if-mark", Not.MARK, rule.mark, _pair_text(rule.mark)),
    ]
    return {name: f"{'!' if bit in turned else ''}{text}" for name, bit, there, text in found if there}


def _pair_text(pair: tuple[int, int] | None) -> str:
    return f"{pair[0]:#x}/{pair[1]:#x}" if pair else ""


def rule_text(rule: MarkRule, number: int) -> str:
    """Write the rule of this number as options of `pylvs mark add`, with its jumps in brackets."""
    words = [word for name, text in conditions(rule).items() for word in (f"--{name}", text)]
    if not (rule.source or rule.target) and rule.family:
        words += ["--dst", "0.0.0.0/0" if rule.family == 4 else "::/0"]
    if rule.then_skip >= TO_THE_END and not rule.changes_nothing:
        words.append("--final")
    if not rule.changes_nothing:
        words.append(mark_text(rule.value, rule.mask))
    text = shlex.join(words)
    if rule.then_skip and (rule.then_skip < TO_THE_END or rule.changes_nothing):
        text += f"  [then {_jump_text(rule.then_skip, number)}]"
    if rule.else_skip:
        text += f"  [else {_jump_text(rule.else_skip, number)}]"
    return text.strip()


def _jump_text(skip: int, number: int) -> str:
    return "no other" if skip >= TO_THE_END else f"continue with {number + 1 + skip}"
