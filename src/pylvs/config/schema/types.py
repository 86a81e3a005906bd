"""The types of values that keywords of several blocks have, and those of global_defs."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_address, ip_network
from pathlib import PurePath
from typing import Any, Generic, TypeVar

from pylvs.config.language.lexer import split_arguments
from pylvs.config.language.tree import Severity, Word
from pylvs.config.schema.grammar import BadValue, Keyword, Type, Words, did_you_mean
from pylvs.model.addresses import Address, Network
from pylvs.model.checks import Script
from pylvs.model.dataclass import dataclass
from pylvs.model.service import LONGEST_S, TIMEOUT_NAMES
from pylvs.model.vrrp import Fifo
from pylvs.model.wanted import PEER_PORT

T = TypeVar("T")

MAX_INTEGER = 0x7FFFFFFF
MAX_U32 = 0xFFFFFFFF
MAX_SECONDS = 4294.0  # keepalived keeps microseconds in 32 bits
MAX_DIGITS = 40  # Python rejects integers of thousands of digits
SMTP_PORT = 25
TRUE = ("on", "true", "yes")
FALSE = ("off", "false", "no")
LEADING = re.compile(r"[ \t\v\f\r\n]*([+-]?[0-9]+)")  # as strtol() reads a word
NUMBER = re.compile(LEADING.pattern + r"\Z")
DECIMAL = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)\Z")
SHELLS = ("sh", "bash", "dash", "ash", "ksh", "zsh", "busybox")
OPENS = re.compile(r"<[ \t]*/")  # "</dev/tcp/127.0.0.1/80" is a redirection, which only a shell can do


@dataclass(frozen=True, slots=True)
class Written(Generic[T]):
    """A value, and the words that findings about it, its devices and its track_group refer to."""

    value: T
    word: Word
    devices: tuple[Word, ...] = ()  # which must exist on this machine
    group: Word | None = None


def plain(number: float) -> str:
    """Format a number without exponent and trailing zeros: 0.000001, 30, 2.5."""
    return f"{number:.6f}".rstrip("0").rstrip(".")


def number_of(word: Word) -> int:
    """Parse a whole decimal number; raises BadValue."""
    if not NUMBER.match(word.text):
        raise BadValue(f"'{word.text}' is not a whole number", word=word)
    digits = word.text.strip().lstrip("+-")
    if len(digits) > MAX_DIGITS:
        raise BadValue(f"a number of {len(digits)} digits is too large", word=word)
    return int(word.text)


def number_within(word: Word, minimum: int, maximum: int, what: str = "", advice: str = "") -> int:
    """Parse a whole number from `minimum` to `maximum`; raises BadValue, which begins with `what`."""
    value = number_of(word)
    if not minimum <= value <= maximum:
        raise BadValue(f"{what} {word.text} is not between {minimum} and {maximum}".lstrip(), advice, word)
    return value


def leading_number(words: Words, word: Word, minimum: int, maximum: int, adjust: Callable[[int], int] = int) -> int:
    """Parse the whole number that a word begins with, by default 0; report what follows it. Raises BadValue.

    keepalived reads most numbers so, except with `keepalived -t`. A number out of the limits must be the whole word.
    Of a part of a word, what `adjust` returns counts.
    The report is an error: `8O` is a typing error, and a reload refuses it rather than change the port to 8.
    """
    match = LEADING.match(word.text)
    value = int(match[1][: MAX_DIGITS + 1]) if match else 0
    if NUMBER.match(word.text) or not minimum <= value <= maximum:
        return number_of(word)
    value = adjust(value)
    words.error(word, f"'{word.text}' is not a whole number; {value} counts", "write decimal digits alone")
    return value


def leading_within(
    words: Words, word: Word, minimum: int, maximum: int, what: str = "", adjust: Callable[[int], int] = int
) -> int:
    """Parse the number that a word begins with, from `minimum` to `maximum`; raises BadValue, as `number_within`."""
    value = leading_number(words, word, minimum, maximum, adjust)
    return value if minimum <= value <= maximum else number_within(word, minimum, maximum, what)


def address_of(word: Word, with_port: bool = False) -> Address:
    """Parse an IPv4 or IPv6 address; raises BadValue, whose advice splits ADDRESS:PORT if a port may follow."""
    for mark, advice in {"/": "write it without a prefix length", "%": "write it without a device"}.items():
        if mark in word.text:
            raise BadValue(f"'{word.text}' is not an IP address", advice, word)
    try:
        return ip_address(word.text)
    except ValueError:
        host, colon, port = word.text.rpartition(":")
        split = with_port and colon and port.isdigit() and host
        raise BadValue(
            f"'{word.text}' is not an IP address", f"write {host.strip('[]')} {port}" if split else "", word
        ) from None


def address_in(words: Words, word: Word, with_port: bool = False) -> Address:
    """Parse an address; as in keepalived, a prefix length or an end of a range is ignored, with a warning."""
    mark = "-" if "-" in word.text else "/"
    host, found, rest = word.text.partition(mark)
    address = address_of(Word(host, word.location, word.quoted) if found else word, with_port)
    if found:
        what = "prefix length" if mark == "/" else "end of a range"
        words.warn(word, f"the {what} {mark}{rest} has no meaning here and is ignored", f"write {host}")
    return address


def port_of(words: Words, what: str = "a port") -> int:
    """Take a port; raises BadValue."""
    return leading_within(words, words.take(what), 1, 65535, "port")


def _boolean(words: Words) -> bool:
    word = words.take("on|off")
    lower = word.text.lower()
    if lower not in TRUE + FALSE:
        raise BadValue(f"'{word.text}' is neither yes nor no", f"write one of {', '.join(TRUE + FALSE)}", word)
    if lower != word.text:
        words.warn(word, f"'{word.text}' counts as '{lower}' here, and is invalid in keepalived", f"write '{lower}'")
    return lower in TRUE


def _bare(words: Words) -> bool:
    """Return True; an `off` behind the keyword does not turn it off, as in keepalived."""
    word = words.peek()
    if word is not None and word.text.lower() in FALSE:
        keyword = words.node.keyword
        text = f"surplus '{words.take('').text}' behind {keyword} is ignored: {keyword} is on"
        words.typo(word, text, f"remove {keyword}")
    return True


def integer(minimum: int = 0, maximum: int = MAX_INTEGER, bare: int | None = None, exact: bool = False) -> Type[int]:
    """Make the type of whole numbers from `minimum` to `maximum`; `bare` is the value of the keyword alone.

    Unless `exact`, a word such as `10;` counts as 10, with an error.
    """
    syntax = f"a whole number, {minimum} to {maximum}"

    def parse(words: Words) -> int:
        if not words and bare is not None:
            return bare
        word = words.take(syntax)
        return number_within(word, minimum, maximum) if exact else leading_within(words, word, minimum, maximum)

    return Type(syntax, parse)


def seconds(minimum: float = 0.0, maximum: float = MAX_SECONDS, outside: Severity = Severity.ERROR) -> Type[float]:
    """Make the type of seconds with an optional fraction; `outside` is the severity of a number out of the limits.

    A word such as `10s` is an error: keepalived reads it as ten microseconds.
    """
    return _decimal("seconds", " of seconds", " seconds", minimum, maximum, outside)


def real(minimum: float, maximum: float) -> Type[float]:
    """Make the type of numbers with a fraction."""
    return _decimal(f"a number, {plain(minimum)} to {plain(maximum)}", "", "", minimum, maximum)


def _decimal(
    what: str, kind: str, unit: str, minimum: float, maximum: float, outside: Severity = Severity.ERROR
) -> Type[float]:
    bounds = plain(minimum), plain(maximum)

    def parse(words: Words) -> float:
        word = words.take(what)
        if not DECIMAL.match(word.text):
            raise BadValue(f"'{word.text}' is not a number{kind}", word=word)
        if not minimum <= float(word.text) <= maximum:
            raise BadValue(f"{word.text}{unit} is not between {' and '.join(bounds)}", word=word, severity=outside)
        return float(word.text)

    return Type(f"seconds, {bounds[0]} to {bounds[1]}" if unit else what, parse)


def nearest(minimum: int, maximum: int) -> Type[int]:
    """Make the type of whole numbers of which one below `minimum` or above `maximum` counts as that, with an error."""
    syntax = f"a whole number, {minimum} to {maximum}"

    def nearest_to(value: int) -> int:
        return min(max(value, minimum), maximum)

    def parse(words: Words) -> int:
        word = words.take(syntax)
        written = leading_within(words, word, -MAX_INTEGER - 1, MAX_INTEGER, adjust=nearest_to)
        value = nearest_to(written)
        if value != written:
            text = f"{words.node.keyword} {written} is not between {minimum} and {maximum}; {value} counts"
            words.error(word, text, f"write {value}")
        return value

    return Type(syntax, parse)


def at_least_one(maximum: int = MAX_U32) -> Type[int]:
    """Make the type of a positive whole number; 0 counts as 1, with a warning."""
    syntax = f"a whole number, 1 to {maximum}"

    def parse(words: Words) -> int:
        word = words.take(syntax)
        value = leading_number(words, word, 0, maximum, lambda number: max(1, number))
        if not 0 <= value <= maximum:
            raise BadValue(f"{word.text} is not between 1 and {maximum}", "", word)
        if value == 0:
            words.warn(word, f"{words.node.keyword} 0 counts as 1", "write 1")
        return max(1, value)

    return Type(syntax, parse)


def text(what: str = "a string") -> Type[str]:
    """Make the type of one word or quoted string."""
    return Type(what, lambda words: words.take(what).text)


def texts(what: str = "words", minimum: int = 0) -> Type[tuple[str, ...]]:
    """Make the type of all words of the line, at least `minimum`."""

    def parse(words: Words) -> tuple[str, ...]:
        found = tuple(word.text for word in words.rest())
        if len(found) < minimum:
            words.take(what)
        return found

    return Type(what, parse)


def choices(*names: str) -> Type[tuple[str, ...]]:
    """Make the type of one or several of these words."""
    one = choice(*names)

    def parse(words: Words) -> tuple[str, ...]:
        found = [one.parse(words)]
        while words:
            found.append(one.parse(words))
        return tuple(found)

    return Type(f"{one.syntax} ...", parse)


def _networks(words: Words) -> tuple[Network, ...]:
    found = []
    for word in (words.take("an address or a network"), *words.rest()):
        try:
            found.append(ip_network(word.text, strict=False))
        except ValueError:
            raise BadValue(f"'{word.text}' is no address and no network", "write 192.0.2.0/24", word) from None
    return tuple(found)


def choice(*names: str, any_case: bool = False) -> Type[str]:
    """Make the type of one of these words. Case is significant, as in keepalived, unless `any_case`."""
    syntax = "|".join(names)
    known = {name.lower() if any_case else name: name for name in names}

    def parse(words: Words) -> str:
        word = words.take(syntax)
        found = known.get(word.text.lower() if any_case else word.text)
        if found is None:
            raise BadValue(f"'{word.text}' is not one of {', '.join(names)}", did_you_mean(word.text, names), word)
        return found

    return Type(syntax, parse)


def one_or_nothing(name: str, with_it: T, alone: T) -> Type[T]:
    """Make the type of the keyword alone, or with one word that changes its value."""

    def parse(words: Words) -> T:
        word = words.peek()
        if word is None:
            return alone
        if words.take_if(name) is None:
            raise BadValue(f"'{word.text}' is not known here", f"write {name}, or nothing", word)
        return with_it

    return Type(f"[{name}]", parse)


def _endpoint(words: Words) -> tuple[Address, int]:
    return address_of(words.take("an IP address"), with_port=True), port_of(words)


def _other_director(words: Words) -> tuple[Address, int]:
    return address_of(words.take("an IP address")), port_of(words) if words else PEER_PORT


def account(words: Words, required: bool = False) -> tuple[str, str]:
    """Take a user, optional unless `required`, and an optional group; "" for what is missing."""
    user = words.take("a user").text if words or required else ""
    return user, words.take("").text if words else ""


def arguments_of(word: Word) -> tuple[str, ...]:
    """Split a word at blanks outside of quotes into program and arguments; raises BadValue."""
    if OPENS.match(word.text):
        return "/bin/sh", "-c", word.text
    try:
        found = split_arguments(word.text)
    except ValueError:
        raise BadValue(f"a quote in '{word.text}' is not closed", "close it", word) from None
    if not found or not found[0]:
        raise BadValue("no program is named", "name one", word)
    return found


_SHELL_WORD = re.compile(r"(?:\d*|&)(?:>>?|<<?)(?:&?\d+|[^=<>]*)|\|\|?|&&?|\S*[^\\\s];|;|.*(?:`.*`|\$\().*", re.DOTALL)


_SHELL_OPTION = re.compile(r"-[a-z]*c", re.ASCII)


def _shell_word(arguments: Sequence[str]) -> str:
    """Return the first argument that only a shell would obey; "" if there is none, or if a shell gets them."""
    others = arguments[1:]
    shells = any(PurePath(each).name in SHELLS for each in arguments)
    if shells and any(_SHELL_OPTION.fullmatch(each) for each in others):
        return ""
    if "-exec" in others or "-execdir" in others:  # of find(1), whose commands end with ";"
        others = [each for each in others if each != ";"]
    return next((each for each in others if _SHELL_WORD.fullmatch(each)), "")


def _script(words: Words, alone: bool = False) -> Written[Script]:
    word = words.take("a program")
    arguments = arguments_of(word)
    if found := _shell_word(arguments):
        text = f"no shell runs this: '{found}' is an argument of {arguments[0]}"
        words.note(word, text, "write a script file, or /bin/sh -c '...' within the quotes")
    return Written(Script(arguments, *(() if alone else account(words))), word)


FLAG = Type("[on|off]", lambda words: _boolean(words) if words else True)  # alone it means yes
BARE = Type("", _bare)  # the keyword alone
TEXT = text()
ADDRESS = Type("an IP address", lambda words: address_in(words, words.take("an IP address")))
ENDPOINT = Type("an IP address and a port", _endpoint)
OTHER_DIRECTOR = Type("an IP address [a port]", _other_director)
COUNT = integer(0, MAX_U32)
PORT = integer(1, 65535)
MARK = integer(1, MAX_U32)
USER = Type("user [group]", lambda words: account(words, required=True))
SCRIPT_ALONE = Type("a program with its arguments in quotes", lambda words: _script(words, alone=True))
SCRIPT = Type("a program with its arguments in quotes [user [group]]", _script)


def flag(name: str, doc: str, default: bool = False, **more: Any) -> Keyword:
    """Make a keyword `NAME [on|off]`; `more` are further fields of Keyword."""
    return Keyword(name, FLAG, doc, default, **more)


def bare(name: str, doc: str, **more: Any) -> Keyword:
    """Make a keyword that stands alone; without it the value is off."""
    return Keyword(name, BARE, doc, False, **more)


def script(name: str, doc: str, kind: Type[object] = SCRIPT) -> Keyword:
    """Make a keyword with a program to run; as in keepalived the first one of several counts."""
    return Keyword(name, kind, doc, first_wins=True)


_HOST = re.compile(r"[^\W_](?:[\w.-]*\w)?\.?|[0-9a-fA-F:.]*:[0-9a-fA-F:.]*(?:%\S+)?")  # a name, also of IDNA, or IPv6


def _mail_server(words: Words) -> tuple[str, int]:
    word = words.take("a mail server")
    server = word.text
    if server.count(":") == 1:
        host, _, port = server.partition(":")
        raise BadValue(f"'{server}' is neither an address nor a name", f"write '{host} {port}'", word)
    if not _HOST.fullmatch(server):
        raise BadValue(f"'{server}' is neither an address nor a name", "write one of them", word)
    return server, port_of(words) if words else SMTP_PORT


def _mail_timeout(words: Words) -> float:
    """Parse seconds: whole ones as keepalived does, or a fraction."""
    word = words.peek()
    if word is not None and "." in word.text and DECIMAL.match(word.text):
        return seconds(0.000001).parse(words)
    return float(at_least_one(int(MAX_SECONDS)).parse(words))


def _fifo(words: Words) -> Fifo:
    """Parse the path of a named pipe and its owner; another keyword names its reader."""
    return Fifo(_absolute(words), *account(words))


def _cpus(words: Words) -> tuple[int, ...]:
    found, last = [], (os.cpu_count() or 1) - 1
    for word in (words.take("the number of a CPU"), *words.rest()):
        number = leading_number(words, word, 0, last)
        if not 0 <= number <= last:
            raise BadValue(f"this machine has no CPU {word.text}", f"write one of 0 to {last}", word)
        found.append(number)
    return tuple(found)


def _timeouts(words: Words) -> Mapping[str, int]:
    """Parse pairs of a name and seconds; 0 leaves the timeout unchanged. As in keepalived only a bad pair is ignored.

    Raises BadValue for a line of less than two words.
    """
    found: dict[str, int] = {}
    word: Word | None = words.take("one of tcp, tcpfin and udp with seconds")
    if not words:
        words.take("seconds")
    while word is not None:
        if word.text not in TIMEOUT_NAMES:
            near = did_you_mean(word.text, TIMEOUT_NAMES) or "tcp, tcpfin or udp"
            words.error(word, f"there is no timeout '{word.text}'; it is ignored", near)
        elif not words:
            words.error(word, f"{word.text} lacks seconds; it is ignored", f"write '{word.text} SECONDS'")
        else:
            try:
                found[word.text] = number_within(words.take("seconds"), 0, LONGEST_S, word.text)
            except BadValue as problem:
                words.error(problem.word or word, f"{problem.text}; {word.text} is ignored", problem.advice)
        word = words.take("") if words else None
    return found


def _flush_on_stop(words: Words) -> str:
    """Parse what to remove at the end: "all", or with VS the services of the configuration, "vs"."""
    if not words:
        return "all"
    word = words.take("")
    if word.text.lower() != "vs":
        raise BadValue(f"'{word.text}' cannot be flushed", "write VS, or nothing", word)
    return "vs"


def _agentx(words: Words) -> str:
    """Parse the socket of a master agent: a path, or host and port of a TCP port."""
    word = words.take("a socket")
    kind, colon, rest = word.text.partition(":")
    where = rest if colon and kind in ("unix", "tcp") else word.text
    host, _, port = where.rpartition(":")
    if not (where.startswith("/") or (kind != "unix" and host and port.isascii() and port.isdigit())) or kind == "udp":
        raise BadValue(f"'{word.text}' is no socket of AgentX", "write unix:/PATH or tcp:HOST:PORT", word)
    return word.text


def _absolute(words: Words, alone: str | None = None) -> str:
    """Parse an absolute path; `alone` is the value without one."""
    if not words and alone is not None:
        return alone
    word = words.take("a path")
    if not word.text.startswith("/"):
        raise BadValue(f"'{word.text}' is no absolute path", "begin it with /", word)
    return word.text


def _web_url(words: Words) -> str:
    """Parse the URL of the web page: a scheme, a host with perhaps a port, and the path of its folder."""
    word = words.take("a URL")
    if not _WEB_URL.fullmatch(word.text):
        raise BadValue(f"'{word.text}' is not the URL of a page", "write https://lb.example.org/pylvs/", word)
    return word.text.rstrip("/") + "/"


def path_or(alone: str) -> Type[str]:
    """Make the type of an absolute path; `alone` is the value of the keyword without one."""
    return Type("[an absolute path]", lambda words: _absolute(words, alone))


def _file_name(words: Words, what: str) -> str:
    """Parse a name that becomes a part of file names."""
    word = words.take(what)
    if not FILE_NAME.match(word.text):
        raise BadValue(f"'{word.text}' is not {what}", "write a name without / that does not begin with a dot", word)
    return word.text


def _umask(words: Words) -> int:
    """Parse a number in C's notation, or names of mode bits such as IWGRP|IWOTH."""
    word = words.take("a mask")
    if word.text[:1].isdigit():
        try:
            value = int(word.text, 0) if word.text[:2].lower() == "0x" or word.text[0] != "0" else int(word.text, 8)
        except ValueError:
            raise BadValue(f"'{word.text}' is not a mask", "write it as 022", word) from None
        if value > 0o777:
            raise BadValue(f"mask {word.text} is greater than 0777", "write it as 022", word)
        return value
    value = 0
    for name in "".join(each.text for each in (word, *words.rest())).split("|"):
        if name not in MODE_BITS:
            raise BadValue(f"'{name}' is not the name of a mode bit", did_you_mean(name, list(MODE_BITS)), word)
        value |= MODE_BITS[name]
    return value


