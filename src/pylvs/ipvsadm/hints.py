"""What to do about a mistake: a hint behind ipvsadm's own message.

Hints go to stderr, and only if that is a terminal, or with `--hint`, or with PYLVS_HINT=1. Scripts see the output of
the real ipvsadm alone, and a hint never changes the exit status. `RULES` has the rule for each message.
`pylvs.ipvsadm.advice` has hints for commands that succeed. docs/reference/mistakes.md lists the mistakes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches

from pylvs.bpf.schedulers import SCHEDULERS
from pylvs.ipvsadm.options import (
    BY_LETTER,
    BY_NAME,
    COMMANDS,
    HINT,
    OPTIONS,
    Command,
    Given,
    Option,
    OptionError,
    Words,
    service_option,
)
from pylvs.ipvsadm.parsing import MAX_MARK, TUNNEL_KINDS, Names, Request, ipv4, presented, whole_number
from pylvs.model import sockets as socket
from pylvs.model.dataclass import dataclass
from pylvs.model.errors import PylvsError
from pylvs.model.service import GENERIC_FLAGS, LONGEST_S, MAX_PORT, MAX_WEIGHT, SCHEDULER_FLAGS, Method, ServiceKey

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from pylvs.model.director import Director

SCHEDULER_NAMES = {
    "round robin": "rr",
    "weighted round robin": "wrr",
    "least connection": "lc",
    "weighted least connection": "wlc",
    "locality based least connection": "lblc",
    "destination hashing": "dh",
    "source hashing": "sh",
    "ip hash": "sh",
    "maglev": "mh",
    "shortest expected delay": "sed",
    "never queue": "nq",
    "failover": "fo",
    "overflow": "ovf",
}
_UNITS_S = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_MOST_NAMED = 3


@dataclass(frozen=True, slots=True)
class Mistake:
    """A command line that failed, with ipvsadm's message; `error` and `request` are those of a refused edit."""

    words: Sequence[str]
    message: str
    director: Director
    names: Names
    error: PylvsError | None = None
    request: Request | None = None

    def value(self, given: str) -> str:
        """Return the value of an option as it was typed; "" without one."""
        return value_of(self.words, given)

    @property
    def reason(self) -> str:
        """The cause that the tables give, without the object."""
        return str(self.error).partition(": ")[2] or str(self.error)


def hint(mistake: Mistake) -> str:
    """Return the hint for a mistake; "" without one."""
    for part, rule in RULES:
        if part in mistake.message:
            return rule if isinstance(rule, str) else rule(mistake)
    return ""


def options_of(words: Sequence[str]) -> Iterator[tuple[Option, str | None]]:
    """Yield the options of a command line up to the first that cannot be read."""
    with contextlib.suppress(OptionError):
        yield from Words(words)


def value_of(words: Sequence[str], given: str) -> str:
    """Return the first value of an option; "" without one."""
    return next((value or "" for option, value in options_of(words) if option.given == given), "")


def did_you_mean(text: str, choices: Mapping[str, str] | Sequence[str]) -> str:
    """Return "did you mean rr?", or "" if no choice is similar; a mapping has what to write for each choice."""
    known = choices if isinstance(choices, Mapping) else {each: each for each in choices}
    plain = {each.replace(" ", ""): written for each, written in known.items()}
    near = get_close_matches(text.lower().replace("-", "").replace("_", ""), plain, 1, 0.6)
    return f"did you mean {plain[near[0]]}?" if near else ""


def _with(first: str, second: str) -> str:
    return f"{first} {second}" if first else second[:1].lower() + second[1:]


# The command line as a whole.


