"""Parse a command line into a checked request, in ipvsadm's order of checks: the first error ends it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv6Address

from pylvs.ipvsadm.options import (
    HINT,
    Command,
    OptionError,
    Words,
    check_command,
    check_listing,
    check_tunnel,
    read_flags,
    try_help,
)
from pylvs.model import sockets as socket
from pylvs.model.addresses import ANY_V4, Address, family_of
from pylvs.model.dataclass import dataclass, field
from pylvs.model.service import (
    DEFAULT_SCHEDULER,
    LONGEST_S,
    MAX_MSS,
    MAX_PREFIX,
    MAX_THRESHOLD,
    MAX_WEIGHT,
    MIN_MSS,
    NAME_LENGTH,
    NETMASK_V4_ALL,
    NETMASK_V6_ALL,
    Destination,
    DestinationKey,
    Method,
    Protocol,
    ServiceFlag,
    ServiceKey,
    Tunnel,
    TunnelFlag,
    TunnelKind,
    VirtualService,
)

TRANSPORTS = {socket.IPPROTO_TCP: "tcp", socket.IPPROTO_UDP: "udp", socket.IPPROTO_SCTP: "sctp"}
TIMEOUTS_TO_SET = 3
DEFAULT_PERSISTENCE_S = 360
DEVICE_NAME_LENGTH = 15
MAX_MARK = 0xFFFFFFFF
MAX_PORT = 65535
MAX_SYNC_ID = 255
MAX_SYNC_MESSAGE = 65507  # bytes that fit a UDP datagram
MAX_TTL = 255
LONG_DIGITS = 19  # numbers with more significant digits exceed a C long
LONG_MIN, LONG_MAX = -(1 << 63), (1 << 63) - 1
_BLANKS, _DIGITS = " \t\n\v\f\r", "0123456789"
TUNNEL_KINDS = {kind.name.lower(): kind for kind in TunnelKind}
DAEMON_STATES = ("master", "backup")
NO_TUNNEL = Tunnel()
WHOLE_ADDRESS = -1  # the netmask where none is given


class Names:
    """Names of the C library: /etc/hosts, /etc/services, DNS, as nsswitch.conf configures. None where there is none.

    Protocols are IP protocol numbers.
    """

    def __init__(self) -> None:
        self._found: dict[str, IPv4Address | None] = {}  # a saved table repeats names on many lines

    def address(self, host: str) -> IPv4Address | None:
        """Look up the IPv4 address of a host name: of several, the first that the C library's gethostbyname(3) returns.

        Python's gethostbyname() would sort them as RFC 6724 does.
        """
        if host not in self._found:
            self._found[host] = self._look_up(host)
        return self._found[host]

    def _look_up(self, host: str) -> IPv4Address | None:
        if not host or host.startswith("<"):  # Python gives "" and "<broadcast>" meanings of its own
            return None
        try:
            name = os.fsencode(host)  # as /etc/hosts has it: of a str Python would make IDNA
            return IPv4Address(socket.gethostbyname_ex(name)[2][0])  # type: ignore[arg-type]  # typeshed lacks bytes
        except (OSError, ValueError):
            return None

    def port(self, service: str, protocol: int) -> int | None:
        """Look up the port of a service name."""
        try:
            return socket.getservbyname(service, TRANSPORTS[protocol])
        except (OSError, ValueError, KeyError):
            return None

    def host(self, address: Address) -> str | None:
        """Look up the host name of an address."""
        try:
            return socket.gethostbyaddr(str(address))[0]
        except (OSError, ValueError):
            return None

    def service(self, port: int, protocol: int) -> str | None:
        """Look up the service name of a port."""
        try:
            return socket.getservbyport(port, TRANSPORTS[protocol])
        except (OSError, ValueError, KeyError):
            return None


@dataclass(slots=True)
class Request:
    """A command with its options, filled while the command line is parsed."""

    command: str
    given: set[str] = field(default_factory=set)

    protocol: int = 0
    address: Address = ANY_V4
    port: int = 0
    mark: int = 0
    family: int = socket.AF_INET
    scheduler: str = ""
    flags: ServiceFlag = ServiceFlag(0)
    flag_words: str = ""  # of -b; read later, because the scheduler gives their meaning
    timeout_s: int = 0
    netmask: int = WHOLE_ADDRESS
    engine: str = ""
    mss_clamp: int = 0

    server: Address = ANY_V4
    server_port: int = 0
    method: Method = Method.ROUTE
    weight: int = 1
    upper: int = 0
    lower: int = 0
    tunnel_kind: TunnelKind = TunnelKind.IPIP
    tunnel_port: int = 0
    tunnel_flags: TunnelFlag = TunnelFlag(0)

    timeouts_s: tuple[int, ...] = ()  # of --set; 0 keeps the present value
    role: str = ""  # of a sync daemon: master or backup
    interface: str = ""  # its parameters
    syncid: int = 0
    maxlen: int = 0  # 0: as the MTU does
    group: Address | None = None
    mcast_port: int = 0  # 0: the default
    mcast_ttl: int = 0

    def service_key(self) -> ServiceKey:
        """Return the key of the command's service."""
        if self.mark:
            return ServiceKey.of_mark(self.mark, self.family)
        return ServiceKey(Protocol(self.protocol), self.address, self.port)

    def service(self) -> VirtualService:
        """Return the desired service."""
        whole = NETMASK_V4_ALL if self.family == socket.AF_INET else NETMASK_V6_ALL
        return VirtualService(
            self.service_key(),
            self.scheduler or DEFAULT_SCHEDULER,
            self.flags,
            self.timeout_s,
            WHOLE_ADDRESS if self.netmask == whole else self.netmask,
            self.engine,
            self.mss_clamp,
        )

    def destination_key(self) -> DestinationKey:
        """Return the key of the command's destination."""
        return DestinationKey(self.server, self.server_port)

    def destination(self) -> Destination:
        """Return the desired destination."""
        tunnel = NO_TUNNEL
        if self.method is Method.TUNNEL:
            tunnel = Tunnel(self.tunnel_kind, self.tunnel_port, self.tunnel_flags)
        return Destination(self.destination_key(), self.method, self.weight, self.upper, self.lower, tunnel)


