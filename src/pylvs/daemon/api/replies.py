"""What the API replies: the type of each reply, of which its JSON Schema is made.

mypy compares the values that are served with these types. A text behind `Annotated` is the field's description in the
OpenAPI document and in docs/reference/api.md.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, TypedDict

UnixTime = Annotated[float, "seconds since 1970"]
State = Literal["MASTER", "BACKUP", "FAULT"]
SessionState = Literal["AdminDown", "Down", "Init", "Up"]
Standing = Literal["enabled", "drained", "disabled"]


class Error(TypedDict):
    """What is wrong, and what to do."""

    error: Annotated[str, "one line"]


class ProblemReply(TypedDict):
    """One thing that is wrong now."""

    kind: Annotated[str, "as in the metric pylvs_problems"]
    severity: Literal["warning", "critical"]
    object: Annotated[str, 'the service, server, device or file; "" for the daemon']
    text: Annotated[str, "what is wrong"]


class CheckReply(TypedDict):
    """One check of one server."""

    check: Annotated[str, "its keyword"]
    good: Annotated[bool | None, "null until an outcome counts"]
    failures: Annotated[int, "failures in a row"]
    weight: Annotated[int | None, "the weight that it sets"]
    reason: Annotated[str, "of the last outcome"]
    inconclusive: Annotated[bool, "this host could not make the last check"]
    checked_at: UnixTime | None
    took_s: Annotated[float | None, "the duration of the last probe"]
    next_in_s: Annotated[float | None, "null: it runs now, or is suspended"]
    running: bool
    shared_by: Annotated[int, "servers that share this check"]
    probes: Annotated[int, "since the start of the daemon"]
    failed_probes: int
    inconclusive_probes: Annotated[int, "that this host could not make"]


class HandshakesReply(TypedDict):
    """Handshakes of clients with a real server in the last minute."""

    begun: Annotated[int, "those of the last seconds are left out, unless they are completed"]
    completed: int
    low: Annotated[str, 'it completes far less than the others: how much; "" if it does not']
    out: Annotated[bool, "therefore it is down (handshake_share)"]


class ServerReply(TypedDict):
    """One real server of one service."""

    service: NotRequired[Annotated[str, "in replies to check-now"]]
    server: Annotated[str, "ADDRESS:PORT"]
    up: bool
    checked: Annotated[bool, "false: `up` is presumed, because a check had no outcome yet"]
    since: Annotated[UnixTime, "of `up`"]
    reason: Annotated[str, "of `up`"]
    weight: Annotated[int, "in force while the server is up"]
    configured_weight: int
    standing: Annotated[Standing, "by the operator"]
    operator_weight: Annotated[int | None, "by pylvs weight"]
    in_table: bool
    active: Annotated[int, "active connections"]
    inactive: Annotated[int, "inactive connections"]
    persistent: Annotated[int, "persistence templates"]
    checks: Annotated[list[CheckReply], "none: the server always counts as up"]
    checks_left_out: Annotated[list[str], "checks of the file that cannot be made: keyword, colon, reason"]
    handshakes: Annotated[HandshakesReply | None, "null: UDP has none"]


class QuorumReply(TypedDict):
    """The quorum of a service."""

    up: bool
    since: Annotated[UnixTime, "of `up`"]
    weight: Annotated[int, "that is needed"]
    hysteresis: int
    weight_up: Annotated[int, "of the servers that are up"]


SorryServerReply = TypedDict("SorryServerReply", {"server": str, "in": Annotated[bool, "it serves"]})  # a keyword


class ServiceReply(TypedDict):
    """One virtual server of the configuration."""

    name: str
    keys: Annotated[list[str], "protocol and address, or mark, of each of its services in the table"]
    quorum: QuorumReply
    sorry_server: SorryServerReply | None
    suspended: Annotated[bool, "checks are suspended (ha_suspend)"]
    handshakes_low: Annotated[str, 'all servers complete few handshakes of clients alike: how many; "" if not']
    servers: list[ServerReply]


class ServicesReply(TypedDict):
    """Services and servers as their checks know them; all connections are 0, because the table is not read."""

    services: list[ServiceReply]


class ListedDestination(TypedDict):
    """A destination of the table, with what `ipvsadm -L` can list."""

    address: str
    port: int
    method: Literal["MASQ", "LOCAL", "TUNNEL", "ROUTE"]
    weight: int
    upper: Annotated[int, "threshold; 0: none"]
    lower: int
    tunnel: Annotated[list[str | int] | None, "kind, port and flags; null: IPIP, or no tunnel"]
    active: int
    inactive: int
    persistent: int
    counters: Annotated[list[int], "connections, incoming and outgoing packets, incoming and outgoing bytes"]
    rates: Annotated[list[int], "the same, a second"]


class ListedService(TypedDict):
    """A service of the table, with what `ipvsadm -L` can list."""

    protocol: Literal["TCP", "UDP", "SCTP"]
    address: str
    port: int
    mark: Annotated[int, "0: none"]
    scheduler: str
    flags: Annotated[int, "IPVS's numbers"]
    timeout_s: Annotated[int, "of persistence"]
    netmask: Annotated[int, "of persistence; -1: the whole address"]
    engine: Annotated[str, 'of persistence; "": none']
    mss_clamp: Annotated[int, "0: none"]
    counters: Annotated[list[int], "as those of a destination"]
    rates: list[int]
    destinations: list[ListedDestination]


class ListingReply(TypedDict):
    """The table, for `ipvsadm -L` of users who cannot open it."""

    size: Annotated[int, "as listings show it"]
    timeouts: Annotated[list[int], "seconds: TCP, TCP after a FIN, UDP"]
    services: list[ListedService]


ConnectionLine = Annotated[
    list[Any],
    "protocol, state, seconds left; address and port of client, virtual service and destination; engine and its data",
]
ShowReply = Annotated[dict[str, Any], "as pylvs show --json"]
DropsReply = Annotated[dict[str, Any], "as pylvs drops --json"]


class TableReply(TypedDict):
    """The table beside the desired state."""

    error: Annotated[str, 'why it could not be read or edited; "" if it could']
    refused: Annotated[list[str], "edits that the packet path refused"]
    unattached: Annotated[list[str], "devices that services need and that are not attached"]
    edits: Annotated[dict[str, int], "number of edits by reason"]


class RouterSummary(TypedDict):
    """The main fields of a virtual router."""

    name: str
    state: State
    since: UnixTime | None
    priority: int
    why: str


class SessionSummary(TypedDict):
    """The main fields of a BFD session."""

    name: str
    neighbor: Annotated[str, "its address"]
    state: SessionState
    since: UnixTime | None
    up: Annotated[bool | None, "the result for those who track it; null: not known yet"]
    reason: Annotated[str, "of `state`"]
    error: Annotated[str, 'why packets are not sent or received; "" if they are']


class RoutersSummary(TypedDict):
    """Virtual routers and BFD sessions; GET /v1/vrrp has all fields."""

    problem: Annotated[str, 'why they do not run as configured; "" if they do']
    data_plane: DataPlaneReply | None
    instances: list[RouterSummary]
    sessions: list[SessionSummary]


class NotifyScriptReply(TypedDict):
    """A notify script that runs or waits, or the last one of its object, if that had to be ended."""

    object: Annotated[str, "the server, service, virtual router or sync group"]
    keyword: Annotated[str, "of the configuration"]
    script: Annotated[str, "the command"]
    state: Literal["waiting", "running", "ended"]
    seconds: Annotated[float | None, "in this state; null: ended"]
    reason: Annotated[str, 'why it was ended; "" if it was not']


class NotifyScriptsReply(TypedDict):
    """The notify scripts of services and servers, or of virtual routers."""

    running: int
    waiting: Annotated[int, "for the one before of their object"]
    ended_early: Annotated[int, "how many had to be ended"]
    scripts: list[NotifyScriptReply]


class PeerServer(TypedDict):
    """A real server that only the other director has."""

    server: Annotated[str, "SERVER of SERVICE"]
    connections: Annotated[int, "that are therefore not here"]


class PeerOther(TypedDict):
    """What the other director has of the connections of this one."""

    sending: Annotated[int, "connections of a copy of everything that is underway; 0: none"]
    live: Annotated[int, "connections at the begin of the last copy"]
    records: Annotated[int | None, "connections of the last copy of everything, and of changes since; null: not known"]
    held: Annotated[int | None, "of these, those that it holds"]


class PeerDifference(TypedDict):
    """A service or server that is not the same at the other director."""

    object: str
    text: str


class PeerReply(TypedDict):
    """The other director of a pair."""

    address: str
    name: str
    version: Annotated[str, "of pylvs"]
    connected: Annotated[bool, "its connections are copied to this one"]
    problem: Annotated[str, 'why they are not; "" if they are']
    complete: Annotated[bool, "all were copied once"]
    copied: Annotated[int, "connections of a copy of everything that is underway; 0: none"]
    live: Annotated[int, "connections of the other director at the begin of the last copy"]
    records: Annotated[int, "connections of the last copy of everything, and of changes since"]
    held: Annotated[int, "of these, those that are here"]
    newer: Annotated[int, "of these, those that this director knew better"]
    refused: Annotated[dict[str, int], "connections to this director that were refused, by reason"]
    refused_full: Annotated[int, "found no space in the table"]
    refused_unknown: Annotated[int, "are of servers that are not here"]
    unknown: Annotated[list[PeerServer], "these servers, at most 20"]
    seconds: Annotated[float, "that the last copy of everything took"]
    age_s: Annotated[float | None, "this director is so far behind; null: nothing was copied yet"]
    other: Annotated[PeerOther | None, "null: the other director copies nothing from this one"]
    differences: list[PeerDifference]
    compared: Annotated[bool, "false: the configuration of the other director is not known"]


class CopyReply(TypedDict):
    """A copy that was asked for."""

    address: Annotated[str, "of the other director"]


class AnnouncementReply(TypedDict):
    """An address that the routing daemon of this host announces, or would."""

    address: str
    state: Literal["announced", "leaving", "withdrawn"]
    reason: Annotated[str, 'why it is not announced; "" if it is']


class Leave(TypedDict):
    """The planned leave of this director, by pylvs director leave."""

    since: UnixTime
    until: Annotated[UnixTime, "when it withdraws its addresses; before, their preference is lowered"]
    withdrawn: Annotated[bool, "no address of this director is announced"]


class LeaveReply(TypedDict):
    """The reply to POST /v1/director/leave and /v1/director/join."""

    leave: Annotated[Leave | None, "null: it has joined"]
    not_kept: Annotated[str, 'why it does not survive a restart; "" if it does']


class StatusReply(TypedDict):
    """The reply to GET /v1/status, and the output of pylvs status --json."""

    version: Annotated[str, "of pylvs"]
    schema: Annotated[str, "version of these schemas: MAJOR.MINOR"]
    pid: int
    now: UnixTime
    ready: Annotated[bool, "the first table is complete"]
    started_at: Annotated[UnixTime | None, "null before that"]
    loaded_at: Annotated[UnixTime | None, "when the configuration in force was read"]
    files: Annotated[list[str], "of the configuration"]
    findings: Annotated[int, "of pylvs check in these files"]
    errors: Annotated[list[str], "because of which a part of the file has no effect"]
    reloads: Annotated[dict[str, int], "by result: done, refused"]
    problems: Annotated[list[ProblemReply], "critical ones first"]
    table: TableReply
    unknown: Annotated[list[str], "parts of the daemon without progress, and a table that was not read in time"]
    notify_scripts: Annotated[NotifyScriptsReply, "of services, servers and virtual routers"]
    differs: Annotated[list[str], "how the running state differs from the file"]
    virtual_routers: RoutersSummary
    peer: Annotated[PeerReply | None, "null without peer_director"]
    announcements: Annotated[list[AnnouncementReply], "of services with announce"]
    leave: Annotated[Leave | None, "null unless this director has left by command"]
    services: list[ServiceReply]


class NamedServer(TypedDict):
    """A real server of a service."""

    service: str
    server: str


class OverrideReply(TypedDict):
    """The servers of an override."""

    servers: list[NamedServer]
    not_kept: Annotated[str, 'why the override does not survive a restart; "" if it does']


class OperatorRulesReply(TypedDict):
    """The operator's client rules of a service, after a change."""

    service: Annotated[str, "its name"]
    rules: Annotated[int, "how many rules of the operator it has now"]
    problem: Annotated[str, 'why they are not in the table yet; "" if they are, or if the request does not wait']
    not_kept: Annotated[str, 'why they do not survive a restart; "" if they do']


