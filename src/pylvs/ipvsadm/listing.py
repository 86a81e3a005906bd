"""What ipvsadm prints of the table: the listings of `-L`, with a class for each view, and the rules of `-S`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet
from functools import cmp_to_key, lru_cache
from ipaddress import IPv4Address
from operator import itemgetter

from pylvs.ipvsadm.options import Given, flag_words, service_option
from pylvs.ipvsadm.parsing import Names, as_int
from pylvs.model import sockets as socket
from pylvs.model.addresses import Address
from pylvs.model.rows import DestinationRow, ServiceRow, in_order
from pylvs.model.service import (
    NETMASK_V4_ALL,
    NETMASK_V6_ALL,
    PROTOCOL_TEMPLATE,
    Destination,
    Method,
    Protocol,
    ServiceFlag,
    TunnelFlag,
    TunnelKind,
    VirtualService,
)

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from typing import TypeVar

    from pylvs.model.director import Connection

    Row = TypeVar("Row")

REMEMBERED = 4096  # names to cache during a listing
LONGEST = 59  # characters of host:port
LONGEST_V4_LISTED = 28  # characters of an IPv4 host:port in a listing
IPVS_VERSION = "1.2.1"
METHODS = {Method.ROUTE: "Route", Method.TUNNEL: "Tunnel", Method.MASQ: "Masq", Method.LOCAL: "Local"}
SERVER_TITLE = "  -> RemoteAddress:Port"
SCHEDULER_TITLE = f"Prot LocalAddress:Port Scheduler Flags\n{SERVER_TITLE}           Forward"
WIDTH = 9  # columns of a counter; larger ones are cut, not rounded, to K, M, G or T
CUTS = (  # below the first number: divided by the second, with the letter
    (10**8, 1, ""),
    (10**9, 10**3, "K"),
    (10**11, 10**6, "M"),
    (10**14, 10**9, "G"),
)
HALF_THE_SPACE = 1 << 31
CONNECTIONS_TITLE = "pro expire state       source             virtual            destination"
ENGINE_TITLE = "        pe name          pe_data"
WRITTEN_AGAIN = 4096  # texts of virtual services and real servers to cache: many connections share them
METHOD_OPTIONS = {Method.ROUTE: "-g", Method.TUNNEL: "-i", Method.MASQ: "-m", Method.LOCAL: "-g"}
PROTOCOLS = {int(protocol): protocol.name for protocol in Protocol} | {PROTOCOL_TEMPLATE: "IP"}

Writer = Callable[[Address, int, int], str]  # address, port, protocol (0: without port names)
Key = tuple[int, ...]
NumberWriter = Callable[[int], str]


# Endpoints as text.


def address_text(address: Address) -> str:
    """Write an address as inet_ntop(3) does: unlike Python, with dotted quads in mapped addresses."""
    return str(address) if isinstance(address, IPv4Address) else socket.inet_ntop(socket.AF_INET6, address.packed)


def numeric(address: Address, port: int, _: int = 0) -> str:
    """Write an endpoint as `192.0.2.1:80` or `[2001:db8::1]:80`."""
    return f"{address!s}:{port}" if isinstance(address, IPv4Address) else f"[{address_text(address)}]:{port}"


def with_names(names: Names) -> Writer:
    """Return a writer that uses names where there are any, and cuts long texts."""
    host_of, service_of = lru_cache(REMEMBERED)(names.host), lru_cache(REMEMBERED)(names.service)

    def write(address: Address, port: int, protocol: int) -> str:
        host = host_of(address) or address_text(address)
        service = service_of(port, protocol) or str(port)
        return (f"{host}:{service}" if isinstance(address, IPv4Address) else f"[{host}]:{service}")[:LONGEST]

    return write


def listed(writer: Writer) -> Writer:
    """Return a writer for the columns of a listing."""

    def write(address: Address, port: int, protocol: int) -> str:
        text = writer(address, port, protocol)
        return text[:LONGEST_V4_LISTED] if isinstance(address, IPv4Address) else text

    return write


def mark_text(mark: int) -> str:
    """Write a firewall mark as ipvsadm does: as a signed number, although it reads an unsigned one."""
    return str(mark - (1 << 32) if mark >= 1 << 31 else mark)


def mask_text(netmask: int, family: int) -> str:
    """Write a persistence mask: an IPv4 mask, or an IPv6 prefix length."""
    return str(IPv4Address(netmask)) if family == socket.AF_INET else str(netmask)


# Listings.


def cut(number: int) -> str:
    """Write a counter with at most nine characters."""
    for limit, divisor, letter in CUTS:
        if number < limit:
            return f"{number // divisor:>{WIDTH - len(letter)}}{letter}"
    return f"{number // 10**12:>{WIDTH - 1}}T"


def whole(number: int) -> str:
    """Write a counter with all digits, after a blank."""
    return f" {number:>{WIDTH - 1}}"


def low(number: int) -> int:
    """Return the low 32 bits, which ipvsadm shows of most counters of a destination."""
    return number & 0xFFFFFFFF


def sorted_services(rows: Iterable[ServiceRow]) -> list[ServiceRow]:
    """Sort by mark, family, protocol, address, port."""
    return _sorted(rows, _service_key)


def sorted_destinations(rows: Iterable[DestinationRow]) -> list[DestinationRow]:
    """Sort by address, port. An IPv4 address compares with the first 32 bits of an IPv6 one."""
    return _sorted(rows, _destination_key)


def _service_key(row: ServiceRow) -> Key:
    key = row.service.key
    return (key.mark, key.family, key.protocol, *_words(key.address), key.port)


def _destination_key(row: DestinationRow) -> Key:
    key = row.destination.key
    return (*_words(key.address), key.port)


def _words(address: Address) -> Key:
    number = int(address)
    if isinstance(address, IPv4Address):
        return number, 0, 0, 0
    return number >> 96, number >> 64 & 0xFFFFFFFF, number >> 32 & 0xFFFFFFFF, number & 0xFFFFFFFF


def _sorted(rows: Iterable[Row], key_of: Callable[[Row], Key]) -> list[Row]:
    """Sort as ipvsadm, which compares differences as signed 32-bit numbers.

    So numbers that differ by 2^31 or more sort in reverse order, and three of them may have no consistent order.
    """
    keyed = [(key_of(row), row) for row in rows]
    if all(max(column) - min(column) < HALF_THE_SPACE for column in zip(*(key for key, _ in keyed), strict=True)):
        keyed.sort(key=itemgetter(0))
    else:
        by_difference = cmp_to_key(_compare)
        keyed.sort(key=lambda pair: by_difference(pair[0]))
    return [row for _, row in keyed]


def _compare(one: Key, other: Key) -> int:
    for left, right in zip(one, other, strict=True):
        if left != right:
            return as_int(left - right)
    return 0


def version_line(table_size: int) -> str:
    """Return the first line of a listing of all services."""
    return f"IP Virtual Server version {IPVS_VERSION} (size={table_size})\n"


Columns = tuple[str, Callable[[DestinationRow], str]]

# Views of connections: their titles, and the columns between a destination's name and its connections.
DEFAULT_VIEW: Columns = (
    f"{SCHEDULER_TITLE} Weight ActiveConn InActConn\n",
    lambda row: f" {METHODS[row.destination.method]:<7} {row.destination.weight:<6}",
)
VIEWS: dict[str, Columns] = {
    Given.THRESHOLDS: (
        f"Prot LocalAddress:Port            Uthreshold Lthreshold ActiveConn InActConn \n{SERVER_TITLE}\n",
        lambda row: f" {row.destination.upper:<10} {row.destination.lower:<10}",
    ),
    Given.PERSISTENT_CONN: (
        f"Prot LocalAddress:Port            Weight    PersistConn ActiveConn InActConn \n{SERVER_TITLE}\n",
        lambda row: f" {row.destination.weight:<9} {row.persistent:<11}",
    ),
    Given.TUN_INFO: (
        f"{SCHEDULER_TITLE} TunnelInfo    Weight ActiveConn InActConn\n",
        lambda row: (
            f" {METHODS[row.destination.method]:<7} {tunnel_info(row.destination):<13} {row.destination.weight:<6}"
        ),
    ),
}


class View:
    """A view of connections: its titles, and the columns after the names."""

    def __init__(self, title: str, columns: Callable[[DestinationRow], str]) -> None:
        self.title = title
        self._columns = columns

    def of_service(self, row: ServiceRow) -> str:
        """Return the columns after the name of a service."""
        return f" {scheduling(row.service)}"

    def of_destination(self, row: DestinationRow) -> str:
        """Return the columns after the name of a destination."""
        return f"{self._columns(row)} {row.active:<10} {row.inactive:<10}"


class CounterView(View):
    """`--stats`."""

    title = f"Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes\n{SERVER_TITLE}\n"

    def __init__(self, exact: bool) -> None:
        self._write: NumberWriter = whole if exact else cut

    def of_service(self, row: ServiceRow) -> str:
        return "".join(map(self._write, in_order(row.counters)))

    def of_destination(self, row: DestinationRow) -> str:
        """Show the low 32 bits of all but bytes."""
        connections, in_packets, out_packets, in_bytes, out_bytes = in_order(row.counters)
        shown = (low(connections), low(in_packets), low(out_packets), in_bytes, out_bytes)
        return "".join(map(self._write, shown))


class RateView(CounterView):
    """`--rate`."""

    title = f"Prot LocalAddress:Port                 CPS    InPPS   OutPPS    InBPS   OutBPS\n{SERVER_TITLE}\n"

    def of_service(self, row: ServiceRow) -> str:
        return "".join(map(self._write, in_order(row.rates)))

    def of_destination(self, row: DestinationRow) -> str:
        """Show low 32 bits; only rates of bytes are cut."""
        *events, in_bytes, out_bytes = map(low, in_order(row.rates))
        return "".join([*map(whole, events), self._write(in_bytes), self._write(out_bytes)])


def view_of(given: AbstractSet[str]) -> View:
    """Return the view for the options; of several, the first in this order."""
    if Given.STATS in given:
        return CounterView(Given.EXACT in given)
    if Given.RATE in given:
        return RateView(Given.EXACT in given)
    return View(*next((view for option, view in VIEWS.items() if option in given), DEFAULT_VIEW))


def table(rows: Iterable[ServiceRow], view: View, writer: Writer, *, unsorted: bool) -> Iterator[str]:
    """Yield the lines of a listing, its title first."""
    write = listed(writer)
    yield view.title
    for row in rows if unsorted else sorted_services(rows):
        key = row.service.key
        protocol = 0 if key.mark else int(key.protocol)
        if key.mark:
            name, kind = mark_text(key.mark) + ("" if key.address.version == 4 else " IPv6"), "FWM"
        else:
            name, kind = write(key.address, key.port, protocol), key.protocol.name
        if isinstance(view, CounterView):
            name = f"{name:<28}"
        yield f"{kind:<4} {name}{view.of_service(row)}\n"
        for server in row.destinations if unsorted else sorted_destinations(row.destinations):
            where = server.destination.key
            yield f"  -> {write(where.address, where.port, protocol):<28}{view.of_destination(server)}\n"


def scheduling(service: VirtualService) -> str:
    """Return a service's scheduling: `rr`, `sh (sh-port) persistent 60 mask 255.255.255.0 pe sip ops`."""
    words = [service.scheduler]
    flags = flag_words(service)
    if flags is not None:
        words.append(f"({flags})")
    if ServiceFlag.PERSISTENT in service.flags:
        words.append(f"persistent {service.timeout_s}")
        if masked(service):
            words.append(f"mask {mask_text(service.mask, service.key.family)}")
        if service.engine:
            words.append(f"pe {service.engine}")
    if ServiceFlag.ONE_PACKET in service.flags:
        words.append("ops")
    if service.mss_clamp:
        words.append(f"mss-clamp {service.mss_clamp}")
    return " ".join(words)