def _no_command(mistake: Mistake) -> str:
    words = [word for word in mistake.words if word != HINT]
    first = words[0] if words else ""
    if first.startswith("#"):
        return "-R takes no comments; ipvsadm-restore skips lines that begin with #"
    if not first.startswith("-"):
        meant = did_you_mean(first, {each.long: f"--{each.long}" for each in BY_NAME.values() if each.command})
        return _with(meant, "A command line begins with a command, as -A, -a, -L; ipvsadm -h lists them")
    if first.startswith("--"):
        meant = did_you_mean(first[2:], {each.long: f"--{each.long}" for each in BY_NAME.values() if each.command})
        if meant and first[2:].partition("=")[0] not in BY_NAME:
            return meant
    later = [each for word in words for each in _commands_in(word)]
    rest = "".join(letter for letter in first[1:] if letter not in later)
    if later and not first.startswith("--"):
        together = f"-{later[0]}{rest}" if later[0] in first else f"-{later[0]} {first} ..."
        return f"the command comes first: ipvsadm {together}"
    return "a command line begins with a command, as -A, -a, -L; ipvsadm -h lists them"


def _commands_in(word: str) -> list[str]:
    """Return the letters of commands in an argument of short options."""
    if not word.startswith("-") or word.startswith("--"):
        return []
    letters = [letter for letter in word[1:] if letter in BY_LETTER]
    return [letter for letter in letters if BY_LETTER[letter].command] if len(letters) == len(word) - 1 else []


def _unknown_option(mistake: Mistake) -> str:
    word = mistake.message.rpartition(": ")[0]
    name = word.lstrip("-").partition("=")[0]
    if not word.startswith("--") and name in BY_NAME:
        return f"a long option has two hyphens: --{name}"
    if word.startswith("--") or len(name) > 2:
        return did_you_mean(name, {each: f"--{each}" for each in BY_NAME}) or "ipvsadm -h lists the options"
    wrong = next((letter for letter in word[1:] if letter not in BY_LETTER), "")
    return f"there is no option -{wrong}; ipvsadm -h lists the options"


def _missing_value(mistake: Mistake) -> str:
    word = mistake.message.rpartition(": ")[0]
    option = BY_NAME.get(word.lstrip("-")) or BY_LETTER.get(word[-1:])
    example = EXAMPLES.get(option.given, "") if option else ""
    return f"a value follows {word}" + (f", as in {example}" if example else "")


def _second_command(mistake: Mistake) -> str:
    return "one call has one command; for several, give one in each line to ipvsadm -R"


def _superfluous(mistake: Mistake) -> str:
    word = mistake.message.rpartition(" ")[2]
    found = options_of(mistake.words)
    command = next((option.command for option, _ in found if option.command), None)
    if word in SCHEDULERS:
        return f"write -s {word}"
    if command in (Command.ADD_SERVER, Command.EDIT_SERVER, Command.DELETE_SERVER):
        return f"if it is the real server, write -r {word}"
    if command in (Command.ADD_SERVICE, Command.EDIT_SERVICE, Command.DELETE_SERVICE, Command.LIST):
        return f"if it is the service, write -t {word}, or -u for UDP"
    return "it belongs to no option; -h lists what takes a value"


def _illegal_option(mistake: Mistake) -> str:
    _, option, _, command, _ = mistake.message.split("'", 4)
    if command not in COMMANDS:  # a type of tunnel
        return f"the type {command} does not have it; --tun-port is of gue, checksums are of gue and gre"
    letter = next((f"-{each.short}" for each in OPTIONS if each.command == command and each.short), f"--{command}")
    of_server = COMMANDS[Command.ADD_SERVER].needs | COMMANDS[Command.ADD_SERVER].takes
    of_service = COMMANDS[Command.ADD_SERVICE].takes
    if command in (Command.ADD_SERVICE, Command.EDIT_SERVICE) and option in of_server:
        return f"{letter} is about the service; its real servers are added by ipvsadm -a -t SERVICE -r SERVER"
    if command in (Command.ADD_SERVER, Command.EDIT_SERVER) and option in of_service:
        return f"it belongs to the service: ipvsadm -A or -E; {letter} is about one real server"
    if command in (Command.DELETE_SERVICE, Command.DELETE_SERVER):
        server = " and its real server, -r" if command == Command.DELETE_SERVER else ""
        return f"{letter} takes the service{server}, nothing else"
    if command == Command.ZERO and option == Given.REAL_SERVER:
        return "-Z sets the counters of a service with all its real servers to 0"
    rule = COMMANDS[command]
    takes = [f"--{each}" for each in sorted(rule.needs | rule.takes | rule.one_of) if each in BY_NAME]
    return f"{letter} takes {', '.join(takes)}" if takes else f"{letter} takes no options"