class ClientRuleLine(TypedDict):
    """A client rule of a service in the table."""

    service: Annotated[str, "as in the table: TCP 192.0.2.1:80, FWM 7"]
    rule: Annotated[str, "as pylvs filter add takes it"]
    prefix: Annotated[str, "of its clients"]
    action: Annotated[Literal["allow", "drop", "pass"], "with a rate, of connections beyond it"]
    rate: NotRequired[Annotated[int, "connections that a client may open in `period_s`; absent: no limit"]]
    period_s: NotRequired[int]
    burst: NotRequired[Annotated[int, "connections that a client may open at once"]]
    client_bits: NotRequired[Annotated[int, "clients whose addresses share so many bits share the rate"]]
    origin: Annotated[Literal["file", "operator", "other"], "other: of a service that is not in the file"]


class ClientRulesPage(TypedDict):
    """A page of the client rules in the table, by service and prefix. A change between two pages may shift them."""

    total: Annotated[int, "how many rules there are on all pages"]
    start: Annotated[int, "the number of the first one here, from 0"]
    rules: list[ClientRuleLine]


class DrainReply(TypedDict):
    """A drain of one or several servers, with their connections."""

    number: int
    servers: list[NamedServer]
    began_at: UnixTime
    deadline_at: UnixTime | None
    force: Annotated[bool, "at the deadline, delete the server with its connections"]
    active_only: Annotated[bool, "do not wait for inactive connections"]
    stage: Literal["waiting", "removed", "forced", "late", "called off"]
    active: int
    inactive: int
    persistent: int
    most: Annotated[int, "the highest number of connections"]
    not_kept: NotRequired[Annotated[str, 'why the drain does not survive a restart; "" if it does']]


