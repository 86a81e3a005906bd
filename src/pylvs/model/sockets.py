"""The part of the module socket that is written in C, for commands that start often.

The module socket turns its constants into enumerations and imports selectors; that takes longer than a whole edit.
"""

from __future__ import annotations

from _socket import *  # noqa: F403  # this module stands for the whole other one
