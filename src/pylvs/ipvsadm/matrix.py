"""Which options go with which command, and with which kind of tunnel."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet

from pylvs.ipvsadm.complaints import Complaint
from pylvs.ipvsadm.options import ORDER, Command, Given
from pylvs.model.dataclass import dataclass
from pylvs.model.destination import Method, TunnelKind

Options = frozenset[str]


@dataclass(frozen=True, slots=True)
class Rule:
    """What a command needs, what it takes besides, and of which it takes one at most."""

    needs: Options = frozenset()
    takes: Options = frozenset()
    one_of: Options = frozenset()


_SERVICE = frozenset({Given.SERVICE_ADDRESS})
_SERVER = frozenset({Given.SERVICE_ADDRESS, Given.REAL_SERVER})
_CHECKSUMS = frozenset({Given.TUN_NOCSUM, Given.TUN_CSUM, Given.TUN_REMCSUM})
_TUNNEL = frozenset({Given.TUN_TYPE, Given.TUN_PORT}) | _CHECKSUMS
_TYPE = frozenset({Given.TUN_TYPE})
_SERVICE_OPTIONS = frozenset({Given.SCHEDULER, Given.PERSISTENT, Given.NETMASK, Given.OPS, Given.PE, Given.SCHED_FLAGS})
_SERVER_OPTIONS = _TUNNEL | {Given.FORWARDING_METHOD, Given.WEIGHT, Given.U_THRESHOLD, Given.L_THRESHOLD}
_COUNTS = frozenset({Given.STATS, Given.RATE, Given.THRESHOLDS})
_LIST_OPTIONS = _COUNTS | {
    Given.NUMERIC,
    Given.PERSISTENT_CONN,
    Given.TUN_INFO,
    Given.EXACT,
    Given.NOSORT,
    Given.SYNCID,
}
_NO_TABLE = frozenset({Given.CONNECTION, Given.TIMEOUT, Given.DAEMON})  # listings of something else
_DAEMON_OPTIONS = frozenset(
    {
        Given.MCAST_INTERFACE,
        Given.SYNCID,
        Given.MCAST_GROUP,
        Given.MCAST_PORT,
        Given.MCAST_TTL,
        Given.SYNC_MAXLEN,
    }
)

COMMANDS: Mapping[Command, Rule] = {
    Command.ADD_SERVICE: Rule(_SERVICE, _SERVICE_OPTIONS),
    Command.EDIT_SERVICE: Rule(_SERVICE, _SERVICE_OPTIONS),
    Command.DELETE_SERVICE: Rule(_SERVICE),
    Command.ADD_SERVER: Rule(_SERVER, _SERVER_OPTIONS),
    Command.EDIT_SERVER: Rule(_SERVER, _SERVER_OPTIONS),
    Command.DELETE_SERVER: Rule(_SERVER),
    Command.LIST: Rule(takes=_LIST_OPTIONS, one_of=_NO_TABLE | _SERVICE),
    Command.ZERO: Rule(takes=_SERVICE),
    Command.SAVE: Rule(takes=frozenset({Given.NUMERIC})),
    Command.FLUSH: Rule(),
    Command.RESTORE: Rule(),
    Command.SET: Rule(),
    Command.START_DAEMON: Rule(takes=_DAEMON_OPTIONS),
    Command.STOP_DAEMON: Rule(takes=frozenset({Given.SYNCID})),
}
TUNNELS: Mapping[TunnelKind, Rule] = {
    TunnelKind.IPIP: Rule(takes=_TYPE),
    TunnelKind.GUE: Rule(frozenset({Given.TUN_PORT}), _TYPE, _CHECKSUMS),
    TunnelKind.GRE: Rule(takes=_TYPE, one_of=frozenset({Given.TUN_NOCSUM, Given.TUN_CSUM})),
}


def check_command(command: Command, given: AbstractSet[str]) -> None:
    """Raises a Complaint about the first option that is missing, superfluous or in conflict."""
    _check(COMMANDS[command], given, f"the '{command.value}' command")


def check_tunnel(method: Method, kind: TunnelKind, given: AbstractSet[str]) -> None:
    """The same for the options of a tunnel; other forwarding methods take none of them."""
    of_tunnel = given & _TUNNEL
    if method is Method.TUNNEL:
        _check(TUNNELS[kind], of_tunnel, f"the '{kind.name.lower()}' tunnel type")
    elif of_tunnel:
        raise Complaint("Tunnel options conflict with forward method")


def check_listing(given: AbstractSet[str]) -> None:
    """Views that a listing cannot have at once, though each is fine by itself."""
    if (given & _NO_TABLE and given & _COUNTS) or (
        given & {Given.TIMEOUT, Given.DAEMON} and Given.PERSISTENT_CONN in given
    ):
        raise Complaint("options conflicts in the list command")


def _check(rule: Rule, given: AbstractSet[str], owner: str) -> None:
    if rule.needs <= given <= rule.needs | rule.takes:
        return
    chosen = ""
    for option in ORDER:
        if option not in given:
            if option in rule.needs:
                raise Complaint(f"You need to supply the '{option}' option for {owner}")
        elif option in rule.one_of:
            if chosen:
                raise Complaint(f"The option '{option}' conflicts with the '{chosen}' option in {owner}")
            chosen = option
        elif option not in rule.needs and option not in rule.takes:
            raise Complaint(f"Illegal '{option}' option with {owner}")
