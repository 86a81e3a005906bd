"""What programs that use pylvs need to test themselves: a Director that lives in memory."""

from __future__ import annotations

from pylvs.testing.memory import MemoryDirector

__all__ = ["MemoryDirector"]