class DrainsReply(TypedDict):
    """The drains that wait, and the last that are over."""

    drains: list[DrainReply]


class ServersReply(TypedDict):
    """Servers after a check."""

    servers: list[ServerReply]


class FindingReply(TypedDict):
    """One finding of pylvs check."""

    file: str
    line: int
    column: int
    width: int
    severity: Literal["error", "warning", "note"]
    text: str
    advice: str
    security: bool
    fatal: bool


class ReloadTable(TypedDict):
    """What a reload made of the table."""

    edits: int
    refused: list[str]
    error: str


class ReloadRouters(TypedDict):
    """What the virtual routers replied to a reload."""

    warnings: list[str]
    problem: str


class ReloadReply(TypedDict):
    """The result of a reload."""

    findings: list[FindingReply]
    differences: list[str]
    table: Annotated[ReloadTable | None, "null for a dry run"]
    virtual_routers: ReloadRouters
    metrics_error: Annotated[str, 'why metrics are not served at the metrics_address, "" if they are']


class DifferencesReply(TypedDict):
    """What a reload would change."""

    findings: list[FindingReply]
    differences: list[str]


class RefusedReply(Error):
    """A refused reload; nothing has changed."""

    findings: list[FindingReply]


class TrackReply(TypedDict):
    """One tracked object of a virtual router."""

    kind: str
    name: str
    up: Annotated[bool | None, "null: not known yet"]
    expired: NotRequired[Annotated[bool, "the helper process has no current result"]]
    number: NotRequired[Annotated[int | None, "of a track_file"]]
    weight: int
    reason: Annotated[str, "of `up`"]