def parse(words: Sequence[str], names: Names) -> Request:
    """Parse a command line without the program's name. Raises `OptionError`."""
    if not words or (words[0] == HINT and all(word == HINT for word in words)):
        return Request(Command.LIST)
    reader = Words(words)
    request = _command(reader, names)
    if request.command in (Command.HELP, Command.VERSION):
        return request
    _read_options(reader, request, names)
    _read_words_aside(reader, request)
    if request.flag_words:
        request.flags |= read_flags(request.flag_words, request.scheduler)
    _check(request)
    return request


def _command(reader: Words, names: Names) -> Request:
    try:
        option, value = next(each for each in reader if each[0].long != HINT[2:])
    except (OptionError, StopIteration):
        raise try_help() from None
    if option.command is None:
        raise try_help()
    request = Request(option.command)
    _set(request, option.long, value, names)
    return request


def _set(request: Request, option: str, value: str | None, names: Names) -> None:
    setter = SETTERS.get(option)
    if setter:
        setter(request, value, names)


def _read_options(reader: Words, request: Request, names: Names) -> None:
    for option, value in reader:
        if option.command is not None:
            raise OptionError(f"invalid option `{reader.latest}'")
        if option.given in request.given:
            raise OptionError(f"multiple '{option.given}' options specified")
        if option.given:
            request.given.add(option.given)
        _set(request, option.long, value, names)


def _read_words_aside(reader: Words, request: Request) -> None:
    aside = reader.aside
    if request.command is Command.SET:
        if len(aside) < TIMEOUTS_TO_SET:
            raise OptionError("--set option requires 3 timeout values")
        request.timeouts_s = tuple(checked_timeout(word, 0) for word in aside[:TIMEOUTS_TO_SET])
        aside = aside[TIMEOUTS_TO_SET:]
    if aside:
        raise OptionError(f"unexpected argument {aside[0]}")


def _check(request: Request) -> None:
    command, given = request.command, request.given
    check_command(command, given)
    if command in (Command.ADD_SERVICE, Command.EDIT_SERVICE):
        if not request.mark and not request.port and ServiceFlag.PERSISTENT not in request.flags:
            raise OptionError("Zero port specified for non-persistent service")
        if ServiceFlag.ONE_PACKET in request.flags and not request.mark and request.protocol != socket.IPPROTO_UDP:
            raise OptionError("One-Packet Scheduling is only for UDP virtual services")
    if command in (Command.ADD_SERVER, Command.EDIT_SERVER):
        if not request.mark and request.method is not Method.MASQ:
            request.server_port = request.port  # direct routing and tunnels do not change the port
        if family_of(request.server) != request.family and request.method is not Method.TUNNEL:
            raise OptionError("Different address family is allowed only for tunneling servers")
        check_tunnel(request.method, request.tunnel_kind, given)
    if command is Command.LIST:
        check_listing(given)


# Values of options; the functions return None for an invalid one.