EXAMPLES = {
    Given.SERVICE_ADDRESS: "-t 192.0.2.1:80",
    Given.REAL_SERVER: "-r 198.51.100.11:80",
    Given.SCHEDULER: "-s rr",
    Given.WEIGHT: "-w 1",
    Given.TUN_PORT: "--tun-port 6080",
    Given.TUN_TYPE: "--tun-type gue",
    Given.NETMASK: "-M 255.255.255.0",
}


def _needed(mistake: Mistake) -> str:
    option = mistake.message.split("'")[1]
    if option == Given.SERVICE_ADDRESS:
        return "name the service: -t 192.0.2.1:80, -u for UDP, --sctp-service, or -f MARK"
    if option == Given.TUN_PORT:
        return "GUE needs the port on which the real server decapsulates: --tun-port 6080"
    return f"add it, as in {EXAMPLES[option]}" if option in EXAMPLES else ""


def _twice(mistake: Mistake) -> str:
    option = mistake.message.split("'")[1]
    if option == Given.SERVICE_ADDRESS:
        return "a service has either an address (-t, -u, --sctp-service) or a firewall mark (-f)"
    if option == Given.FORWARDING_METHOD:
        return "a real server has one method: -g (direct routing), -i (tunnel) or -m (NAT)"
    return f"write --{option} once"


# Values.


def _no_port(mistake: Mistake) -> str:
    text = mistake.value(Given.SERVICE_ADDRESS)
    if text.count(":") <= 1:
        return f"write a port, as in {text.partition(':')[0]}:80; a service of all ports needs -p"
    if meant := _with_brackets(text):
        return f"{text} is an address without a port; write {meant}"
    return f"write a port behind brackets, as in [{text}]:80; a service of all ports needs -p"


def _with_brackets(text: str) -> str:
    """Return an IPv6 address with a port behind it as both are written; "" if the text is something else."""
    host, _, port = text.rpartition(":")
    return f"[{host}]:{port}" if port.isdecimal() and presented(host, socket.AF_INET6) else ""


def _bad_service(mistake: Mistake) -> str:
    protocols = {"tcp-service": socket.IPPROTO_TCP, "udp-service": socket.IPPROTO_UDP}
    for option, value in options_of(mistake.words):
        if option.given == Given.SERVICE_ADDRESS:
            text = value or ""
            return bad_endpoint(text, protocols.get(option.long, socket.IPPROTO_SCTP), mistake.names)
    return ""


def _bad_server(mistake: Mistake) -> str:
    return bad_endpoint(mistake.value(Given.REAL_SERVER), socket.IPPROTO_TCP, mistake.names)


def bad_endpoint(text: str, protocol: int, names: Names) -> str:
    """Return what is wrong with a text that should be ADDRESS[:PORT]."""
    if "://" in text:
        return f"write ADDRESS:PORT, not a URL: {text.partition('://')[2].rstrip('/')}"
    if "/" in text:
        return f"write one address without a prefix length: {text.partition('/')[0]}; for a network use a mark (-f)"
    if text.isdecimal():
        return f"{text} alone is a port; write ADDRESS:{text}"
    if text.startswith("["):
        host, bracket, behind = text[1:].partition("]")
        if not bracket and (meant := _with_brackets(host)):
            return f"write {meant}"
        if not bracket or not behind.startswith(":"):
            return f"write [{host}]:80, with a port behind the bracket"
        port = behind[1:]
    elif text.count(":") > 1:
        host, port = text, ""
    else:
        host, _, port = text.partition(":")
    address = presented(host, socket.AF_INET6) if ":" in host else ipv4(host, names)
    if address is None:
        return _bad_host(host)
    if whole_number(port, -MAX_PORT, 1 << 62) is not None:
        return f"port {port} is out of range: 1 to {MAX_PORT}, or 0 for every port"
    return f"{port} is no port name of this protocol in /etc/services; write a number" if port else ""


