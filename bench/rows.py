"""The rows of the table: what is measured, what Katran needs for it, and what it may cost here.

A packet's cost is its ratio to the floor of the same run. The floor is a program that swaps the two MAC addresses and
sends the frame back. The other rows have units of their own.
"""

from __future__ import annotations

from statistics import median

from pylvs.bpf.schedulers import SCHEDULERS
from pylvs.model.dataclass import dataclass, field


@dataclass(frozen=True, slots=True)
class Row:
    """One line. `must` and `then` are what it may cost now and later; None where nothing was promised."""

    name: str
    label: str
    unit: str  # "ratio", "times", "s", "ms", "us", "ns", "%", "MB", "bytes", or none; "x": a gain, the more the better
    # "relative" is a ratio to another result than a floor.
    katran: float | None = None
    must: float | None = None
    then: float | None = None
    floor: str = "floor"  # the result that a ratio is to
    measured: str = ""  # the result that it has, if not the one of its own name

    @property
    def result(self) -> str:
        """Return the name of the measured result."""
        return self.measured or self.name


FLOOR, FLOOR_TC, LINE, TABLE_LINE, TABLE_STORE = "floor", "tc_floor", "line", "table_line", "table_store"
TABLE_AWAITED, TABLE_NEW_AWAITED = "table_awaited", "table_new_awaited"
TABLE_WORK, TABLE_STORE_WORK = "table_work", "table_store_work"
_FOREIGN = {
    "foreign_routed": "the same, TCP to another host",
    "foreign_udp": "the same, UDP to this host",
    "foreign_six": "the same, TCP over IPv6 to this host",
    "foreign_six_routed": "the same, TCP over IPv6 to another host",
    "foreign_arp": "the same, ARP",
}


def foreign_rows(hook: str, floor: str) -> tuple[Row, ...]:
    """What packets of no service pay on a device that is attached for other packets."""
    label = "TC: " if hook else ""
    return tuple(Row(hook + name, label + text, "ratio", floor=floor) for name, text in _FOREIGN.items())