def masked(service: VirtualService) -> bool:
    """Return whether persistence uses only a part of the client's address."""
    return service.mask != (NETMASK_V4_ALL if service.key.address.version == 4 else NETMASK_V6_ALL)


def tunnel_info(server: Destination) -> str:
    """Return a tunnel as `ipip`, `gue:6080:+c`, `gre:-c`; `n/a` for the other methods."""
    tunnel = server.tunnel
    if server.method is not Method.TUNNEL:
        return "n/a"
    if tunnel.kind is TunnelKind.IPIP:
        return "ipip"
    checksum = "r+c" if TunnelFlag.REMCSUM in tunnel.flags else "+c" if TunnelFlag.CSUM in tunnel.flags else "-c"
    return f"gue:{tunnel.port}:{checksum}" if tunnel.kind is TunnelKind.GUE else f"gre:{checksum}"


def connection_lines(connections: Iterable[Connection], write: Writer, *, engines: bool) -> Iterator[str]:
    """Yield the lines of `-Lc` one by one: the whole table would take too much memory.

    `engines` adds the data of persistence engines (`--persistent-conn`).
    """
    yield "IPVS connection entries\n"
    yield CONNECTIONS_TITLE + (ENGINE_TITLE if engines else "") + "\n"
    again = lru_cache(WRITTEN_AGAIN)(write)
    for connection in connections:
        protocol, state, expires_s, client, client_port, virtual, virtual_port, server, server_port, engine, data = (
            connection
        )
        minutes, seconds = divmod(expires_s, 60)
        destination = again(server, server_port, protocol)
        line = (
            f"{PROTOCOLS.get(protocol, protocol):<3} {f'{minutes:02d}:{seconds:02d}':<6} {state:<11} "
            f"{write(client, client_port, protocol):<18} {again(virtual, virtual_port, protocol):<18} {destination}"
        )
        if engines and engine:
            # The widths are not those of the title: ipvsadm 1.31 swaps them. The Call-ID leaves with its own bytes.
            width = len(line) - len(destination) + 16
            line = f"{line:<{width}} {engine:<18} {os.fsdecode(data.encode('latin-1'))}"
        yield line + "\n"


