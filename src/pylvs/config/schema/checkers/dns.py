"""`DNS_CHECK`: a name server answers over UDP without an error."""

from __future__ import annotations

from pylvs.config.schema.checkers.target import TARGET
from pylvs.config.schema.nouns import BadValue, Block, Keyword, Twice, Type, Words
from pylvs.config.schema.pace import checker_timing
from pylvs.config.schema.types import choice
from pylvs.model.dataclass import dataclass

DNS_RETRY = 3
LONGEST_LABEL = 63
LONGEST_NAME = 253


@dataclass(frozen=True, slots=True)
class DomainName(Type[str]):
    """A domain name; "." is the root."""

    def parse(self, words: Words) -> str:
        """The name."""
        word = words.take("a domain name")
        labels = word.text.removesuffix(".").split(".")
        if word.text != "." and not all(1 <= len(label.encode()) <= LONGEST_LABEL for label in labels):
            raise BadValue(f"'{word.text}' is not a domain name", f"each label has 1 to {LONGEST_LABEL} bytes", word)
        if len(word.text.encode()) > LONGEST_NAME + 1:
            raise BadValue(f"a domain name has at most {LONGEST_NAME} bytes", "write a shorter one", word)
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
            "type of the question",
            default="SOA",
        ),
        Keyword("name", DomainName(), "name that is asked for", default="."),
        *TARGET,
        *checker_timing(retry=DNS_RETRY, delay_before_retry=None),
    ),
    twice=Twice.MANY,
)
