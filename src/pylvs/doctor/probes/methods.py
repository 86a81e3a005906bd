"""Forwarding methods: a real server whose method is another one than that of all others of its service."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pylvs.doctor.commands import edit_destination
from pylvs.doctor.finding import HERE, Finding, Layer, Severity, server_subject
from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass, replace
from pylvs.model.rows import ServiceRow
from pylvs.model.service import Destination, Method, VirtualService

_FEWEST = 3  # servers of a service: of two, neither is the exception
_NAMES = {Method.MASQ: "NAT", Method.TUNNEL: "tunnelling", Method.ROUTE: "direct routing"}
_FAILS = {"server_lacks_vip", "server_not_decapsulating", "nat_reply_path"}  # what a wrong method looks like


@dataclass(frozen=True, slots=True)
class Exceptional:
    """A destination of a service, and one with the method of all others."""

    service: VirtualService
    destination: Destination
    other: Destination

    def explains(self, finding: Finding) -> bool:
        """Return whether what is wrong with this server follows from its method."""
        return finding.id in _FAILS and self.subject in finding.about

    @property
    def server(self) -> Address:
        """Return the real server's address."""
        return self.destination.key.address

    @property
    def subject(self) -> str:
        """Return the server under its service, as findings name it."""
        return server_subject(str(self.service.key), self.server)

    def finding(self, evidence: str) -> Finding:
        """Return the finding; `evidence`: what does not work."""
        method, usual = _NAMES[self.destination.method], _NAMES[self.other.method]
        wanted = replace(self.destination, method=self.other.method, tunnel=self.other.tunnel)
        return Finding(
            id="method_differs",
            severity=Severity.ERROR,
            layer=Layer.TABLE,
            title=f"the method of {self.server} is {method}, while all others of {self.service.key} have {usual}",
            evidence=evidence,
            why="Real servers of one service are nearly always set up alike, and this one is not set up so.",
            fix=f"Give it the method of the others. Or set {self.server} up for {method}.",
            fix_command=edit_destination(self.service, wanted),
            fix_host=HERE,
            about=frozenset({self.subject}),
        )


def exceptions(rows: Iterable[ServiceRow]) -> Iterator[Exceptional]:
    """Yield the servers that alone have their method, in services whose other servers share one."""
    for row in rows:
        all_of = [each.destination for each in row.destinations]
        if len(all_of) < _FEWEST or not {each.method for each in all_of} <= _NAMES.keys():
            continue
        for found in all_of:
            others = [each for each in all_of if each is not found]
            ways = {(each.method, each.tunnel) for each in others}
            if len(ways) == 1 and others[0].method is not found.method:
                yield Exceptional(row.service, found, others[0])
