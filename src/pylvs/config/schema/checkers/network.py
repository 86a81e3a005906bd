"""Checkers that probe the server over the network, with up or down as result."""

from __future__ import annotations

import re

from pylvs.config.schema.checkers.common import CONNECTION, MAX_RETRIES, TARGET, checker_timing
from pylvs.config.schema.grammar import BadValue, Block, Keyword, State, Twice, Type, Words
from pylvs.config.schema.types import FLAG, TEXT, Integer, Text, Texts, choice, did_you_mean
from pylvs.model.checks import Pattern
from pylvs.model.dataclass import dataclass
from pylvs.system.pcre2 import OPTIONS

TCP_CHECK = Block("TCP_CHECK", "a TCP connection can be established", (*TARGET, *checker_timing()), twice=Twice.MANY)
PING_CHECK = Block("PING_CHECK", "an ICMP echo is answered", (*CONNECTION, *checker_timing()), twice=Twice.MANY)


@dataclass(frozen=True, slots=True)
class HexBytes(Type[Pattern]):
    """Bytes in hexadecimal, two digits each; the last byte of a word may have one digit.

    `wild` allows X for any digit; `empty` allows the keyword alone.
    """

    wild: bool = False
    empty: bool = False

    def parse(self, words: Words) -> Pattern:
        """Return the bytes, and a mask of the bits that count."""
        if not words and not self.empty:
            words.take("bytes in hexadecimal")
        value, mask = bytearray(), bytearray()
        for word in words.rest():
            digits = word.text.lower()
            if not digits or set(digits) - set("0123456789abcdef" + ("x" if self.wild else "")):
                raise BadValue(f"'{word.text}' is not hexadecimal", str(self), word)
            for at in range(0, len(digits), 2):
                pair = digits[at : at + 2].rjust(2, "0")
                value.append(int(pair.replace("x", "0"), 16))
                mask.append(int("".join("0" if digit == "x" else "f" for digit in pair), 16))
        return Pattern(bytes(value), bytes(mask))

    def __str__(self) -> str:
        text = "bytes in hexadecimal" + (", X for any digit" if self.wild else "")
        return f"[{text}]" if self.empty else text


LENGTH = Integer(0, 65535)
UDP_CHECK = Block(
    "UDP_CHECK",
    "a datagram is not refused; or, with require_reply, it is answered",
    (
        Keyword("payload", HexBytes(), "bytes to send", default=Pattern(), default_doc="some random bytes"),
        Keyword("require_reply", HexBytes(wild=True, empty=True), "require an answer that begins with these bytes"),
        Keyword("min_reply_length", LENGTH, "minimum length of the answer", default=0),
        Keyword("max_reply_length", LENGTH, "maximum length of the answer", default=255),
        *TARGET,
        *checker_timing(),
    ),
    twice=Twice.MANY,
)


DNS_RETRY = 3
MAX_LABEL = 63
MAX_NAME = 253


@dataclass(frozen=True, slots=True)
class DomainName(Type[str]):
    """A domain name; "." is the root."""

    def parse(self, words: Words) -> str:
        word = words.take("a domain name")
        labels = word.text.removesuffix(".").split(".")
        if word.text != "." and not all(1 <= len(label.encode()) <= MAX_LABEL for label in labels):
            raise BadValue(f"'{word.text}' is not a domain name", f"each label has 1 to {MAX_LABEL} bytes", word)
        if len(word.text.encode()) > MAX_NAME + 1:
            raise BadValue(f"a domain name has at most {MAX_NAME} bytes", "write a shorter one", word)
        return word.text

    def __str__(self) -> str:
        return "a domain name"


DNS_CHECK = Block(
    "DNS_CHECK",
    "a name server answers over UDP without an error",
    (
        Keyword(
            "type",
            choice("A", "NS", "CNAME", "SOA", "MX", "TXT", "AAAA", any_case=True),
            "type of the query",
            default="SOA",
        ),
        Keyword("name", DomainName(), "requested name", default="."),
        *TARGET,
        *checker_timing(retry=DNS_RETRY, delay_before_retry=None),
    ),
    twice=Twice.MANY,
)


HOST = Block("host", "deprecated: another address that must answer too", CONNECTION, twice=Twice.MANY)
SMTP_CHECK = Block(
    "SMTP_CHECK",
    "a mail server greets, and answers HELO and QUIT",
    (
        Keyword("helo_name", TEXT, "name in the HELO command", default="smtpchecker.keepalived.org"),
        HOST,
        *TARGET,
        *checker_timing(),
    ),
    twice=Twice.MANY,
)


HTTP_DELAY_BEFORE_RETRY_S = 3.0
CODE = re.compile(r"[1-5][0-9]{2}\Z")
ALL_GOOD = ((200, 299),)


