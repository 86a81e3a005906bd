"""What programs that use pylvs need to test themselves: a Director, and virtual routers' roles, that live in memory."""

from __future__ import annotations

from pylvs.testing.memory import MemoryDirector
from pylvs.testing.roles import MemoryRoles

__all__ = ["MemoryDirector", "MemoryRoles"]
