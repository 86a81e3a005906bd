"""The schedulers by name (IPVS-SEMANTICS 3): each class in a module of this package registers itself."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from pylvs.reference.schedulers.weighted import SCHEDULERS, Flow, Scheduler

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["SCHEDULERS", "Flow", "Scheduler"]