def whole_number(text: str, lowest: int, highest: int) -> int | None:
    """Parse a decimal number as strtol(3) does, without a suffix and within the bounds."""
    if text.isdecimal() and text.isascii() and len(text) < LONG_DIGITS:
        number = int(text)  # the common case, faster
    else:
        _, digits, behind = _parts(text)
        if not digits or behind:
            return None
        number = leading_number(text)
    return number if lowest <= number <= highest else None


def leading_number(text: str) -> int:
    """Parse the number at the start of a text as strtol(3) does; 0 if there is none."""
    sign, digits, _ = _parts(text)
    digits = digits.lstrip("0")
    if len(digits) > LONG_DIGITS:
        return LONG_MIN if sign == "-" else LONG_MAX
    number = int(digits or "0")
    return max(-number, LONG_MIN) if sign == "-" else min(number, LONG_MAX)


def _parts(text: str) -> tuple[str, str, str]:
    """Split a text into sign, digits and rest."""
    text = text.lstrip(_BLANKS)
    sign = text[:1] if text.startswith(("+", "-")) else ""
    behind = text[len(sign) :].lstrip(_DIGITS)
    return sign, text[len(sign) : len(text) - len(behind)], behind


def as_int(number: int) -> int:
    """Convert a number to a C int: its low 32 bits, signed."""
    return ((number + (1 << 31)) & 0xFFFFFFFF) - (1 << 31)


def endpoint(text: str, protocol: int, names: Names) -> tuple[Address, int | None] | None:
    """Parse `host`, `host:port`, `[IPv6]:port` or a bare IPv6 address; port names are those of the protocol.

    A missing port is None. As in ipvsadm, brackets need a colon after them, and the port after a bracketed IPv4 host is
    ignored.
    """
    if not text.strip("0123456789"):
        return None  # inet_aton(3) would read a number as an address
    port_text: str | None = None
    if text.startswith("["):
        text, bracket, behind = text[1:].partition("]")
        if not bracket or not behind.startswith(":"):
            return None
        port_text = behind[1:]
    address = presented(text, socket.AF_INET6) if text.count(":") > 1 else None
    if address is None:
        host, colon, after = text.rpartition(":")
        port_text = after if colon else None
        address = ipv4(host if colon else text, names)
        if address is None:
            return None
    if port_text is None:
        return address, None
    port = whole_number(port_text, 0, MAX_PORT)
    if port is None:
        port = names.port(port_text, protocol)
    return None if port is None else (address, port)


def ipv4(text: str, names: Names) -> IPv4Address | None:
    """Parse an IPv4 address in any form of inet_aton(3), or look up a host name."""
    try:
        return IPv4Address(socket.inet_aton(text))
    except (OSError, ValueError):
        return names.address(text)


def presented(text: str, family: int) -> Address | None:
    """Parse an address as inet_pton(3) does: an IPv6 address without a zone, or four decimal numbers."""
    try:
        raw = socket.inet_pton(family, text)
    except (OSError, ValueError):
        return None
    return IPv4Address(raw) if family == socket.AF_INET else IPv6Address(raw)


# What each option sets.

Setter = Callable[[Request, str | None, Names], None]


def checked_timeout(text: str, lowest_s: int) -> int:
    """Parse a number of seconds. Raises `OptionError`."""
    seconds = whole_number(text, lowest_s, LONGEST_S)
    if seconds is None:
        raise OptionError(f"invalid timeout value `{text}' specified")
    return seconds


def _constant(attribute: str, constant: object) -> Setter:
    return lambda request, _, __: setattr(request, attribute, constant)


def _flag(attribute: str, flag: ServiceFlag | TunnelFlag) -> Setter:
    return lambda request, _, __: setattr(request, attribute, getattr(request, attribute) | flag)


def _text(attribute: str, length: int | None = None) -> Setter:
    return lambda request, value, _: setattr(request, attribute, (value or "")[:length])


def _number(attribute: str, lowest: int, highest: int, name: str) -> Setter:
    """Return a setter of a number."""

    def set_number(request: Request, value: str | None, _: Names) -> None:
        number = whole_number(value or "", lowest, highest)
        if number is None:
            raise OptionError(f"illegal {name} specified")
        setattr(request, attribute, number)

    return set_number


def _service_of(protocol: int) -> Setter:
    def set_service(request: Request, value: str | None, names: Names) -> None:
        found = endpoint(value or "", protocol, names)
        if found is None:
            raise OptionError("illegal virtual server address[:port] specified")
        request.address, port = found
        request.protocol = protocol
        request.port = port or 0
        request.family = family_of(request.address)
        if request.family == socket.AF_INET6:
            request.netmask = WHOLE_ADDRESS

    return set_service