ROWS = (
    Row(FLOOR, "floor: swap the MAC addresses, XDP_TX", "ratio"),
    Row("no_service", "packet of no service", "ratio", 2.6, 1.8, 1.4),
    *foreign_rows("", FLOOR),
    Row("one_dr", "established TCP, one flow, DR", "ratio", None, 2.7, 2.3),
    Row("denied", "SYN that a client rule denies", "ratio"),
    Row("denied_many", "the same, 65,536 clients", "ratio"),
    Row("no_service_traced", "packet of no service, pylvs trace runs, no match", "ratio"),
    Row("one_dr_traced", "established TCP, one flow, DR, pylvs trace runs, no match", "ratio"),
    Row("one_tun", "established TCP, one flow, TUN", "ratio", 5.2, 3.4, 3.0),
    Row("nat_forth", "established TCP, one flow, NAT, client to server", "ratio", None, 3.6, 3.2),
    Row("nat_back", "established TCP, one flow, NAT, server to client", "ratio", None, 3.6, 3.2),
    Row("many_dr", "established TCP, {flows:,} random flows, DR", "ratio", 16, 8.5, 7),
    Row("new_dr", "new connection (SYN): scheduled, inserted, counted", "ratio", 16.7, 14, 12),
    Row("one_udp", "established UDP, one flow, DR", "ratio"),
    Row("one_six", "established TCP over IPv6, one flow, DR", "ratio"),
    Row("one_persistent", "established TCP, one flow, persistent service, DR", "ratio"),
    Row("across", "established TCP, 16 services in turn, 64 flows each, DR", "ratio"),
    Row("few_dr", "established TCP, 64 flows, DR", "ratio"),
    Row("some_dr", "established TCP, 1,024 flows, DR", "ratio"),
    Row("part_dr", "established TCP, {part:,} flows, DR", "ratio"),
    Row("new_persistent", "new connection under a template of persistence", "ratio"),
    Row("new_limited", "new connection, real servers with -x and -y", "ratio"),
    Row("new_logged", "new connection, while `pylvs log` reads", "ratio"),
    Row(FLOOR_TC, "floor at TC: swap the MAC addresses, redirect", "ratio", floor=FLOOR_TC),
    Row("tc_no_service", "TC: packet of no service", "ratio", floor=FLOOR_TC),
    *foreign_rows("tc_", FLOOR_TC),
    Row("tc_denied", "TC: SYN that a client rule denies", "ratio", floor=FLOOR_TC),
    Row("tc_one_dr", "TC: established TCP, one flow, DR", "ratio", floor=FLOOR_TC),
    Row("tc_one_dr_traced", "TC: the same, pylvs trace runs, no match", "ratio", floor=FLOOR_TC),
    Row("tc_nat_forth", "TC: established TCP, one flow, NAT, client to server", "ratio", floor=FLOOR_TC),
    Row("tc_nat_back", "TC: established TCP, one flow, NAT, server to client", "ratio", floor=FLOOR_TC),
    Row("cores_established", "gain of a second processor, established, 1,024 flows each", "x", None, 1.9),
    Row("cores_new", "gain of a second processor, new connections", "x", None, 1.5),
    Row("connection_bytes", "memory of a connection", "bytes", None, 256),
    Row("first_add", "first ipvsadm -A of a namespace, whole process", "ms"),
    Row("restore", "restore {services:,} services with {destinations:,} destinations", "s", None, 10, 5),
    Row("list", "list them", "s", None, 5, 2),
    Row("add_one", "add one real server to a service with {services:,}, without Python's start", "ms", None, 5),
    Row("list_connections", "ipvsadm -Lnc of {connections:,} connections", "s", None, 10),
    Row("list_connections_memory", "memory of ipvsadm for that", "MB"),
    Row("list_small_cold", "ipvsadm -Ln on a small table, whole process, cold", "ms", None, 150, 80),
    Row("list_small_warm", "ipvsadm -Ln on a small table, whole process, warm", "ms", None, 150, 80),
    Row("start_list", "ipvsadm -Ln on it: processor of python3 -I -c pass", "times", None, 3),
    Row("start_add", "ipvsadm -a", "times", None, 3),
    Row("start_edit", "ipvsadm -e", "times", None, 3),
    Row("start_delete", "ipvsadm -d", "times", None, 3),
    Row("daemon_memory", "pylvs run, 2 services with 4 HTTP checks: resident memory", "MB", None, 60),
    Row("daemon_memory_own", "of which anonymous", "MB"),
    Row("daemon_small", "processor until its table is in the kernel, tables made before", "s", None, 0.5),
    Row("daemon_start", "pylvs run, {services:,} services: until the first complete table", "s"),
    Row("daemon_reload", "reload of them, of which one changed", "s"),
    Row("check_tcp", "processor of a TCP check, {checked:,} servers, each every {every:g} s", "us", None, 250),
    Row("check_tcp_keepalived", "the same by keepalived", "us"),
    Row("check_http", "processor of an HTTP check, {checked:,} servers, each every {every:g} s", "us"),
    Row("check_http_keepalived", "the same by keepalived", "us"),
    Row("vrrp_first", "from the start of pylvs run to the first advertisement", "ms", None, 100),
    Row("vrrp_gap", "longest gap between advertisements every 10 ms, {minutes:g} min under load", "ms", None, 30, 20),
    Row("vrrp_gap_machine", "the same of a process that only sleeps: the machine's own", "ms"),
)


def _budget(label: str, measured: str, floor: str, must: float | None = None, then: float | None = None) -> Row:
    return Row(f"{measured}/{floor}", label, "relative", None, must, then, floor, measured)