def _bus_name(words: Words) -> str:
    word = words.take("a name on the bus")
    if len(word.text) > MAX_BUS_NAME or not BUS_NAMES.match(word.text):
        raise BadValue(f"'{word.text}' is not a name on the bus", "write one such as org.keepalived.Vrrp1.second", word)
    return word.text


def _path_element(words: Words) -> str:
    word = words.take("a string")
    if not word.text:
        raise BadValue("a path on the bus has no empty element", "write a word such as none", word)
    return word.text


MAX_BUS_NAME = 255
BUS_NAMES = re.compile(r"[A-Za-z_-][A-Za-z0-9_-]*(\.[A-Za-z_-][A-Za-z0-9_-]*)+\Z")  # D-Bus specification, Bus Names
FILE_NAME = re.compile(r"[^./\x00-\x20\x7f][^/\x00-\x20\x7f]{0,200}\Z")
MODE_BITS = {
    f"I{letter}{who}": getattr(stat, f"S_I{letter}{who}") for who in ("USR", "GRP", "OTH") for letter in "RWX"
} | {f"IRWX{who[0]}": getattr(stat, f"S_IRWX{who[0]}") for who in ("USR", "GRP", "OTH")}
PATH = Type("an absolute path", _absolute)
WEB_URL = Type("https://HOST[:PORT][/PATH]", _web_url)
_WEB_URL = re.compile(
    r"https?://[A-Za-z0-9._-]+(:\d{1,5})?(/[A-Za-z0-9._~-]+)*/?|https?://\[[0-9a-fA-F:]+\](:\d{1,5})?(/[A-Za-z0-9._~-]+)*/?"
)
NAMESPACE = Type("the name of a network namespace", lambda words: _file_name(words, "the name of a network namespace"))
OTHER_NAMESPACE = Type(f"[{NAMESPACE.syntax}]", lambda words: NAMESPACE.parse(words) if words else "")
INSTANCE = Type("the name of an instance", lambda words: _file_name(words, "the name of an instance"))
UMASK = Type("a number, or names of mode bits such as IWGRP|IWOTH", _umask)
BUS_NAME = Type("a name on the bus: org.example.Name", _bus_name)
PATH_ELEMENT = Type("a string", _path_element)
AGENTX = Type("unix:PATH|tcp:HOST:PORT", _agentx)
MAIL_SERVER = Type("ADDRESS|NAME [PORT]", _mail_server)
NETWORKS = Type("ADDRESS[/LENGTH] ...", _networks)
MAIL_TIMEOUT = Type(seconds(0.000001).syntax, _mail_timeout)
FIFO = Type("a path [user [group]]", _fifo)
CPUS = Type("CPU [CPU ...]", _cpus)
TIMEOUTS = Type("[tcp SECONDS] [tcpfin SECONDS] [udp SECONDS]", _timeouts)
FLUSH_ON_STOP = Type("[VS]", _flush_on_stop)
