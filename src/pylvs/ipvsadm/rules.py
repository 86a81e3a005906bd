"""The table as rules, which `-S` writes and `-R` reads. As in ipvsadm, thresholds are not saved."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pylvs.ipvsadm import listing, names
from pylvs.ipvsadm.listing import masked
from pylvs.ipvsadm.options import flag_words
from pylvs.model.rows import ServiceRow
from pylvs.model.service import (
    Destination,
    Method,
    Protocol,
    ServiceFlag,
    ServiceKey,
    TunnelFlag,
    TunnelKind,
    VirtualService,
)

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from typing import IO

PROGRAM = "ipvsadm"  # ignored in any position of a line
SERVICES = {Protocol.TCP: "-t", Protocol.UDP: "-u", Protocol.SCTP: "--sctp-service"}
METHODS = {Method.ROUTE: "-g", Method.TUNNEL: "-i", Method.MASQ: "-m", Method.LOCAL: "-g"}


def rule_lines(rows: Iterable[ServiceRow], write: names.Writer) -> Iterator[str]:
    """Yield a line for each service and each destination."""
    for row in listing.sorted_services(rows):
        service = row.service
        protocol = 0 if service.key.mark else int(service.key.protocol)
        name = _service_name(service.key, protocol, write)
        yield f"-A {name} {_service_options(service)}\n"
        for server in listing.sorted_destinations(row.destinations):
            where = server.destination.key
            address = write(where.address, where.port, protocol)
            yield f"-a {name} -r {address} {_destination_options(server.destination)}\n"


def _service_name(key: ServiceKey, protocol: int, write: names.Writer) -> str:
    if key.mark:
        return f"-f {key.mark}" + ("" if key.address.version == 4 else " -6")
    return f"{SERVICES[key.protocol]} {write(key.address, key.port, protocol)}"


def _service_options(service: VirtualService) -> str:
    words = [f"-s {service.scheduler}"]
    if ServiceFlag.PERSISTENT in service.flags:
        words.append(f"-p {service.timeout_s}")
        if masked(service):
            words.append(f"-M {names.mask_text(service.mask, service.key.family)}")
    if service.engine:
        words.append(f"--pe {service.engine}")
    if ServiceFlag.ONE_PACKET in service.flags:
        words.append("-o")
    flags = flag_words(service)
    if flags is not None:
        words.append(f"-b {flags}")
    return " ".join(words)


def _destination_options(server: Destination) -> str:
    words = [METHODS[server.method], f"-w {server.weight}"]
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


def command_lines(lines: Iterable[str]) -> Iterator[list[str]]:
    """Yield the arguments of each line of `-R` that has any: split at blanks, without quotes or comments."""
    for line in lines:
        words = [word for word in line.replace("\t", " ").replace("\r", " ").rstrip("\n").split(" ") if word]
        words = [word for word in words if word != PROGRAM]
        if words:
            yield words


def input_lines(stdin: IO[str]) -> Iterable[str]:
    """Return the lines of the input; only line feeds end them.

    A pipe or file is read completely first: a slow writer must not keep the tables locked.
    """
    if stdin.isatty():
        return stdin
    return stdin.read().split("\n")


def without_comments(text: str) -> str:
    """Return the text without the comment lines that `ipvsadm-restore` drops."""
    return "\n".join(line for line in text.split("\n") if not line.startswith("#"))