_NAT_ANSWERS = {1: "1 client", 64: "64 clients", 4096: "4,096 clients", 65536: "65,536 clients"}
# A table of their own: ratios to other programs, or to other packets, of the same rounds.
BUDGETS = (
    _budget("established, one flow, DR", "one_dr", "katran_one", 0.25, 0.22),
    _budget("established, one flow, TUN", "one_tun", "katran_one", 0.38, 0.33),
    _budget("packet of no service", "no_service", "katran_no_service", 0.33, 0.30),
    _budget("established, {flows:,} random flows, DR", "many_dr", LINE, 1.2, 1.1),
    _budget("established, {flows:,} random flows, TUN", "many_tun", LINE),
    _budget("established, {flows:,} random flows, DR", "many_dr", TABLE_LINE),
    _budget("established, {flows:,} random flows, TUN", "many_tun", TABLE_LINE),
    _budget("established, {flows:,} random flows, DR", "many_dr", TABLE_AWAITED),
    _budget("established, {flows:,} random flows, TUN", "many_tun", TABLE_AWAITED),
    _budget("established, {flows:,} random flows, DR", "many_dr", TABLE_WORK),
    _budget("established, {flows:,} random flows, TUN", "many_tun", TABLE_WORK),
    _budget("established, {flows:,} random flows, DR", "many_dr", "katran_many"),
    _budget("established, {flows:,} random flows, TUN", "many_tun", "katran_many", 0.75, 0.65),
    _budget("new flow (SYN)", "new_dr", LINE),
    _budget("new flow (SYN)", "new_dr", TABLE_STORE),
    _budget("new flow (SYN)", "new_dr", TABLE_STORE_WORK),
    _budget("new flow (SYN)", "new_dr", TABLE_NEW_AWAITED),
    _budget("new flow (SYN), DR", "new_dr", "katran_new", 0.75, 0.6),
    _budget("new flow (SYN), TUN", "new_tun", "katran_new", 0.85, 0.7),
    _budget("new flow (SYN)", "new_dr", "katran_new_limited"),
    _budget("new flow (SYN), table full", "new_full", "katran_new_limited", 1.0, 0.8),
    _budget("new flow (SYN), flood", "new_flood", "katran_new_limited", 1.0, 0.8),
    _budget("SYN that a client rule denies", "denied", "no_service", 1.5, 1.2),
    _budget("TC: established, one flow, NAT, client to server", "tc_nat_forth", "tc_one_dr", 2.0, 1.5),
    _budget("TC: established, one flow, NAT, server to client", "tc_nat_back", "tc_one_dr", 2.2, 1.6),
    _budget("new flow (SYN), wlc, 64 servers", "wlc_64", "wlc_2", 1.3, 1.2),
    _budget("new flow (SYN), wlc, 1,024 servers", "wlc_1024", "wlc_2", 1.6, 1.4),
    _budget("IPv6: established, one flow, DR", "one_six", "one_dr", 1.3, 1.15),
    _budget("IPv6: established, {flows:,} random flows, DR", "many_six", "many_dr", 1.3, 1.15),
    _budget("IPv6: new flow (SYN)", "new_six", "new_dr", 1.3, 1.15),
    _budget("IPv6: new flow (SYN), table full", "new_full6", "new_full", 1.3, 1.15),
    _budget("IPv6: new flow (SYN), flood", "new_flood6", "new_flood", 1.3, 1.15),
    *(
        _budget(f"NAT, server to client, {text}", f"nat_back_{number}", f"nat_forth_{number}", 1.5, 1.2)
        for number, text in _NAT_ANSWERS.items()
    ),
    *(
        _budget(f"IPv6: NAT, server to client, {text}", f"nat6_back_{number}", f"nat6_forth_{number}", 1.5, 1.2)
        for number, text in _NAT_ANSWERS.items()
    ),
    _budget("processor of a TCP check, {checked:,} servers", "check_tcp", "check_tcp_keepalived", 1.5),
    _budget("processor of an HTTP check, {checked:,} servers", "check_http", "check_http_keepalived"),
)
# What the table calls the results that budgets are ratios to.
REFERENCES = {
    LINE: "one line",
    TABLE_LINE: "one line of a table as large",
    TABLE_STORE: "to store in a line of it",
    TABLE_STORE_WORK: "to store in a line of it beside other work",
    TABLE_AWAITED: "one line of it, awaited",
    TABLE_NEW_AWAITED: "one line of it, awaited",
    TABLE_WORK: "one line of it beside other work",
    "katran_one": "Katran",
    "katran_no_service": "Katran",
    "katran_many": "Katran",
    "katran_new": "Katran, which stores it",
    "katran_new_limited": "Katran beyond its limit",
    "no_service": "packet of no service",
    "tc_one_dr": "DR at TC",
    "wlc_2": "2 servers",
    "one_dr": "IPv4",
    "many_dr": "IPv4",
    "new_dr": "IPv4",
    "new_full": "IPv4",
    "new_flood": "IPv4",
    "check_tcp_keepalived": "keepalived",
    "check_http_keepalived": "keepalived",
    **{f"{name}_forth_{number}": "client to server" for name in ("nat", "nat6") for number in _NAT_ANSWERS},
}
# Of a table of ten million connections (`bench.scale`).
SCALE_ROWS = (
    Row(FLOOR, "floor: swap the MAC addresses, XDP_TX", "ratio"),
    Row("scale_new", "new connection (SYN), until {connections:,} are there", "ratio"),
    Row("scale_established", "established TCP, {connections:,} random flows, DR", "ratio"),
    Row("scale_made", "{connections:,} connections made and established", "s"),
    Row("scale_grow", "the table grows from {others:,} to {connections:,} connections, by live copies", "s"),
    Row("scale_pause", "longest pause of a flow that was there before", "ms"),
    Row("scale_pause_new", "longest pause of a flow that was made during a copy", "ms"),
    Row("scale_pause_machine", "the same while nothing is copied: the machine's own", "ms"),
    Row("scale_bytes", "memory of each, in all maps", "bytes", None, 256),
    Row("scale_bytes_nat", "the same, NAT, {others:,} connections", "bytes", None, 384),
    Row("scale_bytes_ipv6", "the same, IPv6, {others:,} connections", "bytes", None, 384),
    Row("scale_list", "ipvsadm -Lnc of {connections:,} connections", "s"),
    Row("scale_list_memory", "memory of ipvsadm for that", "MB"),
    Row("scale_wrong", "connections that a count or a list is wrong by", "", None, 0),
    Row("scale_idle_small", "sweeping {others:,} connections of which none ends, of one core", "%"),
    Row("scale_idle", "sweeping {connections:,} connections of which none ends, of one core", "%"),
    Row("scale_expire_small", "all {others:,} expire at once: until all are gone", "s"),
    Row("scale_expire_small_share", "expiry until then, of one core", "%"),
    Row("scale_expire", "all {connections:,} expire at once: until all are gone", "s"),
    Row("scale_expire_share", "expiry until then, of one core", "%"),
    Row("scale_expire_each", "to end a connection", "ns"),
    Row("scale_usual", "999 of 1,000 times that expiry held a CPU it was within", "ms", None, 0.1),
    Row("scale_longest", "longest that expiry held a CPU in one run", "ms", None, 0.1),
    Row("scale_gap", "longest gap in a real-time process on its CPU", "ms"),
    Row("scale_gap_machine", "the same while none ends: the machine's own", "ms"),
)