@dataclass(frozen=True, slots=True)
class StatusCodes(Type[tuple[tuple[int, int], ...]]):
    """HTTP status codes and ranges of them; invalid ones are ignored with a warning."""

    def parse(self, words: Words) -> tuple[tuple[int, int], ...]:
        """Return the first and last code of each range."""
        found = []
        for word in (words.take("a status code"), *words.rest()):
            first, _, last = word.text.partition("-")
            codes = [int(each) if CODE.match(each) else 0 for each in (first, last or first)]
            if 0 < codes[0] <= codes[1]:
                found.append((codes[0], codes[1]))
            else:
                words.warn(word, f"'{word.text}' is not a status code", "such as 200, or 200-299")
        return tuple(found) or ALL_GOOD

    def __str__(self) -> str:
        return "CODE | FIRST-LAST ..."


@dataclass(frozen=True, slots=True)
class Digest(Type[str]):
    """An MD5 sum in hexadecimal."""

    def parse(self, words: Words) -> str:
        word = words.take("an MD5 sum")
        if not re.fullmatch(r"[0-9a-fA-F]{32}", word.text):
            raise BadValue(f"'{word.text}' is not an MD5 sum", "32 hexadecimal digits, as md5sum prints them", word)
        return word.text.lower()

    def __str__(self) -> str:
        return "an MD5 sum in hexadecimal"


@dataclass(frozen=True, slots=True)
class RegexOptions(Type[tuple[str, ...]]):
    """PCRE2's options by keepalived's names; unknown ones are ignored with a warning."""

    def parse(self, words: Words) -> tuple[str, ...]:
        found = []
        for word in words.rest():
            if word.text in OPTIONS:
                found.append(word.text)
            else:
                near = did_you_mean(word.text, list(OPTIONS))
                words.warn(word, f"there is no regex option '{word.text}'; it is ignored", near)
        return tuple(found)

    def __str__(self) -> str:
        return "options of PCRE2, such as caseless, multiline, dotall"


OFFSET = Integer(0)
URL = Block(
    "url",
    "a URL and the conditions of its answer, all of which must hold",
    (
        Keyword("path", Text("a path"), "requested path"),
        Keyword("digest", Digest(), "MD5 sum of the body", default=""),
        Keyword("status_code", StatusCodes(), "accepted status codes", default=ALL_GOOD),
        Keyword("virtualhost", TEXT, "requested name", inherited=True),
        Keyword("regex", Text("a regular expression"), "regular expression that the answer must match", default=""),
        Keyword("regex_no_match", FLAG, "the body must not match", default=False),
        Keyword("regex_options", RegexOptions(), "options of the regular expression", default=()),
        Keyword("regex_min_offset", OFFSET, "first byte at which a match may begin", default=0),
        Keyword("regex_max_offset", OFFSET, "last byte at which a match may begin; 0: anywhere", default=0),
        Keyword("regex_stack", Texts(), "memory of PCRE2", state=State.IGNORED),
        Keyword(
            "tls_compliant", FLAG, "send close_notify at the end of the TLS connection", default=False, since="0.2"
        ),
    ),
    twice=Twice.MANY,
)
HTTP_NB_GET_RETRY = Keyword("nb_get_retry", Integer(0, MAX_RETRIES), "deprecated name of retry", is_now="retry")
PROTOCOL = choice("1.0", "1.0C", "1.0K", "1.1", "1.1C", "1.1K", any_case=True)
HTTP_KEYWORDS: tuple[Keyword | Block, ...] = (
    URL,
    Keyword("http_protocol", PROTOCOL, "HTTP version, and whether the connection closes", default="1.0"),
    Keyword("fast_recovery", FLAG, "check the URLs without delay while the server recovers", default=False),
    Keyword("virtualhost", TEXT, "requested name", inherited=True),
    *TARGET,
    *checker_timing(delay_before_retry=HTTP_DELAY_BEFORE_RETRY_S, nb_get_retry=HTTP_NB_GET_RETRY),
    Keyword("enable_sni", FLAG, "send the virtual host's name in the TLS handshake (SNI)", default=False),
    Keyword("sni_name", TEXT, "send this name in the TLS handshake (SNI)", default="", since="0.2"),
)
HTTP_GET = Block("HTTP_GET", "every URL answers as configured", HTTP_KEYWORDS, twice=Twice.MANY)
SSL_GET = Block("SSL_GET", "HTTP_GET over TLS; the certificate is not verified", HTTP_KEYWORDS, twice=Twice.MANY)
BFD_CHECK = Block(
    "BFD_CHECK",
    "the state of a BFD session",
    (Keyword("name", TEXT, "name of the bfd_instance"), Keyword("alpha", FLAG, "start in state down", default=False)),
    state=State.LATER,
    instead="this check is left out; use PING_CHECK or TCP_CHECK",
    twice=Twice.MANY,
)
