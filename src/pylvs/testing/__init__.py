"""Fakes for tests of programs that use pylvs: a Director and VRRP roles in memory."""

from __future__ import annotations

from pylvs.testing.memory import MemoryDirector, MemoryRoles

__all__ = ["MemoryDirector", "MemoryRoles"]