def _bad_host(host: str) -> str:
    parts = host.split(".")
    if "%" in host:
        return f"{host}: an address in the table has no zone; write {host.partition('%')[0]}"
    if ":" in host:
        return f"{host} is no IPv6 address"
    if all(part.isdecimal() for part in parts):
        large = next((part for part in parts if int(part) > 255), None)
        return f"{host}: {large} is above 255" if large else f"{host} is no IPv4 address"
    return f"{host}: this host finds no IPv4 address of that name (/etc/hosts, DNS); write the address"


def _scheduler(mistake: Mistake) -> str:
    request = mistake.request
    if request is None:
        return ""
    if "persistence engine" in str(mistake.error):
        known = str(mistake.error).rpartition("there are: ")[2]
        meant = did_you_mean(request.engine, known.split(", "))
        return _with(meant, f"The persistence engines are: {known or 'none'}")
    choices = {name: name for name in SCHEDULERS} | SCHEDULER_NAMES
    return _with(did_you_mean(request.scheduler, choices), f"The schedulers are: {' '.join(SCHEDULERS)}")


def _timeout(mistake: Mistake) -> str:
    text = mistake.message.partition("`")[2].partition("'")[0]
    number = text.rstrip("abcdefghijklmnopqrstuvwxyz")
    unit = _UNITS_S.get(text[len(number) :])
    if unit and number.isdecimal():
        return f"times are in seconds, without a unit: {int(number) * unit}"
    return f"times are whole seconds, at most {LONGEST_S} (31 days)"


def _mark(mistake: Mistake) -> str:
    text = mistake.value(Given.SERVICE_ADDRESS)
    try:
        if (number := int(text, 16)) and text.lower().startswith("0x"):
            return f"ipvsadm takes decimal numbers: -f {number}"
    except ValueError:
        pass
    return f"-f takes the mark as a decimal number, 1 to {MAX_MARK}; pylvs mark add sets it on packets"


def _mask(mistake: Mistake) -> str:
    text = mistake.value(Given.NETMASK).lstrip("/")
    if text.isdecimal() and int(text) <= 32:
        return f"write the mask of /{text}: -M {mask_text(int(text))}"
    return "write a mask, as -M 255.255.255.0; a service of IPv6 has a prefix length, as -M 64"


def mask_text(prefix: int) -> str:
    """Return the netmask of an IPv4 prefix length."""
    raw = (0xFFFFFFFF << (32 - prefix)) & 0xFFFFFFFF
    return socket.inet_ntoa(raw.to_bytes(4, "big"))


def _flag(mistake: Mistake) -> str:
    word = mistake.message.partition("`")[2].rstrip("'")
    scheduler = mistake.value(Given.SCHEDULER)
    own = [*SCHEDULER_FLAGS.get(scheduler, {}), *GENERIC_FLAGS]
    return _with(did_you_mean(word, own), f"The flags of {scheduler or 'wlc'} are: {', '.join(own)}")


def _tunnel_kind(mistake: Mistake) -> str:
    return _with(did_you_mean(mistake.value(Given.TUN_TYPE), list(TUNNEL_KINDS)), "The types are: ipip, gue, gre")


def _families(mistake: Mistake) -> str:
    of_service = "IPv6" if mistake.value(Given.SERVICE_ADDRESS).count(":") > 1 or _has(mistake, "ipv6") else "IPv4"
    return f"the service is {of_service}; add -i (a tunnel), or name an {of_service} address of the server"


def _has(mistake: Mistake, name: str) -> bool:
    return any(option.long == name for option, _ in options_of(mistake.words))


# What the tables refuse.


def _no_service(mistake: Mistake) -> str:
    """Name the service that was probably meant, else what adds it."""
    request = mistake.request
    if request is None:
        return ""
    if text := _unbracketed(mistake):
        return text
    key = request.service_key()
    known = [row.service.key for row in mistake.director.services()]
    near = [each for each in known if _similar(each, key)]
    near = [each for each in near if each.port == key.port] or near
    there = f"there is {', '.join(map(str, near[:_MOST_NAMED]))}" if near else ""
    if request.command in (Command.DELETE_SERVICE, Command.LIST, Command.ZERO):
        return there or "ipvsadm -Ln lists the services"
    add = f"add the service first: ipvsadm -A {service_option(key)} -s rr"
    return f"{there}; or {add}" if there else add


