"""The process that delivers one mail: `python -m pylvs.notify`.

It parses the replies of a mail server, so it has no privileges (`pylvs.system.sandbox`). It keeps the file system,
because the resolver reads /etc. On standard output it writes `greeting`, and then its result. Between them it reads the
mail from standard input.
"""

from __future__ import annotations

import asyncio
import concurrent.futures.thread  # noqa: F401 - asyncio resolves names in a thread, and would import it too late
import json
import os
import sys
from typing import Any

from pylvs.model.wanted import Mail
from pylvs.notify.smtp import PROTOCOL, Refused, deliver
from pylvs.system import sandbox, syscalls
from pylvs.system.processes import channel

NAME = b"pylvs-mail"  # shown by ps and top
_DESCRIPTORS, _MEMORY = 64, 256 << 20


def main() -> None:
    """Deliver a mail for the process at the other end of the pipes."""
    syscalls.prctl(syscalls.PR_SET_NAME, NAME)
    "a".encode("idna")  # loads the codec of names
    _write(channel.greeting(sandbox.confine(_DESCRIPTORS, _MEMORY, file_system=True), PROTOCOL))
    request = sys.stdin.buffer.read()
    if request:
        asyncio.run(_deliver(json.loads(request)))


async def _deliver(request: dict[str, Any]) -> None:
    mail = Mail(**request["mail"] | {"recipients": tuple(request["mail"]["recipients"])})
    try:
        _write({"refused": await deliver(request["message"].encode("latin-1"), mail)})
    except Refused as error:
        _write({"reason": str(error)})
    os._exit(0)  # a thread may still resolve a name


def _write(message: channel.Message) -> None:
    sys.stdout.buffer.write(json.dumps(message).encode() + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
