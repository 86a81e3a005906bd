"""The words of mail in `global_defs`."""

from __future__ import annotations

from pylvs.config.schema.nouns import BadValue, Block, Keyword, Type, Words
from pylvs.config.schema.types import FLAG, TEXT, Seconds, Text, Texts, port_of
from pylvs.model.dataclass import dataclass

SMTP_PORT = 25


@dataclass(frozen=True, slots=True)
class MailServer(Type[tuple[str, int]]):
    """An address or a name, and a port."""

    def parse(self, words: Words) -> tuple[str, int]:
        """Server and port."""
        word = words.take("a mail server")
        server = word.text
        if server.count(":") == 1:
            host, _, port = server.partition(":")
            raise BadValue(f"'{server}' is neither an address nor a name", f"write '{host} {port}'", word)
        return server, port_of(words.take("")) if words else SMTP_PORT

    def __str__(self) -> str:
        return "ADDRESS|NAME [PORT]"


MAIL: tuple[Keyword | Block, ...] = (
    Block(
        "notification_email",
        "whom alerts are mailed to; without it nothing is mailed",
        lines=Texts("mail addresses", least=1),
    ),
    Keyword("notification_email_from", Text("a mail address"), "sender of alerts", default_doc="keepalived@HOST"),
    Keyword("smtp_server", MailServer(), "where mail is handed in", default=("127.0.0.1", SMTP_PORT)),
    Keyword("smtp_helo_name", TEXT, "name in HELO", default_doc="the host's name"),
    Keyword("smtp_connect_timeout", Seconds(0.000001), "how long the mail server may take", default=30.0),
    Keyword("smtp_alert", FLAG, "mail alerts of everything, unless it says otherwise"),
    Keyword("smtp_alert_checker", FLAG, "mail alerts of real servers and services", default_doc="smtp_alert"),
)
