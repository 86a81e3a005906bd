"""Settings of this director that the packet path depends on: forwarding, source validation, offloads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pylvs.dataplane.devices.attach import attached
from pylvs.dataplane.devices.attachments import not_forwarding
from pylvs.dataplane.devices.host import ThisHost
from pylvs.doctor.facts import Facts
from pylvs.doctor.finding import HERE, Finding, Layer, Severity
from pylvs.doctor.kernel.counters import counts
from pylvs.doctor.kernel.link_settings import LARGEST, link_settings
from pylvs.doctor.kernel.routes import KernelRoutes, destinations
from pylvs.doctor.probes.data_plane import bypassed
from pylvs.doctor.probes.methods import exceptions
from pylvs.model.addresses import Address
from pylvs.model.errors import counted
from pylvs.model.rows import TableUse
from pylvs.model.service import Method, ServiceKey
from pylvs.netlink.links import Device, Routes, active_features
from pylvs.system import proc

_LOOSE = 2  # of rp_filter
_NETWORK_BYTES = {4: 3, 6: 8}  # the bytes of an address that choose its route in nearly all networks
_READ_AGAIN = "ipvsadm --set 0 0 0"  # an edit that changes nothing: it reads settings of the host again
_FULL = 0.95  # of the connection table
_IPVS = Path("/proc/net/ip_vs")


def findings(facts: Facts) -> Iterator[Finding]:
    """Yield settings that keep this director from forwarding."""
    if not facts.has_tables:
        return
    yield from _forwarding(facts)
    names = {each.device for each in attached(facts.director.state, list(facts.devices))}
    devices = [each for each in facts.devices if each.name in names and not each.loopback]
    yield from _source_validation(facts, devices)
    yield from _offloads(devices)
    yield from _interpreter(facts)
    yield from bypassed.findings(facts)
    yield from _kernel_services(facts)
    yield from full(facts.director.packet_counts().use)


def _forwarding(facts: Facts) -> Iterator[Finding]:
    by_nat = _nat_servers(facts)
    with ThisHost() as host:
        routing = host.not_routing({each.version for each in by_nat})
    differing = list(exceptions(facts.services)) if routing else []
    by_method = [each for each in differing if each.destination.method is Method.MASQ]
    if by_nat and {each.server for each in by_method} >= set(by_nat):
        yield from (each.finding(f"NAT needs {routing[0]}=1, which is 0 here") for each in by_method)
        by_nat, routing = [], []
    for setting in [*routing, *_device_forwarding(facts, by_nat, routing)]:
        yield _off(
            facts,
            setting,
            id="nat_not_forwarding",
            title=f"{setting} is 0, so replies of NAT are not forwarded",
            why="With NAT the director is the router between clients and real servers.",
            fix="Let this host route.",
        )
    for setting in not_forwarding(facts.director.tables):
        if not any(setting[:8] == each[:8] for each in routing):  # net.ipv4: that sets this one as well
            yield _off(
                facts,
                setting,
                id="lo_not_forwarding",
                title=f"{setting} is 0, so the packet path forwards nothing",
                why="The packet path looks routes up for lo. Setting ip_forward to 0 sets this one as well.",
                fix="Set it to 1: it routes no other packets.",
            )


def _nat_servers(facts: Facts) -> list[Address]:
    """Return an address of each network with real servers of NAT: networks share their routes."""
    found = dict[object, Address]()
    for service in facts.services:
        for row in service.destinations:
            address = row.destination.key.address
            if row.destination.method is Method.MASQ:
                found.setdefault(address.packed[: _NETWORK_BYTES[address.version]], address)
    return list(found.values())


def _device_forwarding(facts: Facts, servers: list[Address], routing: list[str]) -> Iterator[str]:
    """Yield the settings of devices by which replies of NAT come in, and which do not forward them."""
    names = {each.index: each.name for each in facts.devices}
    done = set[str]()
    with Routes() as routes:
        for server in servers:
            route, version = routes.to(server), server.version
            if route is None or route.local or any(each.startswith(f"net.ipv{version}") for each in routing):
                continue
            path = f"net/ipv{version}/conf/{names.get(route.ifindex, '')}/forwarding"
            if facts.number(path) == 0 and path not in done:
                done.add(path)
                yield proc.dotted(path)


def _off(facts: Facts, setting: str, *, id: str, title: str, why: str, fix: str) -> Finding:
    return Finding(
        id=id,
        severity=Severity.ERROR,
        layer=Layer.HOST,
        title=title,
        evidence=f"sysctl {setting}: 0",
        why=why,
        fix=fix,
        fix_command=f"sysctl -w {setting}=1",
        fix_host=HERE,
        explains=frozenset(map(str, facts.virtual_addresses)),
    )


def full(use: TableUse | None) -> Iterator[Finding]:
    """Yield a connection table that is full, or nearly."""
    if use is None or use.fill < _FULL:
        return
    yield Finding(
        id="connections_full",
        severity=Severity.ERROR if use.used >= use.capacity else Severity.WARNING,
        layer=Layer.TABLE,
        title="the connection table is full",
        evidence=f"connections and templates: {use.used} of {use.capacity}, half-open: {use.half_open}",
        why="New connections of NAT are dropped. Those of direct routing and tunnels are forwarded by a hash.",
        fix="Enlarge the table: connections stay.",
        fix_command=f"pylvs sysctl -w net.ipv4.vs.conn_max={2 * use.capacity}",
        fix_host=HERE,
    )


def _source_validation(facts: Facts, devices: list[Device]) -> Iterator[Finding]:
    """Yield devices whose reverse path filter drops packets of clients.

    The kernel has counted drops, or a client is on the device's own link.
    """
    refused = counts(facts).get("TcpExtIPReversePathFilter", 0)
    four = [each for each in facts.virtual_addresses if each.version == 4]
    with KernelRoutes() as routes:
        for device in devices:
            value = max(facts.number(f"net/ipv4/conf/{each}/rp_filter") or 0 for each in ("all", device.name))
            vip = next((each for each in four if each in device.addresses), None)
            if not value or vip is None:
                continue
            on_link = [each.network for each in facts.addresses if each.index == device.index]
            for client in destinations(4):
                if not (refused or any(client in network for network in on_link)):
                    continue
                if not routes.leaving(vip, client).error and routes.arriving(client, vip, device.index).invalid_source:
                    yield _filtered(device, vip, client, value, refused)
                    break


def _filtered(device: Device, vip: Address, client: Address, value: int, refused: int) -> Finding:
    path = f"net/ipv4/conf/{device.name}/rp_filter"
    dropped = f"; {counted(refused, 'packet')} dropped so (TcpExtIPReversePathFilter)" if refused else ""
    return Finding(
        id="director_rp_filter",
        severity=Severity.ERROR,
        layer=Layer.HOST,
        title=f"rp_filter on {device.name} drops packets of clients to {vip}",
        evidence=f"rp_filter is {value} on {device.name}, and the route to {client} does not lead there{dropped}",
        why="pylvs checks sources of new connections as the kernel does, and the kernel those of ARP requests.",
        fix=f"Set rp_filter of {device.name} to {_LOOSE} (loose), or add a route to the clients.",
        fix_command=f"sysctl -w {proc.dotted(path)}={_LOOSE} && {_READ_AGAIN}",
        fix_host=HERE,
        about=frozenset({str(vip), device.name}),
    )


def _offloads(devices: list[Device]) -> Iterator[Finding]:
    for device in devices:
        if "rx-lro" in active_features(device.index):
            yield Finding(
                id="lro_on",
                severity=Severity.WARNING,
                layer=Layer.ATTACHMENT,
                title=f"LRO is on for {device.name}",
                evidence=f"{device.name} has the feature rx-lro",
                why="The card merges packets to ones that cannot be forwarded unchanged, and refuses XDP.",
                fix="Switch it off; GRO stays.",
                fix_command=f"ethtool -K {device.name} lro off",
                fix_host=HERE,
                about=frozenset({device.name}),
            )
        if (longest := link_settings().merges(device.name)) > LARGEST:
            yield Finding(
                id="big_tcp",
                severity=Severity.WARNING,
                layer=Layer.ATTACHMENT,
                title=f"the kernel merges packets to more than {LARGEST - 1} bytes on {device.name} (BIG TCP)",
                evidence=f"gro_max_size or gro_ipv4_max_size of {device.name} is {longest}",
                why="Lengths in IP headers have 16 bits: such a packet passes to the stack, which resets it.",
                fix="Limit what the kernel merges.",
                fix_command=f"ip link set dev {device.name} gro_max_size {LARGEST} gro_ipv4_max_size {LARGEST}",
                fix_host=HERE,
                about=frozenset({device.name}),
            )


def _interpreter(facts: Facts) -> Iterator[Finding]:
    path = "net/core/bpf_jit_enable"
    if facts.number(path) == 0:
        yield Finding(
            id="jit_off",
            severity=Severity.WARNING,
            layer=Layer.HOST,
            title="the kernel interprets eBPF programs instead of compiling them",
            evidence=f"sysctl {proc.dotted(path)}: 0",
            why="Forwarding costs many times as much.",
            fix="Switch the compiler on, and load the programs again: pylvs down, then the table.",
            fix_command=f"sysctl -w {proc.dotted(path)}=1",
            fix_host=HERE,
        )


def _kernel_services(facts: Facts) -> Iterator[Finding]:
    """Yield services of the kernel's own IPVS that this table has as well."""
    try:
        text = _IPVS.read_text(encoding="ascii")
    except OSError:
        return
    ours = {row.service.key for row in facts.services}
    if both := [str(key) for key in ours if kernel_name(key) in text]:
        yield Finding(
            id="ipvs_in_kernel",
            severity=Severity.WARNING,
            layer=Layer.HOST,
            title=f"the kernel's IPVS has {both[0]} as well",
            evidence=f"{_IPVS} lists {', '.join(sorted(both)[:5])}",
            why="Packets reach pylvs alone, so what another program does in the kernel's table has no effect.",
            fix="End that program, such as keepalived with virtual servers, and clear the kernel's table.",
        )


def kernel_name(key: ServiceKey) -> str:
    """Return the beginning of the line of a service in /proc/net/ip_vs."""
    if key.mark:
        return f"FWM  {key.mark:08X} "
    address = key.address
    text = f"{int(address):08X}" if address.version == 4 else f"[{address.exploded}]"
    return f"{key.protocol.name}  {text}:{key.port:04X} "
