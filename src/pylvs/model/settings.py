"""IPVS's sysctls that pylvs has, by their names under net.ipv4.vs (IPVS-SEMANTICS 2.8)."""

from __future__ import annotations

from collections.abc import Mapping

from pylvs.model.dataclass import dataclass
from pylvs.model.errors import InvalidOperation, NoSuchSetting

LONGEST_S = 21474836  # the kernel's maximum of a time, at 100 ticks a second
PREFIX = "net.ipv4.vs."


@dataclass(frozen=True, slots=True)
class Setting:
    """One sysctl: its default, its bounds (both included) and its effect."""

    name: str
    default: int
    lowest: int
    highest: int
    meaning: str


_LARGEST = (1 << 31) - 1


def _integer(name: str, default: int, meaning: str) -> Setting:
    """Return a setting that takes any integer, as in the kernel: a switch is on unless it is 0."""
    return Setting(name, default, -1 << 31, (1 << 31) - 1, meaning)


def _mode(name: str, meaning: str) -> Setting:
    return Setting(name, 0, 0, 3, meaning)


SETTINGS = {
    setting.name: setting
    for setting in (
        _integer("am_droprate", 10, "drop_packet drops one of this number of packets; 0: none"),
        _integer("amemthresh", 1024, "accepted without effect: modes 1 and 2 never switch on"),
        _integer("backup_only", 0, "while a backup sync daemon runs, packets of services pass to the stack"),
        _integer("cache_bypass", 0, "packets of a firewall mark without a real server go on to where they were sent"),
        Setting("conn_max", 0, 1024, 1 << 26, "capacity of the connection table; 0: by memory, and it grows by itself"),
        _integer("conn_reuse_mode", 1, "what a SYN on a closed connection's ports does"),
        _integer("conntrack", 0, "accepted without effect: netfilter does not track packets that pylvs forwards"),
        _mode("drop_entry", "3: half-open connections end at random; 1 and 2: never, here"),
        _mode("drop_packet", "3: of packets that open a connection some are dropped; 1 and 2: never, here"),
        _integer("expire_nodest_conn", 0, "end connections of deleted destinations at once"),
        _integer("expire_quiescent_template", 0, "templates of destinations of weight 0 are not used"),
        _integer("ignore_tunneled", 0, "accepted without effect, as in IPVS behind a tunnel device"),
        Setting("lblc_expiration", 86400, 0, LONGEST_S, "seconds unused after which lblc forgets an address"),
        Setting("lblcr_expiration", 86400, 0, LONGEST_S, "the same for lblcr; a set unchanged so long loses a member"),
        _integer("nat_icmp_send", 0, "a NAT server's answer to no connection gets port unreachable"),
        _integer("pmtu_disc", 1, "tunnels copy DF and report the path MTU to the client"),
        _integer("run_estimation", 1, "0: displayed counters and rates do not change"),
        _integer("schedule_icmp", 0, "an ICMP error about no connection opens one"),
        _mode("secure_tcp", "3: a SYN alone is not a half-open connection; 1 and 2: never, here"),
        _integer("sloppy_sctp", 0, "any SCTP packet but ABORT opens a connection"),
        _integer("sloppy_tcp", 0, "any TCP packet but RST opens a connection"),
        _integer("snat_reroute", 1, "replies of NAT leave by the route from their virtual address"),
        _integer("sync_persist_mode", 0, "connections under a template are not sent to backups"),
        Setting("sync_period", 50, 0, _LARGEST, "the second number of sync_threshold"),
        Setting("sync_ports", 1, 1, 64, "UDP ports of a sync daemon, when it starts: a power of two"),
        Setting("sync_qlen_max", 16384, 0, _LARGEST, "messages that wait in a master sync daemon"),
        Setting("sync_refresh_period", 0, 0, LONGEST_S, "seconds between messages about an unchanged connection"),
        Setting("sync_retries", 0, 0, 3, "repeats of a message within a sync_refresh_period"),
        Setting("sync_sock_size", 0, 0, _LARGEST, "bytes of a sync daemon's socket buffer; 0: the system's default"),
        Setting("sync_threshold", 3, 0, _LARGEST, "which packets of a connection send it to backups"),
        Setting("sync_version", 1, 0, 1, "version of the messages of a master sync daemon"),
    )
}
PERIOD = "sync_period"  # the kernel shows it as the second number of sync_threshold
_THRESHOLD = "sync_threshold"


def known_setting(name: str) -> Setting:
    """Return the setting of a name with or without prefix. Raises NoSuchSetting, which lists similar ones."""
    short = name.removeprefix(PREFIX)
    if short in SETTINGS:
        return SETTINGS[short]
    import difflib  # late: only errors need it

    near = difflib.get_close_matches(short, SETTINGS, n=3) or sorted(SETTINGS)
    raise NoSuchSetting(f"{name}: no such setting; there are: {', '.join(PREFIX + each for each in near)}")


def parse_setting(text: str) -> tuple[Setting, int]:
    """Parse `net.ipv4.vs.NAME=VALUE` as `sysctl -w` does. Raises NoSuchSetting, InvalidOperation."""
    name, equals, value = text.partition("=")
    setting = known_setting(name.strip())
    if not equals:
        raise InvalidOperation(f"{text}: a value is missing; write {PREFIX}{setting.name}=VALUE")
    return setting, checked(setting, _number(text, value.strip()))


def _number(text: str, word: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise InvalidOperation(f"{text}: {word!r} is not a whole number") from None


def parse_changes(text: str, settings: Mapping[str, int] | None = None) -> list[tuple[Setting, int]]:
    """Parse as `parse_setting`, also two numbers for sync_threshold. `settings` are those in force, if known."""
    name, equals, value = text.partition("=")
    words = value.split()
    if known_setting(name.strip()).name != _THRESHOLD or not equals or not words:
        return [parse_setting(text)]
    if len(words) > 2:
        raise InvalidOperation(f"{text}: {PREFIX}{_THRESHOLD} has two numbers: threshold and period")
    pair = (SETTINGS[_THRESHOLD], SETTINGS[PERIOD])
    changes = [(setting, checked(setting, _number(text, word))) for setting, word in zip(pair, words, strict=False)]
    threshold, period = changes[0][1], changes[1][1] if len(changes) > 1 else (settings or {}).get(PERIOD, 0)
    if period and threshold >= period:
        raise InvalidOperation(f"{text}: the threshold must be less than the period, {period}, unless that is 0")
    return changes


def shown_value(name: str, settings: Mapping[str, int]) -> str:
    """Return a value as sysctl(8) prints it."""
    return f"{settings[name]} {settings[PERIOD]}" if name == _THRESHOLD else str(settings[name])


def checked(setting: Setting, value: int) -> int:
    """Return the value if it is the default or within the bounds. Raises InvalidOperation."""
    if setting.name == "sync_ports" and value & (value - 1):
        raise InvalidOperation(f"{PREFIX}{setting.name}={value}: must be a power of two")
    if value != setting.default and not setting.lowest <= value <= setting.highest:
        bounds = f"from {setting.lowest} to {setting.highest}"
        if not setting.lowest <= setting.default <= setting.highest:
            bounds = f"{setting.default}, or {bounds}"
        raise InvalidOperation(f"{PREFIX}{setting.name}={value}: must be {bounds}")
    return value
