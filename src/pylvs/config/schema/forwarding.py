"""Types of scheduler, forwarding method, protocol and persistence."""

from __future__ import annotations

from ipaddress import IPv4Address

from pylvs.config.findings import Severity
from pylvs.config.schema.grammar import BadValue, Type, Words
from pylvs.config.schema.types import did_you_mean, number_of, port_of
from pylvs.model.dataclass import dataclass
from pylvs.model.destination import Method, Tunnel, TunnelFlag, TunnelKind
from pylvs.model.service import DEFAULT_SCHEDULER, SCHEDULERS, Protocol

METHODS = {"NAT": Method.MASQ, "DR": Method.ROUTE, "TUN": Method.TUNNEL}
PERSISTENCE_S = 360  # persistence_timeout without a number
MAX_PERSISTENCE_S = 2678400  # 31 days


@dataclass(frozen=True, slots=True)
class SchedulerType(Type[str]):
    """A scheduler. An unknown name is a warning and the default counts, as in keepalived."""

    def parse(self, words: Words) -> str:
        word = words.take("a scheduler")
        if word.text not in SCHEDULERS:
            near = did_you_mean(word.text, SCHEDULERS) or f"one of {str(self).replace('|', ', ')}"
            text = f"there is no scheduler '{word.text}'; {DEFAULT_SCHEDULER} is used"
            raise BadValue(text, near, word, Severity.WARNING)
        return word.text

    def __str__(self) -> str:
        return "|".join(SCHEDULERS)


@dataclass(frozen=True, slots=True)
class Forwarding:
    """A forwarding method, with its tunnel."""

    method: Method
    tunnel: Tunnel = Tunnel()

    def __str__(self) -> str:
        name = next(name for name, method in METHODS.items() if method is self.method)
        if self.method is not Method.TUNNEL or self.tunnel == Tunnel():
            return name
        port = f" port {self.tunnel.port}" if self.tunnel.port else ""
        flags = {TunnelFlag.CSUM: " csum", TunnelFlag.REMCSUM: " remcsum"}.get(self.tunnel.flags, "")
        return f"{name} type {self.tunnel.kind.name.lower()}{port}{flags}"


@dataclass(frozen=True, slots=True)
class ForwardingType(Type[Forwarding]):
    """NAT, DR, or TUN with the kind of tunnel; case is significant, as in keepalived."""

    def parse(self, words: Words) -> Forwarding:
        word = words.take("a forwarding method")
        if word.text not in METHODS:
            near = did_you_mean(word.text, list(METHODS)) or "NAT, DR or TUN"
            raise BadValue(f"there is no forwarding method '{word.text}'", near, word)
        method = METHODS[word.text]
        return Forwarding(method, _tunnel(words) if method is Method.TUNNEL else Tunnel())

    def __str__(self) -> str:
        return "NAT | DR | TUN [type ipip|gue port PORT|gre] [nocsum|csum|remcsum]"


def _tunnel(words: Words) -> Tunnel:
    """Parse `type ipip|gue port N|gre` and a checksum; raises BadValue for options that exclude each other."""
    kind, port, flags = TunnelKind.IPIP, 0, TunnelFlag(0)
    kinds = {kind.name.lower(): kind for kind in TunnelKind}
    first = words.peek()
    while words:
        word = words.take("")
        if word.text == "type":
            name = words.take("a kind of tunnel")
            if name.text not in kinds:
                raise BadValue(f"there is no tunnel of type '{name.text}'", "one of ipip, gue, gre", name)
            kind = kinds[name.text]
        elif word.text == "port":
            port = port_of(words.take("a port"))
        elif word.text in ("nocsum", "csum", "remcsum"):
            flags = {"nocsum": TunnelFlag(0), "csum": TunnelFlag.CSUM, "remcsum": TunnelFlag.REMCSUM}[word.text]
        else:
            raise BadValue(f"a tunnel has no option '{word.text}'", "type, port, nocsum, csum or remcsum", word)
    if (kind is TunnelKind.GUE) != bool(port):
        raise BadValue("a gue tunnel needs a port, no other has one", "write TUN type gue port PORT", first)
    if kind is TunnelKind.IPIP and flags:
        raise BadValue("an ipip tunnel has no checksums", "leave csum and remcsum out", first)
    if kind is TunnelKind.GRE and flags & TunnelFlag.REMCSUM:
        raise BadValue("a gre tunnel has no remote checksum", "leave remcsum out, or take gue", first)
    return Tunnel(kind, port, flags)


@dataclass(frozen=True, slots=True)
class ProtocolType(Type[Protocol]):
    """A transport protocol in upper or lower case."""

    def parse(self, words: Words) -> Protocol:
        word = words.take("a protocol")
        if word.text.upper() not in Protocol.__members__:
            raise BadValue(f"there is no protocol '{word.text}'", "TCP, UDP or SCTP", word)
        return Protocol[word.text.upper()]

    def __str__(self) -> str:
        return "TCP|UDP|SCTP"


@dataclass(frozen=True, slots=True)
class PersistenceType(Type[int]):
    """Seconds, by default six minutes. 0 disables persistence with a warning, as in keepalived."""

    def parse(self, words: Words) -> int:
        if not words:
            return PERSISTENCE_S
        word = words.take("")
        seconds = number_of(word)
        if seconds == 0:
            words.warn(word, "0 is no time; the service is not persistent", f"remove {words.node.keyword}")
        elif not 1 <= seconds <= MAX_PERSISTENCE_S:
            raise BadValue(f"{word.text} is not between 1 and {MAX_PERSISTENCE_S} seconds", word=word)
        return seconds

    def __str__(self) -> str:
        return f"[seconds, 1 to {MAX_PERSISTENCE_S}]"


@dataclass(frozen=True, slots=True)
class Granularity:
    """The bits of a client's address that persistence compares: a mask for IPv4, a prefix length for IPv6."""

    version: int
    netmask: int

    def __str__(self) -> str:
        return str(IPv4Address(self.netmask)) if self.version == 4 else str(self.netmask)


@dataclass(frozen=True, slots=True)
class GranularityType(Type[Granularity]):
    """An IPv4 netmask with contiguous ones, or an IPv6 prefix length."""

    def parse(self, words: Words) -> Granularity:
        word = words.take("a netmask")
        if word.text.isdigit():
            if not 1 <= number_of(word) <= 128:
                raise BadValue(f"prefix length {word.text} is not between 1 and 128", word=word)
            return Granularity(6, number_of(word))
        try:
            mask = int(IPv4Address(word.text))
        except ValueError:
            raise BadValue(
                f"'{word.text}' is not a netmask", "for instance 255.255.255.0, or 64 for IPv6", word
            ) from None
        holes = ~mask & 0xFFFFFFFF
        if not mask or holes & (holes + 1):
            raise BadValue(f"'{word.text}' is not a netmask: its ones are not all in front", "255.255.255.0", word)
        return Granularity(4, mask)

    def __str__(self) -> str:
        return "an IPv4 netmask | an IPv6 prefix length"


SCHEDULER = SchedulerType()
FORWARDING = ForwardingType()
PROTOCOL = ProtocolType()
PERSISTENCE = PersistenceType()
GRANULARITY = GranularityType()
