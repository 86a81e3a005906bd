"""The checkers' words, one table a file. A new checker is its file and one line here."""

from __future__ import annotations

from pylvs.config.schema.checkers.agent import AGENT_CHECK
from pylvs.config.schema.checkers.bfd import BFD_CHECK
from pylvs.config.schema.checkers.dns import DNS_CHECK
from pylvs.config.schema.checkers.file import FILE_CHECK
from pylvs.config.schema.checkers.http import HTTP_GET, SSL_GET
from pylvs.config.schema.checkers.load import LOAD_CHECK
from pylvs.config.schema.checkers.misc import MISC_CHECK
from pylvs.config.schema.checkers.ping import PING_CHECK
from pylvs.config.schema.checkers.smtp import SMTP_CHECK
from pylvs.config.schema.checkers.tcp import TCP_CHECK
from pylvs.config.schema.checkers.udp import UDP_CHECK

CHECKERS = (
    TCP_CHECK,
    HTTP_GET,
    SSL_GET,
    SMTP_CHECK,
    DNS_CHECK,
    MISC_CHECK,
    UDP_CHECK,
    PING_CHECK,
    FILE_CHECK,
    BFD_CHECK,
    AGENT_CHECK,
    LOAD_CHECK,
)
