"""The commands and options of ipvsadm: their spellings, how they are read, and which ones a command needs or may have.

Options are read as popt(3) does. Short options bundle. A value follows at once, with or without `=`, or is the next
argument, even if that begins with a dash. Long options have no abbreviations. Operands may be in any position.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet

from pylvs.model.addresses import Address, endpoint
from pylvs.model.dataclass import dataclass
from pylvs.model.service import (
    GENERIC_FLAGS,
    SCHEDULER_FLAGS,
    Method,
    Protocol,
    ServiceFlag,
    ServiceKey,
    TunnelKind,
    VirtualService,
)

EXIT_ARGUMENTS = 2  # invalid arguments
EXIT_REFUSED = 255  # errors of the tables, and unknown options
EXIT_LISTING = 1  # a listing of a missing service, or output that could not be written
SERVICE_OPTIONS = {Protocol.TCP: "-t", Protocol.UDP: "-u", Protocol.SCTP: "--sctp-service"}
HINT = "--hint"  # pylvs's own: print hints, also without a terminal; in any position


class OptionError(Exception):
    """An error message for stderr with an exit status; a `final` one ends a restore at this line."""

    def __init__(self, text: str, status: int = EXIT_ARGUMENTS, *, final: bool = True) -> None:
        super().__init__(text)
        self.text = text
        self.status = status
        self.final = final


def try_help() -> OptionError:
    """Return the error for a command line that does not begin with a command."""
    return OptionError("Try `ipvsadm -h' or 'ipvsadm --help' for more information.", EXIT_REFUSED)


def not_understood(word: str, problem: str) -> OptionError:
    """Return the error for an unknown option, or an option without its value."""
    return OptionError(f"{word}: {problem}", EXIT_REFUSED, final=False)


class Command:
    """Commands, by their names in messages. Not an Enum: its creation takes longer than parsing the command line."""

    ADD_SERVICE = "add-service"
    EDIT_SERVICE = "edit-service"
    DELETE_SERVICE = "delete-service"
    FLUSH = "flush"
    LIST = "list"
    ADD_SERVER = "add-server"
    EDIT_SERVER = "edit-server"
    DELETE_SERVER = "delete-server"
    ZERO = "zero"
    SAVE = "save"
    RESTORE = "restore"
    SET = "set"
    START_DAEMON = "start-daemon"
    STOP_DAEMON = "stop-daemon"
    HELP = "help"
    VERSION = "version"


class Given:
    """Options in the order of their checks, by their names in messages; spellings that exclude each other share one."""

    NUMERIC = "numeric"
    CONNECTION = "connection"
    SERVICE_ADDRESS = "service-address"
    SCHEDULER = "scheduler"
    PERSISTENT = "persistent"
    NETMASK = "netmask"
    REAL_SERVER = "real-server"
    FORWARDING_METHOD = "forwarding-method"
    WEIGHT = "weight"
    U_THRESHOLD = "u-threshold"
    L_THRESHOLD = "l-threshold"
    MCAST_INTERFACE = "mcast-interface"
    TIMEOUT = "timeout"
    DAEMON = "daemon"
    STATS = "stats"
    RATE = "rate"
    THRESHOLDS = "thresholds"
    PERSISTENT_CONN = "persistent-conn"
    NOSORT = "nosort"
    SYNCID = "syncid"
    EXACT = "exact"
    OPS = "ops"
    PE = "pe"
    SCHED_FLAGS = "sched-flags"
    MCAST_GROUP = "mcast-group"
    MCAST_PORT = "mcast-port"
    MCAST_TTL = "mcast-ttl"
    SYNC_MAXLEN = "sync-maxlen"
    TUN_INFO = "tun-info"
    TUN_TYPE = "tun-type"
    TUN_PORT = "tun-port"
    TUN_NOCSUM = "tun-nocsum"
    TUN_CSUM = "tun-csum"
    TUN_REMCSUM = "tun-remcsum"
    MSS_CLAMP = "mss-clamp"  # pylvs's own


NOTHING = ""  # an option without a rule
ORDER = tuple(name for label, name in vars(Given).items() if label.isupper())  # in which options are checked


class Takes:
    """Whether an option has a value."""

    NOTHING = 0
    VALUE = 1
    MAYBE = 2  # the next word, unless that begins with a dash


class Option:
    """One spelling of a command (`command`) or of another option (`given`)."""

    __slots__ = ("command", "given", "long", "short", "takes")

    def __init__(
        self, long: str, short: str = "", takes: int = Takes.NOTHING, command: str | None = None, given: str = NOTHING
    ) -> None:
        self.long = long
        self.short = short
        self.takes = takes
        self.command = command
        self.given = given


OPTIONS = (
    Option("add-service", "A", command=Command.ADD_SERVICE),
    Option("edit-service", "E", command=Command.EDIT_SERVICE),
    Option("delete-service", "D", command=Command.DELETE_SERVICE),
    Option("clear", "C", command=Command.FLUSH),
    Option("list", "L", command=Command.LIST),
    Option("list", "l", command=Command.LIST),
    Option("add-server", "a", command=Command.ADD_SERVER),
    Option("edit-server", "e", command=Command.EDIT_SERVER),
    Option("delete-server", "d", command=Command.DELETE_SERVER),
    Option("zero", "Z", command=Command.ZERO),
    Option("save", "S", command=Command.SAVE),
    Option("restore", "R", command=Command.RESTORE),
    Option("set", command=Command.SET),
    Option("start-daemon", takes=Takes.VALUE, command=Command.START_DAEMON),
    Option("stop-daemon", takes=Takes.VALUE, command=Command.STOP_DAEMON),
    Option("help", "h", command=Command.HELP),
    Option("version", "v", command=Command.VERSION),
    Option("tcp-service", "t", Takes.VALUE, given=Given.SERVICE_ADDRESS),
    Option("udp-service", "u", Takes.VALUE, given=Given.SERVICE_ADDRESS),
    Option("sctp-service", "", Takes.VALUE, given=Given.SERVICE_ADDRESS),
    Option("fwmark-service", "f", Takes.VALUE, given=Given.SERVICE_ADDRESS),
    Option("ipv6", "6"),
    Option("scheduler", "s", Takes.VALUE, given=Given.SCHEDULER),
    Option("pe", "", Takes.VALUE, given=Given.PE),
    Option("persistent", "p", Takes.MAYBE, given=Given.PERSISTENT),
    Option("mss-clamp", "", Takes.VALUE, given=Given.MSS_CLAMP),
    Option("netmask", "M", Takes.VALUE, given=Given.NETMASK),
    Option("real-server", "r", Takes.VALUE, given=Given.REAL_SERVER),
    Option("gatewaying", "g", given=Given.FORWARDING_METHOD),
    Option("ipip", "i", given=Given.FORWARDING_METHOD),
    Option("masquerading", "m", given=Given.FORWARDING_METHOD),
    Option("tun-type", "", Takes.VALUE, given=Given.TUN_TYPE),
    Option("tun-port", "", Takes.VALUE, given=Given.TUN_PORT),
    Option("tun-nocsum", given=Given.TUN_NOCSUM),
    Option("tun-csum", given=Given.TUN_CSUM),
    Option("tun-remcsum", given=Given.TUN_REMCSUM),
    Option("weight", "w", Takes.VALUE, given=Given.WEIGHT),
    Option("u-threshold", "x", Takes.VALUE, given=Given.U_THRESHOLD),
    Option("l-threshold", "y", Takes.VALUE, given=Given.L_THRESHOLD),
    Option("connection", "c", given=Given.CONNECTION),
    Option("timeout", given=Given.TIMEOUT),
    Option("daemon", given=Given.DAEMON),
    Option("stats", given=Given.STATS),
    Option("rate", given=Given.RATE),
    Option("exact", "X", given=Given.EXACT),
    Option("thresholds", given=Given.THRESHOLDS),
    Option("persistent-conn", given=Given.PERSISTENT_CONN),
    Option("tun-info", given=Given.TUN_INFO),
    Option("nosort", given=Given.NOSORT),
    Option("sort"),
    Option("ops", "o", given=Given.OPS),
    Option("numeric", "n", given=Given.NUMERIC),
    Option("sched-flags", "b", Takes.VALUE, given=Given.SCHED_FLAGS),
    Option("syncid", "", Takes.VALUE, given=Given.SYNCID),
    Option("sync-maxlen", "", Takes.VALUE, given=Given.SYNC_MAXLEN),
    Option("mcast-interface", "", Takes.VALUE, given=Given.MCAST_INTERFACE),
    Option("mcast-group", "", Takes.VALUE, given=Given.MCAST_GROUP),
    Option("mcast-port", "", Takes.VALUE, given=Given.MCAST_PORT),
    Option("mcast-ttl", "", Takes.VALUE, given=Given.MCAST_TTL),
    Option(HINT[2:]),
)
BY_LETTER = {option.short: option for option in OPTIONS if option.short}
BY_NAME = {option.long: option for option in OPTIONS}
BY_WORD = {f"-{letter}": option for letter, option in BY_LETTER.items()} | {
    f"--{name}": option for name, option in BY_NAME.items()
}
UNKNOWN = "unknown option"
MISSING = "missing argument"
UNWANTED = "option does not take an argument"

Read = tuple[Option, str | None]


class Words:
    """An iterator over the options and values of one command line. It raises `OptionError` for an invalid argument.

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
            raise not_understood(self.latest, UNKNOWN)
        if option.takes is Takes.NOTHING and equals:
            raise not_understood(self.latest, UNWANTED)
        return option, value if equals else self._following(option)

    def _bundle(self, letters: str) -> Iterator[Read]:
        while letters:
            option = BY_LETTER.get(letters[0])
            rest = letters[1:]
            if option is None:
                raise not_understood(self.latest, UNKNOWN)
            if option.takes is Takes.NOTHING:
                if rest.startswith("="):
                    raise not_understood(self.latest, UNWANTED)
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
            raise not_understood(self.latest, MISSING)
        return self._take()


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
_SERVICE_OPTIONS = frozenset(
    {
        Given.SCHEDULER,
        Given.PERSISTENT,
        Given.NETMASK,
        Given.OPS,
        Given.PE,
        Given.SCHED_FLAGS,
        Given.MSS_CLAMP,
    }
)
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
    {Given.MCAST_INTERFACE, Given.SYNCID, Given.MCAST_GROUP, Given.MCAST_PORT, Given.MCAST_TTL, Given.SYNC_MAXLEN}
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
    """Raise an error about the first wrong option of a tunnel; other forwarding methods have none."""
    of_tunnel = given & _TUNNEL
    if method is Method.TUNNEL:
        _check_combination(TUNNELS[kind], of_tunnel, f"the '{kind.name.lower()}' tunnel type")
    elif of_tunnel:
        raise OptionError("Tunnel options conflict with forward method")