def _unbracketed(mistake: Mistake) -> str:
    """Return the hint for an IPv6 address with a port but without brackets."""
    request = mistake.request
    if request is None or request.port or request.family != socket.AF_INET6 or request.mark:
        return ""
    text = _no_port(mistake)
    return text if " is an address without a port; " in text else ""


def _similar(one: ServiceKey, other: ServiceKey) -> bool:
    if one.mark or other.mark:
        return one.mark == other.mark or (one.family == other.family and one.mark != 0 and other.mark != 0)
    return one.address == other.address


def _server_exists(mistake: Mistake) -> str:
    request = mistake.request
    if request is None:
        return ""
    key = request.destination_key()
    text = f"{key} is in the service; -e edits it"
    if request.method is not Method.MASQ and not request.mark:
        text += "; with -g and -i its port is always that of the service"
    return text


def _no_server(mistake: Mistake) -> str:
    request = mistake.request
    if request is None:
        return ""
    rows = mistake.director.service(request.service_key()).destinations
    keys = [row.destination.key for row in rows]
    near = [key for key in keys if key.address == request.server] or keys
    if not near:
        return "the service has no real servers; -a adds one"
    more = f" and {len(near) - _MOST_NAMED} more" if len(near) > _MOST_NAMED else ""
    return f"the service has {', '.join(map(str, near[:_MOST_NAMED]))}{more}"


def _reason(mistake: Mistake) -> str:
    return mistake.reason


Rule = str | Callable[[Mistake], str]
# The first rule whose text is in ipvsadm's message.
RULES: Sequence[tuple[str, Rule]] = (
    ("Try `ipvsadm -h'", _no_command),
    (": unknown option", _unknown_option),
    (": missing argument", _missing_value),
    ("does not take an argument", "leave out what follows the option"),
    ("invalid option `", _second_command),
    ("multiple '", _twice),
    ("unexpected argument ", _superfluous),
    ("You need to supply the '", _needed),
    ("Illegal '", _illegal_option),
    ("' conflicts with the '", "they exclude each other: give one of them"),
    ("options conflicts in the list command", "-c, --timeout and --daemon have no counters: leave those options out"),
    ("--set option requires 3 timeout values", "they are TCP, TCP after FIN, UDP: --set 900 120 300; 0 keeps one"),
    ("Zero port specified", _no_port),
    ("illegal virtual server address", _bad_service),
    ("illegal real server address", _bad_server),
    ("Scheduler or persistence engine not found", _scheduler),
    ("invalid timeout value", _timeout),
    ("invalid fwmark value", _mark),
    ("-6 used before -f", "write -f MARK -6; an address shows its family itself"),
    ("persistent mask specified", _mask),
    ("illegal ipv6 netmask", "a service of IPv6 has a prefix length, 1 to 128: -M 64"),
    ("scheduler flag `", _flag),
    ("illegal weight", f"-w takes 0 to {MAX_WEIGHT}; a server of weight 0 gets no new connections"),
    ("_threshold specified", f"a threshold is a number of connections, 0 to {MAX_WEIGHT}; 0 is none"),
    ("illegal tunnel type", _tunnel_kind),
    ("illegal tunnel port", f"a port is a number from 1 to {MAX_PORT}"),
    ("Tunnel options conflict", "--tun-type and its options need a tunnel: add -i"),
    ("Different address family", _families),
    ("One-Packet Scheduling", "leave out -o: each packet of TCP would be a connection of its own; -u has -o"),
    ("Service already exists", "-E edits a service, and -D deletes it"),
    ("Service not defined", _no_service),
    ("No such service", _no_service),
    ("Destination already exists", _server_exists),
    ("No such destination", _no_server),
    ("Numerical result out of range", _reason),
    ("Invalid operation", _reason),
)