SCHEDULED_SERVERS = (2, 64, 1024)
SCHEDULED = tuple(name for name in SCHEDULERS if name not in ("fo", "ovf"))  # which fill one server after the other
SCHEDULER_FLOOR = "schedulers_floor"


def scheduler_row(name: str, servers: int) -> str:
    """The name of a row of the schedulers' table."""
    return f"{name}_{servers}"


# A table of their own: each scheduler with so many real servers.
SCHEDULER_ROWS = {
    name: tuple(
        Row(scheduler_row(name, each), f"{name}, {each:,} servers", "ratio", floor=SCHEDULER_FLOOR)
        for each in SCHEDULED_SERVERS
    )
    for name in SCHEDULED
}
# Results that only budgets use, in times of the floor.
BUDGET_RESULTS = tuple(
    Row(name, name, "ratio")
    for name in dict.fromkeys(name for row in BUDGETS for name in (row.result, row.floor))
    if name not in {row.name for rows in (ROWS, *SCHEDULER_ROWS.values()) for row in rows}
)


@dataclass(slots=True)
class Measured:
    """What came out for a row: samples in its unit, for ratios in ns with the harness's own cost still in them."""

    samples: list[float] = field(default_factory=list)
    overhead_ns: float = 0.0  # of the harness, contained in every sample
    processor: list[float] = field(default_factory=list)  # of a command: the processor's time, in the same unit
    beside: list[float] = field(default_factory=list)  # of a gain: the floor's, sample by sample

    @property
    def raw(self) -> float:
        """The median."""
        return median(self.samples)

    @property
    def net(self) -> float:
        """The median without the harness."""
        return self.raw - self.overhead_ns


def value_of(row: Row, results: dict[str, Measured]) -> float | None:
    """A row's figure in its unit; None when it could not be measured."""
    found = results.get(row.result)
    if found is None or not found.samples:
        return None
    if row.unit not in ("ratio", "relative"):
        return found.net
    floor = results.get(row.floor)
    return found.net / floor.net if floor and floor.samples else None
