"""The packet filters of this host: nf_tables, and iptables in both variants, read once."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from pylvs.doctor.facts import Facts
from pylvs.doctor.packet_filter.iptables import Tables
from pylvs.doctor.packet_filter.nft import OF_IPTABLES, Chain, Ruleset
from pylvs.doctor.packet_filter.packet import Decision, Packet, Translation, Verdict
from pylvs.model.dataclass import replace
from pylvs.model.errors import PylvsError

_PATH = "/usr/sbin:/sbin:/usr/bin:/bin"
_REST_S = 1.5  # of an examination: probes send packets when they know the rules
_LEGACY = {4: Path("/proc/net/ip_tables_names"), 6: Path("/proc/net/ip6_tables_names")}
_COMMANDS = {4: "iptables", 6: "ip6tables"}
_FAMILIES = {4: ("ip", "inet"), 6: ("ip6", "inet")}
_INGRESS, _EGRESS, _PREROUTING = "ingress", "egress", "prerouting"  # the first two are of devices
INPUT = (_INGRESS, _PREROUTING, "input")
OUTPUT = ("output", "postrouting", _EGRESS)
FORWARD = (_INGRESS, _PREROUTING, "forward", "postrouting", _EGRESS)
_TRACKING = (_PREROUTING, "output")  # connection tracking begins there, behind chains of a priority below -200
SENT_BY_TC = (_EGRESS,)  # what TC redirects to a device passes this hook alone


def packet_filter(facts: Facts) -> PacketFilter:
    """Return the rules of this host. Raises PylvsError."""
    return facts.once("packet_filter", lambda: PacketFilter(max(facts.limit_s - _REST_S, facts.limit_s / 2)))


class PacketFilter:
    """All rules; an empty one where a tool is not installed."""

    def __init__(self, limit_s: float) -> None:
        """Read the rules; each command may take `limit_s`. Raises PylvsError."""
        text = _printed(limit_s, "nft", "-j", "list", "ruleset")
        self.nft = Ruleset(text or '{"nftables": []}')
        commands = [(version, command) for version in _COMMANDS for command in self._commands(version, not text)]
        self.tables = list(_read(limit_s, commands)) if commands else []

    def _commands(self, version: int, is_blind: bool) -> Iterator[str]:
        """Yield the commands whose tables are in use; `is_blind`: nft shows nothing."""
        if is_blind or self._uses_iptables(version):
            yield f"{_COMMANDS[version]}-nft"
        if _has_legacy(version):
            yield f"{_COMMANDS[version]}-legacy"

    def _uses_iptables(self, version: int) -> bool:
        """Return whether iptables may have made a table of nf_tables."""
        return any(self.nft.has_table("ip" if version == 4 else "ip6", name) for name in OF_IPTABLES)

    def decision(self, hooks: Sequence[str], packet: Packet, vip: str = "") -> Decision:
        """Return the first drop on the way through these hooks; UNKNOWN if it cannot be known."""
        found, tracked = Decision(Verdict.PASS), True
        for hook in hooks:
            for decision in self._decisions(hook, packet, vip, tracked):
                if decision.verdict is Verdict.DROP:
                    return decision
                found = decision if decision.verdict is Verdict.UNKNOWN else found
            tracked = tracked and self._tracks(hook, packet)
            if hook == _PREROUTING and (other := self.translation(packet)) is not None:
                packet = replace(packet, daddr=other.address or packet.daddr, dport=other.port)
        return found

    def translation(self, packet: Packet) -> Translation | None:
        """Return what rules make of the destination of a packet that comes in and opens a connection; None: nothing."""
        if packet.arp or not packet.new:
            return None
        for chain in self.nft.base_chains(_PREROUTING, _FAMILIES[packet.daddr.version]):
            if chain.kind != "nat" or self._is_of_iptables(chain):
                continue
            if (found := self.nft.translation(chain, packet)) is not None:
                return found
        in_version = (tables for version, tables in self.tables if version == packet.daddr.version)
        return next(filter(None, (tables.translation(packet) for tables in in_version)), None)

    def translated_ports(self) -> set[int]:
        """Return ports that rules of NAT name: a packet to another one is translated only by rules for all ports."""
        found = self.nft.translated_ports()
        for _, tables in self.tables:
            found |= tables.translated_ports()
        return found

    def without_effect(self, packet: Packet, vip: str) -> Iterator[Decision]:
        """Yield the rules at input that name an address and would drop a packet of some client."""
        yield from self.nft.dropping(packet, vip, self._is_of_iptables)
        for version, tables in self.tables:
            if version == packet.daddr.version:
                yield from tables.dropping(packet, vip)

    def _tracks(self, hook: str, packet: Packet) -> bool:
        """Return whether no rule of nftables at a hook leaves a packet out of connection tracking."""
        if hook not in _TRACKING or packet.arp:
            return True
        chains = self.nft.base_chains(hook, _FAMILIES[packet.daddr.version])
        return all(self.nft.tracks(chain, packet) for chain in chains)

    def _decisions(self, hook: str, packet: Packet, vip: str, tracked: bool) -> Iterator[Decision]:
        if hook in (_INGRESS, _EGRESS):
            device = packet.iif if hook == _INGRESS else packet.oif
            for chain in self.nft.base_chains(hook, ("netdev", "inet")):
                if device in chain.devices or not chain.devices:  # nft 1.0 does not print them
                    yield self.nft.decision(chain, packet, vip)
            return
        families = ("arp",) if packet.arp else _FAMILIES[packet.daddr.version]
        for chain in self.nft.base_chains(hook, families):
            if chain.kind == "nat" or self._is_of_iptables(chain):
                continue
            yield self.nft.decision(chain, packet, vip, tracked)
        if packet.arp:
            return
        for version, tables in self.tables:
            if version == packet.daddr.version:
                yield from tables.decisions(hook.upper(), packet, vip)

    def _is_of_iptables(self, chain: Chain) -> bool:
        """Return whether iptables prints this chain, too: it leaves out those with names of nftables' own."""
        if chain.family not in ("ip", "ip6") or chain.table not in OF_IPTABLES:
            return False
        version = 4 if chain.family == "ip" else 6
        return any(each == version and chain.name in tables.chains.get(chain.table, ()) for each, tables in self.tables)


def _read(limit_s: float, commands: Sequence[tuple[int, str]]) -> Iterator[tuple[int, Tables]]:
    """Yield the tables that these commands of IP versions print, beside each other."""
    from concurrent.futures import ThreadPoolExecutor  # late: only hosts that use iptables

    with ThreadPoolExecutor(max_workers=4) as pool:
        texts = pool.map(lambda command: _printed(limit_s, f"{command[1]}-save", "-c"), commands)
        for (version, command), found in zip(commands, texts, strict=True):
            yield version, Tables(found, command)


def _has_legacy(version: int) -> bool:
    """Return whether legacy tables are in use: iptables-legacy-save would load modules otherwise."""
    try:
        return bool(_LEGACY[version].read_text(encoding="ascii").strip())
    except OSError:
        return False


def _printed(limit_s: float, command: str, *arguments: str) -> str:
    """Return what a command prints; "" if it is not installed, or refuses."""
    path = shutil.which(command, path=_PATH)
    if path is None:
        return ""
    try:
        done = subprocess.run([path, *arguments], capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        raise PylvsError(f"{command} did not end within {limit_s:g} s") from None
    return done.stdout if done.returncode == 0 else ""
