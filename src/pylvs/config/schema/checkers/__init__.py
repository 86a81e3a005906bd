"""The checkers' keywords. A new checker is a block in one of these files, or in its own, and one line here."""

from __future__ import annotations

from pylvs.config.schema.checkers.network import (
    BFD_CHECK,
    DNS_CHECK,
    HTTP_GET,
    PING_CHECK,
    SMTP_CHECK,
    SSL_GET,
    TCP_CHECK,
    UDP_CHECK,
)
from pylvs.config.schema.checkers.weighted import AGENT_CHECK, FILE_CHECK, LOAD_CHECK, MISC_CHECK

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