class AdvertCounters(TypedDict):
    """Counters of one virtual router."""

    sent: int
    received: int
    dropped: Annotated[dict[str, int], "by reason"]
    became_master: int
    became_backup: int
    became_fault: int


class RouterReply(TypedDict):
    """One virtual router."""

    name: str
    interface: str
    vrid: int
    version: Literal[2, 3]
    family: Literal[4, 6]
    state: State
    since: UnixTime | None
    priority: Annotated[int, "in force, with what is tracked"]
    base_priority: Annotated[int, "configured"]
    addresses: list[str]
    master: Annotated[str, 'address of the master; "" if none is known']
    why: Annotated[str, "the reason for the state"]
    advert_interval_s: float
    master_down_s: Annotated[float, "from the last advertisement that counted to the take-over"]
    takes_over_at: NotRequired[Annotated[UnixTime | None, "as backup, if no advertisement comes"]]
    preempt: NotRequired[bool]
    rival: NotRequired[Annotated[str, "another host with one of the addresses"]]
    preempts_at: NotRequired[UnixTime | None]
    mismatches: NotRequired[Annotated[list[str], "what the peer's advertisements have in another way"]]
    tracks: list[TrackReply]
    faults: list[str]
    counters: AdvertCounters
    group: Annotated[str | None, "the sync group"]
    held_until: Annotated[UnixTime | None, "pylvs vrrp yield"]
    copy_awaited: NotRequired[
        Annotated[str, 'what is here of the connections of the other director; "" if it does not wait for them']
    ]
    copied_by: NotRequired[Annotated[UnixTime | None, "when it takes over without them; null: it does not wait"]]


