"""Parsing of a command line into a checked request, in ipvsadm's order of checks: the first error ends it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet

from pylvs.ipvsadm.messages import Complaint, not_understood, try_help
from pylvs.ipvsadm.names import Names
from pylvs.ipvsadm.options import BY_LETTER, BY_NAME, BY_WORD, ORDER, Command, Given, Option, Takes
from pylvs.ipvsadm.request import SETTERS, Request, checked_timeout, read_flags
from pylvs.model import sockets as socket
from pylvs.model.addresses import family_of
from pylvs.model.dataclass import dataclass
from pylvs.model.destination import Method, TunnelKind
from pylvs.model.service import ServiceFlag

# --- options of each command -----------------------------------------------------------------------------------------

Options = frozenset[str]


@dataclass(frozen=True, slots=True)
class Rule:
    """The options that a command needs, those that it may have, and a set of which it may have one."""

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

COMMANDS: Mapping[str, Rule] = {
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


def check_command(command: str, given: AbstractSet[str]) -> None:
    """Raise an error about the first option that is missing, superfluous or in conflict."""
    _check_combination(COMMANDS[command], given, f"the '{command}' command")


def check_tunnel(method: Method, kind: TunnelKind, given: AbstractSet[str]) -> None:
    """Check the options of a tunnel likewise; other forwarding methods have none."""
    of_tunnel = given & _TUNNEL
    if method is Method.TUNNEL:
        _check_combination(TUNNELS[kind], of_tunnel, f"the '{kind.name.lower()}' tunnel type")
    elif of_tunnel:
        raise Complaint("Tunnel options conflict with forward method")


def check_listing(given: AbstractSet[str]) -> None:
    """Check for views that a listing cannot combine."""
    if (given & _NO_TABLE and given & _COUNTS) or (
        given & {Given.TIMEOUT, Given.DAEMON} and Given.PERSISTENT_CONN in given
    ):
        raise Complaint("options conflicts in the list command")


def _check_combination(rule: Rule, given: AbstractSet[str], owner: str) -> None:
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


# --- options and values ----------------------------------------------------------------------------------------------
# Options are read as popt(3) does. Short options bundle. A value follows at once, with or without `=`, or is the next
# argument, even if that begins with a dash. Long options have no abbreviations. Operands may be in any position.


UNKNOWN = "unknown option"
MISSING = "missing argument"
UNWANTED = "option does not take an argument"

Read = tuple[Option, str | None]


class Unreadable(Exception):
    """An argument is invalid; the text gives the reason, `Words.latest` the argument."""


class Words:
    """An iterator over the options and values of one command line.

    `latest` is the last argument that was read. `aside` are the operands, complete at the end of the iteration.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._words = list(words)
        self._next = 0
        self._options = self._read()
        self.latest = ""
        self.aside: list[str] = []

    def __iter__(self) -> Iterator[Read]:
        return self._options

    def __next__(self) -> Read:
        return next(self._options)

    def _read(self) -> Iterator[Read]:
        while self._next < len(self._words):
            word = self._take()
            option = BY_WORD.get(word)
            if option is not None:
                yield option, self._following(option)
            elif word == "--":
                self.aside += self._words[self._next :]
                return
            elif word.startswith("--"):
                yield self._long(word[2:])
            elif word.startswith("-") and word != "-":
                yield from self._bundle(word[1:])
            else:
                self.aside.append(word)

    def _take(self) -> str:
        self.latest = self._words[self._next]
        self._next += 1
        return self.latest

    def _long(self, text: str) -> Read:
        name, equals, value = text.partition("=")
        option = BY_NAME.get(name)
        if option is None:
            raise Unreadable(UNKNOWN)
        if option.takes is Takes.NOTHING and equals:
            raise Unreadable(UNWANTED)
        return option, value if equals else self._following(option)

    def _bundle(self, letters: str) -> Iterator[Read]:
        while letters:
            option = BY_LETTER.get(letters[0])
            rest = letters[1:]
            if option is None:
                raise Unreadable(UNKNOWN)
            if option.takes is Takes.NOTHING:
                if rest.startswith("="):
                    raise Unreadable(UNWANTED)
                yield option, None
                letters = rest
            else:
                yield option, rest.removeprefix("=") if rest else self._following(option)
                return

    def _following(self, option: Option) -> str | None:
        """Return the next argument as the option's value, if it has one."""
        if option.takes is Takes.NOTHING:
            return None
        at_end = self._next == len(self._words)
        if option.takes is Takes.MAYBE:
            return None if at_end or self._words[self._next].startswith("-") else self._take()
        if at_end:
            raise Unreadable(MISSING)
        return self._take()


# --- requests --------------------------------------------------------------------------------------------------------

TIMEOUTS_TO_SET = 3


def parse(words: Sequence[str], names: Names) -> Request:
    """Parse a command line without the program's name. Raises `Complaint`."""
    if not words:
        return Request(Command.LIST)
    reader = Words(words)
    request = _command(reader, names)
    if request.command in (Command.HELP, Command.VERSION):
        return request
    _read_options(reader, request, names)
    _read_words_aside(reader, request)
    if request.flag_words:
        request.flags |= read_flags(request.flag_words, request.scheduler)
    _check(request)
    return request


def _command(reader: Words, names: Names) -> Request:
    try:
        option, value = next(reader)
    except (Unreadable, StopIteration):
        raise try_help() from None
    if option.command is None:
        raise try_help()
    request = Request(option.command)
    if option.long in SETTERS:
        SETTERS[option.long](request, value, names)
    return request


def _read_options(reader: Words, request: Request, names: Names) -> None:
    try:
        for option, value in reader:
            if option.command is not None:
                raise Complaint(f"invalid option `{reader.latest}'")
            if option.given in request.given:
                raise Complaint(f"multiple '{option.given}' options specified")
            if option.given:
                request.given.add(option.given)
            if option.long in SETTERS:
                SETTERS[option.long](request, value, names)
    except Unreadable as problem:
        raise not_understood(reader.latest, str(problem)) from None


def _read_words_aside(reader: Words, request: Request) -> None:
    aside = reader.aside
    if request.command is Command.SET:
        if len(aside) < TIMEOUTS_TO_SET:
            raise Complaint("--set option requires 3 timeout values")
        request.timeouts_s = tuple(checked_timeout(word, 0) for word in aside[:TIMEOUTS_TO_SET])
        aside = aside[TIMEOUTS_TO_SET:]
    if aside:
        raise Complaint(f"unexpected argument {aside[0]}")


def _check(request: Request) -> None:
    command, given = request.command, request.given
    check_command(command, given)
    if command in (Command.ADD_SERVICE, Command.EDIT_SERVICE):
        if not request.mark and not request.port and ServiceFlag.PERSISTENT not in request.flags:
            raise Complaint("Zero port specified for non-persistent service")
        if ServiceFlag.ONE_PACKET in request.flags and not request.mark and request.protocol != socket.IPPROTO_UDP:
            raise Complaint("One-Packet Scheduling is only for UDP virtual services")
    if command in (Command.ADD_SERVER, Command.EDIT_SERVER):
        if not request.mark and request.method is not Method.MASQ:
            request.server_port = request.port  # direct routing and tunnels do not change the port
        if family_of(request.server) != request.family and request.method is not Method.TUNNEL:
            raise Complaint("Different address family is allowed only for tunneling servers")
        check_tunnel(request.method, request.tunnel_kind, given)
    if command is Command.LIST:
        check_listing(given)
