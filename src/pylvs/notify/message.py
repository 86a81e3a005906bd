"""An alert as a message (RFC 5322)."""

from __future__ import annotations

from email.headerregistry import HeaderRegistry
from email.message import EmailMessage
from email.policy import EmailPolicy
from email.utils import formatdate

from pylvs.model.wanted import Mail
from pylvs.notify.mail import Alert
from pylvs.system.logs import one_line


def message(alert: Alert, mail: Mail) -> bytes:
    """Return the message, before the doubling of dots."""
    try:
        return _written(alert, mail, EmailPolicy())
    except Exception:  # of malformed addresses: IndexError and others. As with keepalived, the mail server decides
        return _written(alert, mail, _unparsed())


def _unparsed() -> EmailPolicy[EmailMessage]:
    """Return a policy that takes addresses as any text."""
    registry = HeaderRegistry()
    for name in "from", "to":
        del registry.registry[name]  # leaves the class of headers without a syntax
    return EmailPolicy(header_factory=registry)


def _written(alert: Alert, mail: Mail, policy: EmailPolicy[EmailMessage]) -> bytes:
    made = EmailMessage(policy)
    made["Date"] = formatdate(alert.at, localtime=True)
    made["From"] = one_line(mail.sender)
    made["Subject"] = one_line(alert.subject)
    made["X-Mailer"] = "pylvs"
    made["To"] = ", ".join(map(one_line, mail.recipients))
    made.set_content(f"=> {one_line(alert.body)} <=\n")
    return made.as_bytes(policy=policy.clone(linesep="\r\n", max_line_length=998))