def check_listing(given: AbstractSet[str]) -> None:
    """Check for views that a listing cannot combine."""
    if (given & _NO_TABLE and given & _COUNTS) or (
        given & {Given.TIMEOUT, Given.DAEMON} and Given.PERSISTENT_CONN in given
    ):
        raise OptionError("options conflicts in the list command")


def _check_combination(rule: Rule, given: AbstractSet[str], owner: str) -> None:
    if rule.needs <= given <= rule.needs | rule.takes:
        return
    chosen = ""
    for option in ORDER:
        if option not in given:
            if option in rule.needs:
                raise OptionError(f"You need to supply the '{option}' option for {owner}")
        elif option in rule.one_of:
            if chosen:
                raise OptionError(f"The option '{option}' conflicts with the '{chosen}' option in {owner}")
            chosen = option
        elif option not in rule.needs and option not in rule.takes:
            raise OptionError(f"Illegal '{option}' option with {owner}")


ANY_FLAG = ServiceFlag.SCHED_1 | ServiceFlag.SCHED_2 | ServiceFlag.SCHED_3


def read_flags(words: str, scheduler: str) -> ServiceFlag:
    """Parse a comma-separated list of flags, without its empty parts. Raises `OptionError`."""
    flags = ServiceFlag(0)
    for word in filter(None, words.split(",")):
        own = SCHEDULER_FLAGS.get(scheduler, {})
        if word in own:
            flags |= own[word]
        elif word in GENERIC_FLAGS:
            flags |= GENERIC_FLAGS[word]
        elif any(word in others for others in SCHEDULER_FLAGS.values()):
            raise OptionError(f"incompatible scheduler flag `{word}'")
        else:
            raise OptionError(f"invalid scheduler flag `{word}'")
    return flags


def flag_words(service: VirtualService) -> str | None:
    """Return the names of a service's flags, "" if they have no names; None if it has no flags."""
    if not service.flags & ANY_FLAG:
        return None
    known = SCHEDULER_FLAGS.get(service.scheduler, GENERIC_FLAGS)
    return ",".join(word for word, flag in known.items() if flag & service.flags)


def service_option(key: ServiceKey, write: Callable[[Address, int], str] = endpoint) -> str:
    """Return the option that names a service; `write` returns the text of its address and port."""
    if key.mark:
        return f"-f {key.mark}" + ("" if key.address.version == 4 else " -6")
    return f"{SERVICE_OPTIONS[key.protocol]} {write(key.address, key.port)}"