class GroupReply(TypedDict):
    """One sync group."""

    name: str
    state: State
    members: list[str]


class ProcessReply(TypedDict):
    """The process pylvs-vrrp."""

    pid: int
    realtime: Annotated[int, "priority; 0: none"]
    locked: Annotated[bool, "its memory is locked"]
    longest_gap_ms: Annotated[float, "the largest delay of a timer"]
    helper_running: Annotated[bool, "its helper process runs"]
    helper_lost: NotRequired[Annotated[int, "how often that process was lost"]]


class DataPlaneReply(TypedDict):
    """What pylvs-vrrp knows of the packet path."""

    up: Annotated[bool | None, "null: unknown"]
    reason: Annotated[str, "of `up`"]
    expired: NotRequired[Annotated[int, "how often pylvs run was silent for too long"]]


class UnknownVrid(TypedDict):
    """Advertisements of a VRID that is not configured."""

    device: str
    vrid: int
    count: int


class SessionCounters(TypedDict):
    """Counters of one BFD session."""

    sent: int
    received: int
    send_errors: int
    dropped: Annotated[dict[str, int], "by reason"]


class SessionReply(SessionSummary):
    """One BFD session."""

    source: Annotated[str | None, "source_ip"]
    multihop: bool
    held: Annotated[bool, "the neighbor has disabled it, and the result stays"]
    diagnostic: str
    remote_state: SessionState
    remote_diagnostic: str
    discriminator: int
    remote_discriminator: Annotated[int, "0: unknown"]
    interval_ms: Annotated[float, "between sent packets"]
    detection_ms: Annotated[float | None, "null unless it is up"]
    remote_multiplier: int
    remote_min_tx_ms: float
    remote_min_rx_ms: float
    polling: Annotated[bool, "other intervals are not agreed on yet"]
    flaps: Annotated[int, "how often it left state Up"]
    counters: SessionCounters


class VrrpReply(TypedDict):
    """The state of virtual routers and BFD sessions; without any, lists are empty and the other fields are absent."""

    problem: Annotated[str, 'why they do not run as configured; "" if they do']
    instances: list[RouterReply]
    groups: list[GroupReply]
    sessions: list[SessionReply]
    process: NotRequired[ProcessReply]
    data_plane: NotRequired[DataPlaneReply]
    notify_scripts: NotRequired[NotifyScriptsReply]
    unknown_vrids: NotRequired[list[UnknownVrid]]


class Transition(TypedDict):
    """One transition of a virtual router."""

    time: UnixTime
    before: State
    state: State
    why: str
    detail: str
    priority: int


WhyReply = Annotated[dict[str, list[Transition]], "by virtual router, the latest last"]


class NamesReply(TypedDict):
    """The virtual routers of a command."""

    names: list[str]


class StopReply(TypedDict):
    """The daemon begins to stop."""

    pid: Annotated[int, "wait for the end of this process"]


class LogLine(TypedDict):
    """One line of the log with `--log-format json`. Further fields belong to the event: service, server, reason."""

    event: Annotated[str, "what happened"]
    level: Literal["debug", "info", "warning", "error", "critical"]
    time: Annotated[str, "RFC 3339, in UTC"]
    logger: NotRequired[Annotated[str, "the library that wrote it"]]
    exception: NotRequired[Annotated[str, "a traceback"]]


OpenApi = Annotated[dict[str, Any], "an OpenAPI 3.1 document"]
