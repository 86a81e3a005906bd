"""`global_defs`, as far as checks, scripts and the table are concerned. VRRP's words are in `vrrp_globals.py`."""

from __future__ import annotations

from pylvs.config.schema.nouns import Block, Keyword, State
from pylvs.config.schema.types import BOOLEAN, FLAG, TEXT, Integer, Seconds, Text

EMAIL = Block("notification_email", "whom alerts are mailed to, one address a line", lines=Text("a mail address"))

KEYWORDS: tuple[Keyword | Block, ...] = (
    EMAIL,
    Keyword("notification_email_from", Text("a mail address"), "sender of alerts", default_doc="keepalived@HOST"),
    Keyword("smtp_helo_name", TEXT, "name in HELO", default_doc="the host's name"),
    Keyword("smtp_connect_timeout", Seconds(0.000001), "how long the mail server may take", default=30.0),
    Keyword("smtp_alert", BOOLEAN, "mail alerts of everything, unless it says otherwise", default=False),
    Keyword("smtp_alert_checker", BOOLEAN, "mail alerts of real servers and services", default_doc="smtp_alert"),
    Keyword("router_id", TEXT, "this machine's name in alerts", default_doc="the host's name"),
    Keyword("checker_log_all_failures", BOOLEAN, "log each failed check, not only the last", default=False),
    Keyword("enable_script_security", FLAG, "run no script as root that others than root can change", default=False),
    Keyword("checker_priority", Integer(-20, 19), "nice value of the checks", default=0),
    Keyword("process_names", FLAG, "keepalived's process names", state=State.NEEDLESS),
)
GLOBAL_DEFS = Block("global_defs", "settings of the whole daemon", KEYWORDS)
