"""A machine without descriptors or memory: system calls that fail."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import NoReturn

SHORTAGES = [errno.EMFILE, errno.ENFILE, errno.ENOMEM]


def failing(number: int) -> Callable[..., NoReturn]:
    """Return a system call that fails with this errno."""

    def fail(*_: object, **__: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return fail
