"""What the state directory has of services: those that the daemon owns, and the operator's overrides."""

from __future__ import annotations

from collections.abc import Mapping

from pylvs.daemon.state.directory import OVERRIDES_FILE, SERVICES_FILE, StateDirectory
from pylvs.health.events import Override, ServerName, ServiceIdentity
from pylvs.model.dataclass import dataclass, field
from pylvs.model.plain import from_plain, to_plain
from pylvs.model.service import DestinationKey, ServiceKey

OwnedServices = Mapping[ServiceKey, frozenset[DestinationKey]]  # services of the daemon with their configured servers


@dataclass(frozen=True, slots=True)
class SavedOverrides:
    """The operator's overrides, and the services that have them, by name."""

    overrides: Mapping[ServerName, Override] = field(default_factory=dict)
    services: Mapping[str, ServiceIdentity] = field(default_factory=dict)


def save_overrides(state: StateDirectory, saved: SavedOverrides) -> None:
    """Write the overrides. Raises PylvsError."""
    state.write(OVERRIDES_FILE, to_plain(saved) if saved.overrides else None)


def load_overrides(state: StateDirectory) -> SavedOverrides:
    """Return the overrides of the last daemon. Raises PylvsError."""
    with state.decoding(OVERRIDES_FILE) as saved:
        return SavedOverrides() if saved is None else from_plain(SavedOverrides, saved)


def save_owned(state: StateDirectory, owned: OwnedServices) -> None:
    """Write the owned services. Raises PylvsError."""
    state.write(SERVICES_FILE, to_plain(owned, OwnedServices))


def load_owned(state: StateDirectory) -> OwnedServices:
    """Return the services of a daemon that was killed; none after an orderly stop. Raises PylvsError."""
    with state.decoding(SERVICES_FILE) as saved:
        return {} if saved is None else from_plain(OwnedServices, saved)
