"""`SMTP_CHECK`: a mail server greets, and answers HELO and QUIT."""

from __future__ import annotations

from pylvs.config.schema.checkers.target import CONNECTION, TARGET
from pylvs.config.schema.nouns import Block, Keyword, Twice
from pylvs.config.schema.pace import checker_timing
from pylvs.config.schema.types import TEXT

HOST = Block("host", "another address that must answer as well; the old way to write it", CONNECTION, twice=Twice.MANY)
SMTP_CHECK = Block(
    "SMTP_CHECK",
    "a mail server greets, and answers HELO and QUIT",
    (
        Keyword("helo_name", TEXT, "name in HELO", default="smtpchecker.keepalived.org"),
        HOST,
        *TARGET,
        *checker_timing(),
    ),
    twice=Twice.MANY,
)
