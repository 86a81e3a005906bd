"""`virtual_server_group`, `virtual_server` and `real_server`."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from pylvs.config.language.tree import Word
from pylvs.config.schema.checkers import CHECKERS
from pylvs.config.schema.checkers.common import INHIBIT_ON_FAILURE, server_timing, smtp_alert
from pylvs.config.schema.forwarding import FORWARDING, GRANULARITY, PERSISTENCE, PROTOCOL, SCHEDULER
from pylvs.config.schema.grammar import BadValue, Block, Keyword, State, Twice, Type, Words
from pylvs.config.schema.types import BARE, FLAG, MARK, SCRIPT, TEXT, Integer, address_of, choice, number_of, port_of
from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass
from pylvs.model.destination import MAX_WEIGHT

FAMILIES = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}
FAMILY = choice(*FAMILIES)
LAST_PART = {4: re.compile(r"[0-9]{1,3}\Z"), 6: re.compile(r"[0-9a-fA-F]{1,4}\Z")}
MAX_RANGE = 65536  # addresses; each is a service of its own


@dataclass(frozen=True, slots=True)
class Range:
    """Addresses from `first` to `last` with one port; 0 is every port."""

    first: Address
    last: Address
    port: int
    word: Word

    def addresses(self) -> Iterator[Address]:
        for number in range(int(self.first), int(self.last) + 1):
            yield ip_address(number) if self.first.version == 4 else IPv6Address(number)


@dataclass(frozen=True, slots=True)
class MarkEntry:
    """A firewall mark; `family` 0 stands for that of the real servers."""

    mark: int
    family: int
    word: Word


@dataclass(frozen=True, slots=True)
class MarkWords(Type[tuple[int, int]]):
    """A firewall mark, and a family unless the real servers determine it."""

    def parse(self, words: Words) -> tuple[int, int]:
        mark = MARK.parse(words)
        return mark, FAMILIES[str(FAMILY.parse(words))] if words else 0

    def __str__(self) -> str:
        return "fwmark NUMBER [inet|inet6]"


@dataclass(frozen=True, slots=True)
class GroupEntry(Type[Range | MarkEntry]):
    """One line of a group."""

    def parse(self, words: Words) -> Range | MarkEntry:
        """Parse an address, `FIRST-LAST` or `NETWORK/LENGTH`, each with an optional port, or `fwmark NUMBER`."""
        word = words.take("an IP address")
        if word.text == "fwmark":
            return MarkEntry(*MarkWords().parse(words), word)
        first, last = _ends(word)
        size = int(last) - int(first) + 1
        if size > MAX_RANGE:
            text = f"'{word.text}' is {size} addresses, and each is a service of its own; {MAX_RANGE} are allowed"
            raise BadValue(text, "use a firewall mark", word)
        return Range(first, last, port_of(words.take("")) if words else 0, word)

    def __str__(self) -> str:
        return "ADDRESS[-ADDRESS | /LENGTH] [PORT] | fwmark NUMBER [inet|inet6]"


def _ends(word: Word) -> tuple[Address, Address]:
    """Return the first and last address of an address, range or network; raises BadValue."""
    if "/" in word.text:
        return _network(word)
    if "-" not in word.text:
        address = address_of(word)
        return address, address
    begin, _, end = word.text.partition("-")
    first = address_of(Word(begin, word.location))
    separator = ":" if first.version == 6 else "."
    if separator not in end:  # only the last part, as in 192.0.2.1-9
        if not LAST_PART[first.version].match(end):
            raise BadValue(f"'{end}' is not the end of a range of addresses", "such as 192.0.2.1-9", word)
        end = str(first.exploded).rpartition(separator)[0] + separator + end
    last = address_of(Word(end, word.location))
    if last.version != first.version or int(last) <= int(first):
        raise BadValue(
            f"the range '{word.text}' does not end behind its begin", "write the smaller address first", word
        )
    return first, last


def _network(word: Word) -> tuple[Address, Address]:
    try:
        network: IPv4Network | IPv6Network = ip_network(word.text, strict=False)
    except ValueError:
        raise BadValue(f"'{word.text}' is not an address with a prefix length", "such as 192.0.2.8/29", word) from None
    if network.network_address != address_of(Word(word.text.partition("/")[0], word.location)):
        raise BadValue(f"'{word.text}' is not the begin of its network", f"write {network}", word)
    return network.network_address, network.broadcast_address


VIRTUAL_SERVER_GROUP = Block(
    "virtual_server_group",
    "several addresses and firewall marks with the same real servers",
    head=TEXT,
    lines=GroupEntry(),
    twice=Twice.MANY,
)


MAX_U32 = 0xFFFFFFFF
MAX_DOCUMENTED_WEIGHT = 65535  # by ipvsadm(8)


@dataclass(frozen=True, slots=True)
class Server:
    """An address with a port, 0 for none."""

    address: Address
    port: int
    word: Word
    fixed_port: int | None = None  # in the table, where the written port cannot be

    @property
    def table_port(self) -> int:
        return self.port if self.fixed_port is None else self.fixed_port


@dataclass(frozen=True, slots=True)
class ServerType(Type[Server]):
    """An address and a port; without a port, or with 0, packets keep theirs."""

    def parse(self, words: Words) -> Server:
        word = words.take("an IP address")
        address = address_of(word)
        port = words.peek()
        if port is not None:
            words.take("")
        return Server(address, 0 if port is None or port.text == "0" else port_of(port), word)

    def __str__(self) -> str:
        return "ADDRESS [PORT]"


@dataclass(frozen=True, slots=True)
class MarkService:
    """A service of a firewall mark; `family` 0 stands for that of its real servers."""

    mark: int
    family: int
    word: Word


@dataclass(frozen=True, slots=True)
class GroupService:
    """A service of every entry of a group."""

    group: str
    word: Word


@dataclass(frozen=True, slots=True)
class ServiceType(Type[Server | MarkService | GroupService]):
    """The head of a virtual_server: an address with its port, a firewall mark, or a group."""

    def parse(self, words: Words) -> Server | MarkService | GroupService:
        word = words.take_if("fwmark", "group")
        if word is None:
            return ServerType().parse(words)
        if word.text == "fwmark":
            return MarkService(*MarkWords().parse(words), word)
        name = words.take("the name of a group")
        return GroupService(name.text, name)

    def __str__(self) -> str:
        return "ADDRESS [PORT] | fwmark NUMBER | group NAME"


@dataclass(frozen=True, slots=True)
class WeightType(Type[int]):
    """A weight. keepalived and IPVS accept more than ipvsadm(8) allows, so that is only a warning."""

    def parse(self, words: Words) -> int:
        word = words.peek()
        weight = Integer(0, MAX_WEIGHT).parse(words)
        if word is not None and number_of(word) > MAX_DOCUMENTED_WEIGHT:
            words.warn(
                word, f"weight {word.text} is beyond {MAX_DOCUMENTED_WEIGHT}; it is taken", "use smaller weights"
            )
        return weight

    def __str__(self) -> str:
        return f"a whole number, 0 to {MAX_DOCUMENTED_WEIGHT}"


WEIGHT = Keyword("weight", WeightType(), "share of new connections; 0: none", default=1, inherited=True)
METHOD = Keyword("lvs_method", FORWARDING, "how packets get to the server", inherited=True, default_doc="NAT")
VIRTUALHOST = Keyword("virtualhost", TEXT, "host name in requests of HTTP checks", inherited=True)

REAL_SERVER = Block(
    "real_server",
    "a real server and its checks",
    (
        WEIGHT,
        METHOD,
        Keyword(
            "uthreshold",
            Integer(0, MAX_U32),
            "connections at which the server is full and gets no more; 0: never",
            default=0,
        ),
        Keyword(
            "lthreshold", Integer(0, MAX_U32), "connections below which a full server gets new ones again", default=0
        ),
        INHIBIT_ON_FAILURE,
        Keyword("notify_up", SCRIPT, "run at the transition to up", twice=Twice.FIRST),
        Keyword("notify_down", SCRIPT, "run at the transition to down", twice=Twice.FIRST),
        smtp_alert(default=True),
        VIRTUALHOST,
        Keyword("snmp_name", TEXT, "name in SNMP", state=State.NEVER, instead="there is no SNMP; see pylvs metrics"),
        *server_timing(),
        *CHECKERS,
    ),
    head=ServerType(),
    twice=Twice.MANY,
)


def _flag(name: str, bit: int, doc: str) -> Keyword:
    return Keyword(name, BARE, f"{doc} (bit {bit} of the scheduler's flags)", default=False)


VIRTUAL_SERVER = Block(
    "virtual_server",
    "a virtual service with its real servers",
    (
        Keyword("lvs_sched", SCHEDULER, "scheduler", aliases=("lb_algo",), default="wlc"),
        Keyword("lvs_method", FORWARDING, "forwarding method", aliases=("lb_kind",), default_doc="NAT"),
        Keyword("protocol", PROTOCOL, "transport protocol", default_doc="UDP"),
        _flag("flag-1", 1, "the scheduler's first flag"),
        _flag("flag-2", 2, "the scheduler's second flag"),
        _flag("flag-3", 3, "the scheduler's third flag"),
        _flag("sh-fallback", 1, "sh: use the next server if the chosen one is down"),
        _flag("sh-port", 2, "sh: hash the client's port too"),
        _flag("mh-fallback", 1, "mh: use the next server if the chosen one is down"),
        _flag("mh-port", 2, "mh: hash the client's port too"),
        Keyword("hashed", BARE, "for old kernels", state=State.DEAD, instead="remove it"),
        Keyword("ops", BARE, "UDP: schedule every packet separately (one-packet scheduling)", default=False),
        Keyword("persistence_timeout", PERSISTENCE, "seconds of persistence", default_doc="not persistent"),
        Keyword("persistence_granularity", GRANULARITY, "network of clients that share a server"),
        Keyword(
            "persistence_engine", TEXT, "persistence engine: what identifies a client besides its address", default=""
        ),
        Keyword("ip_family", FAMILY, "address family of a firewall mark's service", default_doc="the real servers'"),
        Keyword("quorum", Integer(1, MAX_U32), "weight of available servers that the service needs", default=1),
        Keyword(
            "hysteresis", Integer(0, MAX_U32), "margin of weight below and above the quorum against flapping", default=0
        ),
        Keyword("quorum_up", SCRIPT, "run when the quorum is reached again", twice=Twice.FIRST),
        Keyword("quorum_down", SCRIPT, "run when the quorum is lost", twice=Twice.FIRST),
        Keyword("omega", FLAG, "run notify_down and quorum_down when pylvs exits", default=False),
        Keyword("ha_suspend", FLAG, "suspend checks while this machine does not hold the address", default=False),
        Keyword("sorry_server", ServerType(), "server that gets connections while the quorum is lost"),
        Keyword("sorry_server_inhibit", FLAG, "keep the sorry server in the table with weight 0", default=False),
        Keyword(
            "sorry_server_lvs_method", FORWARDING, "forwarding method of the sorry server", default_of="lvs_method"
        ),
        WEIGHT,
        INHIBIT_ON_FAILURE,
        smtp_alert(default=False),
        VIRTUALHOST,
        Keyword("snmp_name", TEXT, "name in SNMP", state=State.NEVER, instead="there is no SNMP; see pylvs metrics"),
        Keyword("nat_mask", TEXT, "for old kernels", state=State.DEAD, instead="remove it"),
        *server_timing(),
        REAL_SERVER,
    ),
    head=ServiceType(),
    twice=Twice.MANY,
)
