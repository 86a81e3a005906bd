"""The commands and options of ipvsadm: their spellings, and whether they have a value."""

from __future__ import annotations


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
    """Options, by their names in rules and messages; spellings that exclude each other share a name."""

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


NOTHING = ""  # an option without a rule
ORDER = (  # in which options are checked
    Given.NUMERIC,
    Given.CONNECTION,
    Given.SERVICE_ADDRESS,
    Given.SCHEDULER,
    Given.PERSISTENT,
    Given.NETMASK,
    Given.REAL_SERVER,
    Given.FORWARDING_METHOD,
    Given.WEIGHT,
    Given.U_THRESHOLD,
    Given.L_THRESHOLD,
    Given.MCAST_INTERFACE,
    Given.TIMEOUT,
    Given.DAEMON,
    Given.STATS,
    Given.RATE,
    Given.THRESHOLDS,
    Given.PERSISTENT_CONN,
    Given.NOSORT,
    Given.SYNCID,
    Given.EXACT,
    Given.OPS,
    Given.PE,
    Given.SCHED_FLAGS,
    Given.MCAST_GROUP,
    Given.MCAST_PORT,
    Given.MCAST_TTL,
    Given.SYNC_MAXLEN,
    Given.TUN_INFO,
    Given.TUN_TYPE,
    Given.TUN_PORT,
    Given.TUN_NOCSUM,
    Given.TUN_CSUM,
    Given.TUN_REMCSUM,
)


class Takes:
    """Whether an option has a value."""

    NOTHING = 0
    VALUE = 1
    MAYBE = 2  # the next word, unless that begins with a dash


class Option:
    """One spelling of a command (`command`) or of another option (`given`)."""

    __slots__ = ("command", "given", "long", "short", "takes")

    def __init__(
        self,
        long: str,
        short: str = "",
        takes: int = Takes.NOTHING,
        command: str | None = None,
        given: str = NOTHING,
    ) -> None:
        self.long = long
        self.short = short
        self.takes = takes
        self.command = command
        self.given = given


_COMMANDS = (
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
)
_OTHERS = (
    Option("tcp-service", "t", Takes.VALUE, given=Given.SERVICE_ADDRESS),
    Option("udp-service", "u", Takes.VALUE, given=Given.SERVICE_ADDRESS),
    Option("sctp-service", "", Takes.VALUE, given=Given.SERVICE_ADDRESS),
    Option("fwmark-service", "f", Takes.VALUE, given=Given.SERVICE_ADDRESS),
    Option("ipv6", "6"),
    Option("scheduler", "s", Takes.VALUE, given=Given.SCHEDULER),
    Option("pe", "", Takes.VALUE, given=Given.PE),
    Option("persistent", "p", Takes.MAYBE, given=Given.PERSISTENT),
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
)
OPTIONS = _COMMANDS + _OTHERS
BY_LETTER = {option.short: option for option in OPTIONS if option.short}
BY_NAME = {option.long: option for option in OPTIONS}
BY_WORD = {f"-{letter}": option for letter, option in BY_LETTER.items()} | {
    f"--{name}": option for name, option in BY_NAME.items()
}
