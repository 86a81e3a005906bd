"""`python -m pylvs.vrrp.aide FD LOG_FORMAT`: how the router process starts it, with its end of a socket pair."""

from __future__ import annotations

import os
import socket
import sys
from typing import cast

from pylvs.system import logs
from pylvs.vrrp.aide.aide import main

if __name__ == "__main__":
    logs.set_up(cast(logs.Format, sys.argv[2]))
    with socket.socket(fileno=int(sys.argv[1])) as channel:
        channel.set_inheritable(False)
        main(channel)
    os._exit(0)  # no thread that still asks somebody for a name is waited for