def _set_mark(request: Request, value: str | None, _: Names) -> None:
    mark = whole_number(value or "", 1, MAX_MARK)
    if mark is None:
        raise OptionError(f"invalid fwmark value `{value}' specified")
    request.mark = mark
    request.protocol = socket.IPPROTO_TCP


def _set_ipv6(request: Request, _: str | None, __: Names) -> None:
    if not request.mark:
        raise OptionError("-6 used before -f\n")
    request.family = socket.AF_INET6
    request.netmask = WHOLE_ADDRESS


def _set_persistent(request: Request, value: str | None, _: Names) -> None:
    request.flags |= ServiceFlag.PERSISTENT
    request.timeout_s = DEFAULT_PERSISTENCE_S if value is None else checked_timeout(value, 1)


def _set_netmask(request: Request, value: str | None, names: Names) -> None:
    if request.family == socket.AF_INET6:
        request.netmask = as_int(leading_number(value or ""))
        if not 1 <= request.netmask <= MAX_PREFIX:
            raise OptionError("illegal ipv6 netmask specified")
        return
    mask = ipv4(value or "", names)
    if mask is None:
        raise OptionError("illegal virtual server persistent mask specified")
    request.netmask = int(mask)


def _set_server(request: Request, value: str | None, names: Names) -> None:
    found = endpoint(value or "", request.protocol, names)
    if found is None:
        raise OptionError("illegal real server address[:port] specified")
    request.server, port = found
    request.server_port = request.port if port is None else port


def _set_tunnel_kind(request: Request, value: str | None, _: Names) -> None:
    if value not in TUNNEL_KINDS:
        raise OptionError("illegal tunnel type specified")
    request.tunnel_kind = TUNNEL_KINDS[value]


def _set_group(request: Request, value: str | None, __: Names) -> None:
    text = value or ""
    name, family = ("IPv6", socket.AF_INET6) if ":" in text else ("IPv4", socket.AF_INET)
    address = presented(text, family)
    if address is None or not address.is_multicast:
        raise OptionError(f"invalid {name} mcast-group `{text}'")
    request.group = address


def _daemon_state(error: str) -> Setter:
    def set_role(request: Request, value: str | None, _: Names) -> None:
        if value not in DAEMON_STATES:
            raise OptionError(error)
        request.role = value

    return set_role


SETTERS: dict[str, Setter] = {
    "start-daemon": _daemon_state("illegal start-daemon parameter specified"),
    "stop-daemon": _daemon_state("illegal start_daemon specified"),
    "tcp-service": _service_of(socket.IPPROTO_TCP),
    "udp-service": _service_of(socket.IPPROTO_UDP),
    "sctp-service": _service_of(socket.IPPROTO_SCTP),
    "fwmark-service": _set_mark,
    "ipv6": _set_ipv6,
    "scheduler": _text("scheduler", NAME_LENGTH),
    "pe": _text("engine"),
    "mss-clamp": _number("mss_clamp", MIN_MSS, MAX_MSS, f"MSS clamp (from {MIN_MSS} to {MAX_MSS})"),
    "persistent": _set_persistent,
    "netmask": _set_netmask,
    "ops": _flag("flags", ServiceFlag.ONE_PACKET),
    "sched-flags": _text("flag_words"),
    "real-server": _set_server,
    "gatewaying": _constant("method", Method.ROUTE),
    "ipip": _constant("method", Method.TUNNEL),
    "masquerading": _constant("method", Method.MASQ),
    "weight": _number("weight", 0, MAX_WEIGHT, "weight"),
    "u-threshold": _number("upper", 0, MAX_THRESHOLD, "u_threshold"),
    "l-threshold": _number("lower", 0, MAX_THRESHOLD, "l_threshold"),
    "tun-type": _set_tunnel_kind,
    "tun-port": _number("tunnel_port", 1, MAX_PORT, "tunnel port"),
    "tun-csum": _flag("tunnel_flags", TunnelFlag.CSUM),
    "tun-remcsum": _flag("tunnel_flags", TunnelFlag.REMCSUM),
    "mcast-interface": _text("interface", DEVICE_NAME_LENGTH),
    "mcast-group": _set_group,
    "mcast-port": _number("mcast_port", 1, MAX_PORT, "mcast-port"),
    "mcast-ttl": _number("mcast_ttl", 1, MAX_TTL, "mcast-ttl"),
    "syncid": _number("syncid", 0, MAX_SYNC_ID, "syncid"),
    "sync-maxlen": _number("maxlen", 1, MAX_SYNC_MESSAGE, "sync-maxlen"),
}
