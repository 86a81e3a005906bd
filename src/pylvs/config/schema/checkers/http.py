"""`HTTP_GET` and `SSL_GET`: every page answers as it should."""

from __future__ import annotations

import re

from pylvs.config.schema.checkers.target import TARGET
from pylvs.config.schema.nouns import Block, Keyword, State, Twice, Type, Words, Wrong
from pylvs.config.schema.pace import MOST_RETRIES, pace
from pylvs.config.schema.types import FLAG, TEXT, Integer, Text, Texts, choice, did_you_mean
from pylvs.model.dataclass import dataclass
from pylvs.system.pcre2 import OPTIONS

DELAY_BEFORE_RETRY_S = 3.0
CODE = re.compile(r"[1-5][0-9]{2}\Z")
ALL_GOOD = ((200, 299),)


@dataclass(frozen=True, slots=True)
class StatusCodes(Type[tuple[tuple[int, int], ...]]):
    """Codes and ranges of codes, 100 to 599 each."""

    def parse(self, words: Words) -> tuple[tuple[int, int], ...]:
        """First and last of each range; a word that is none is left out with a complaint."""
        found = []
        wrong: Wrong | None = None
        for word in words.rest():
            first, _, last = word.text.partition("-")
            codes = [int(each) if CODE.match(each) else 0 for each in (first, last or first)]
            if not 0 < codes[0] <= codes[1]:
                wrong = Wrong(f"'{word.text}' is not a status code", "such as 200, or 200-299", word)
                words.warn(word, wrong.text, wrong.advice)
            else:
                found.append((codes[0], codes[1]))
        if not found and wrong is None:
            words.take("a status code")
        return tuple(found) or ALL_GOOD

    def __str__(self) -> str:
        return "CODE | FIRST-LAST ..."


@dataclass(frozen=True, slots=True)
class Digest(Type[str]):
    """An MD5 sum in hexadecimal."""

    def parse(self, words: Words) -> str:
        """The digest in lower case."""
        word = words.take("an MD5 sum")
        if not re.fullmatch(r"[0-9a-fA-F]{32}", word.text):
            raise Wrong(f"'{word.text}' is not an MD5 sum", "32 hexadecimal digits, as md5sum prints them", word)
        return word.text.lower()

    def __str__(self) -> str:
        return "an MD5 sum in hexadecimal"


@dataclass(frozen=True, slots=True)
class RegexOptions(Type[tuple[str, ...]]):
    """PCRE2's options by keepalived's names."""

    def parse(self, words: Words) -> tuple[str, ...]:
        """Those that there are; a word that is none is left out with a complaint."""
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
    "one page, and what makes its answer good; all that is given must hold",
    (
        Keyword("path", Text("a path"), "what is asked for"),
        Keyword("digest", Digest(), "MD5 sum of the body", default=""),
        Keyword("status_code", StatusCodes(), "codes that are good", default=ALL_GOOD),
        Keyword("virtualhost", TEXT, "name that is asked for", inherited=True),
        Keyword(
            "regex", Text("a regular expression"), "what must be found in the body, or in head and body", default=""
        ),
        Keyword("regex_no_match", FLAG, "the body must not match", default=False),
        Keyword("regex_options", RegexOptions(), "how the expression is read", default=()),
        Keyword("regex_min_offset", OFFSET, "byte at which a match may begin first", default=0),
        Keyword("regex_max_offset", OFFSET, "byte at which a match may begin last; 0: anywhere", default=0),
        Keyword("regex_stack", Texts(), "memory of PCRE2", state=State.NEEDLESS),
        Keyword("tls_compliant", FLAG, "send close_notify at the end of TLS", default=False, since="0.2"),
    ),
    twice=Twice.MANY,
)
NB_GET_RETRY = Keyword(
    "nb_get_retry",
    Integer(0, MOST_RETRIES),
    "the old word for retry",
    is_now="retry",
)
PROTOCOL = choice("1.0", "1.0C", "1.0K", "1.1", "1.1C", "1.1K", any_case=True)
COMMON: tuple[Keyword | Block, ...] = (
    URL,
    Keyword(
        "http_protocol",
        PROTOCOL,
        "version, and whether the connection closes",
        "1.0",
    ),
    Keyword("fast_recovery", FLAG, "no delay between the pages while the server comes back", default=False),
    Keyword("virtualhost", TEXT, "name that is asked for", inherited=True),
    *TARGET,
    *pace(delay_before_retry=DELAY_BEFORE_RETRY_S, nb_get_retry=NB_GET_RETRY),
)
ENABLE_SNI = Keyword("enable_sni", FLAG, "send the virtual host's name when TLS begins", default=False)
SNI_NAME = Keyword("sni_name", TEXT, "send this name when TLS begins", default="", since="0.2")
HTTP_GET = Block("HTTP_GET", "every page answers as it should", (*COMMON, ENABLE_SNI, SNI_NAME), twice=Twice.MANY)
SSL_GET = Block(
    "SSL_GET", "the same over TLS; the certificate is not verified", (*COMMON, ENABLE_SNI, SNI_NAME), twice=Twice.MANY
)
