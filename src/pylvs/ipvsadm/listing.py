"""The listings of `-L`: one view a class, with its title and its lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet

from pylvs.ipvsadm import endpoints, numbers, order
from pylvs.ipvsadm.flags import flag_words
from pylvs.ipvsadm.options import Given
from pylvs.model.destination import Destination, Method, TunnelFlag, TunnelKind
from pylvs.model.rows import DestinationRow, ServiceRow
from pylvs.model.service import NETMASK_V4_ALL, NETMASK_V6_ALL, ServiceFlag, VirtualService
from pylvs.model.statistics import Counters, Rates

IPVS_VERSION = "1.2.1"
METHODS = {Method.ROUTE: "Route", Method.TUNNEL: "Tunnel", Method.MASQ: "Masq", Method.LOCAL: "Local"}
SERVER_TITLE = "  -> RemoteAddress:Port"


def version_line(table_size: int) -> str:
    """The first line of a listing of everything."""
    return f"IP Virtual Server version {IPVS_VERSION} (size={table_size})\n"


class View:
    """The plain table. Other views replace the titles and what follows the address and port of a line."""

    title = f"Prot LocalAddress:Port Scheduler Flags\n{SERVER_TITLE}           Forward Weight ActiveConn InActConn\n"

    def of_service(self, row: ServiceRow) -> str:
        """What follows the name of a service."""
        return f" {scheduling(row.service)}"

    def of_destination(self, row: DestinationRow) -> str:
        """What follows the name of a destination."""
        server = row.destination
        return f" {METHODS[server.method]:<7} {server.weight:<6} {row.active:<10} {row.inactive:<10}"


class TunnelView(View):
    """`--tun-info`."""

    title = (
        "Prot LocalAddress:Port Scheduler Flags\n"
        f"{SERVER_TITLE}           Forward TunnelInfo    Weight ActiveConn InActConn\n"
    )

    def of_destination(self, row: DestinationRow) -> str:
        """What follows the name of a destination."""
        server = row.destination
        return (
            f" {METHODS[server.method]:<7} {tunnel_info(server):<13} {server.weight:<6}"
            f" {row.active:<10} {row.inactive:<10}"
        )


class ThresholdView(View):
    """`--thresholds`."""

    title = f"Prot LocalAddress:Port            Uthreshold Lthreshold ActiveConn InActConn \n{SERVER_TITLE}\n"

    def of_destination(self, row: DestinationRow) -> str:
        """What follows the name of a destination."""
        server = row.destination
        return f" {server.upper:<10} {server.lower:<10} {row.active:<10} {row.inactive:<10}"


class PersistenceView(View):
    """`--persistent-conn`."""

    title = f"Prot LocalAddress:Port            Weight    PersistConn ActiveConn InActConn \n{SERVER_TITLE}\n"

    def of_destination(self, row: DestinationRow) -> str:
        """What follows the name of a destination."""
        return f" {row.destination.weight:<9} {row.persistent:<11} {row.active:<10} {row.inactive:<10}"


class CounterView(View):
    """`--stats`."""

    title = f"Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes\n{SERVER_TITLE}\n"

    def __init__(self, exact: bool) -> None:
        self._write: numbers.NumberWriter = numbers.whole if exact else numbers.cut

    def of_service(self, row: ServiceRow) -> str:
        """What follows the name of a service."""
        return "".join(map(self._write, _in_order(row.counters)))

    def of_destination(self, row: DestinationRow) -> str:
        """What follows the name of a destination: the low 32 bits of all but bytes."""
        connections, in_packets, out_packets, in_bytes, out_bytes = _in_order(row.counters)
        shown = (numbers.low(connections), numbers.low(in_packets), numbers.low(out_packets), in_bytes, out_bytes)
        return "".join(map(self._write, shown))


class RateView(CounterView):
    """`--rate`."""

    title = f"Prot LocalAddress:Port                 CPS    InPPS   OutPPS    InBPS   OutBPS\n{SERVER_TITLE}\n"

    def of_service(self, row: ServiceRow) -> str:
        """What follows the name of a service."""
        return "".join(map(self._write, _in_order(row.rates)))

    def of_destination(self, row: DestinationRow) -> str:
        """What follows the name of a destination: low 32 bits; only rates of bytes are ever shortened."""
        *events, in_bytes, out_bytes = map(numbers.low, _in_order(row.rates))
        return "".join([*map(numbers.whole, events), self._write(in_bytes), self._write(out_bytes)])


def view_of(given: AbstractSet[str]) -> View:
    """The view that the options ask for; of several, the first in this order."""
    if Given.STATS in given:
        return CounterView(Given.EXACT in given)
    if Given.RATE in given:
        return RateView(Given.EXACT in given)
    if Given.THRESHOLDS in given:
        return ThresholdView()
    if Given.PERSISTENT_CONN in given:
        return PersistenceView()
    if Given.TUN_INFO in given:
        return TunnelView()
    return View()


def table(rows: Iterable[ServiceRow], view: View, writer: endpoints.Writer, *, unsorted: bool) -> Iterator[str]:
    """The lines of a listing, its title first."""
    write = endpoints.listed(writer)
    yield view.title
    for row in rows if unsorted else order.sorted_services(rows):
        key = row.service.key
        protocol = 0 if key.mark else int(key.protocol)
        if key.mark:
            name, kind = endpoints.mark_text(key.mark) + ("" if key.address.version == 4 else " IPv6"), "FWM"
        else:
            name, kind = write(key.address, key.port, protocol), key.protocol.name
        if isinstance(view, CounterView):
            name = f"{name:<28}"
        yield f"{kind:<4} {name}{view.of_service(row)}\n"
        for server in row.destinations if unsorted else order.sorted_destinations(row.destinations):
            where = server.destination.key
            yield f"  -> {write(where.address, where.port, protocol):<28}{view.of_destination(server)}\n"


def scheduling(service: VirtualService) -> str:
    """`rr`, `sh (sh-port) persistent 60 mask 255.255.255.0 pe sip ops`."""
    words = [service.scheduler]
    flags = flag_words(service)
    if flags is not None:
        words.append(f"({flags})")
    if ServiceFlag.PERSISTENT in service.flags:
        words.append(f"persistent {service.timeout_s}")
        if masked(service):
            words.append(f"mask {endpoints.mask_text(service.mask, service.key.family)}")
        if service.engine:
            words.append(f"pe {service.engine}")
    if ServiceFlag.ONE_PACKET in service.flags:
        words.append("ops")
    return " ".join(words)


def masked(service: VirtualService) -> bool:
    """Whether persistence looks at less than the whole address."""
    return service.mask != (NETMASK_V4_ALL if service.key.address.version == 4 else NETMASK_V6_ALL)


def tunnel_info(server: Destination) -> str:
    """`ipip`, `gue:6080:+c`, `gre:-c`; `n/a` for the other methods."""
    tunnel = server.tunnel
    if server.method is not Method.TUNNEL:
        return "n/a"
    if tunnel.kind is TunnelKind.IPIP:
        return "ipip"
    checksum = "r+c" if TunnelFlag.REMCSUM in tunnel.flags else "+c" if TunnelFlag.CSUM in tunnel.flags else "-c"
    return f"gue:{tunnel.port}:{checksum}" if tunnel.kind is TunnelKind.GUE else f"gre:{checksum}"


def _in_order(values: Counters | Rates) -> tuple[int, int, int, int, int]:
    return values.connections, values.in_packets, values.out_packets, values.in_bytes, values.out_bytes