# Rules, as in ipvsadm without thresholds.


def rule_lines(rows: Iterable[ServiceRow], write: Writer) -> Iterator[str]:
    """Yield a line for each service and each destination."""
    for row in sorted_services(rows):
        service = row.service
        protocol = 0 if service.key.mark else int(service.key.protocol)
        name = service_option(service.key, _of_protocol(write, protocol))
        yield f"-A {name} {_service_options(service)}\n"
        for server in sorted_destinations(row.destinations):
            where = server.destination.key
            address = write(where.address, where.port, protocol)
            yield f"-a {name} -r {address} {_destination_options(server.destination)}\n"


def _of_protocol(write: Writer, protocol: int) -> Callable[[Address, int], str]:
    return lambda address, port: write(address, port, protocol)


def _service_options(service: VirtualService) -> str:
    words = [f"-s {service.scheduler}"]
    if ServiceFlag.PERSISTENT in service.flags:
        words.append(f"-p {service.timeout_s}")
        if masked(service):
            words.append(f"-M {mask_text(service.mask, service.key.family)}")
    if service.engine:
        words.append(f"--pe {service.engine}")
    if ServiceFlag.ONE_PACKET in service.flags:
        words.append("-o")
    flags = flag_words(service)
    if flags is not None:
        words.append(f"-b {flags}")
    if service.mss_clamp:
        words.append(f"--mss-clamp {service.mss_clamp}")
    return " ".join(words)


def _destination_options(server: Destination) -> str:
    words = [METHOD_OPTIONS[server.method], f"-w {server.weight}"]
    tunnel = server.tunnel
    if server.method is Method.TUNNEL:
        words.append(f"--tun-type {tunnel.kind.name.lower()}")
        if tunnel.kind is TunnelKind.GUE:
            words.append(f"--tun-port {tunnel.port}")
        if tunnel.kind is not TunnelKind.IPIP:
            words.append(_checksum_option(tunnel.flags))
    return " ".join(words)


def _checksum_option(flags: TunnelFlag) -> str:
    if TunnelFlag.REMCSUM in flags:
        return "--tun-remcsum"
    return "--tun-csum" if TunnelFlag.CSUM in flags else "--tun-nocsum"
