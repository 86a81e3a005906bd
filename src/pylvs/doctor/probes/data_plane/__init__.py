"""This host as a director: what is attached, what is before it, and the settings that the packet path depends on."""

from __future__ import annotations

from pylvs.doctor.probes.data_plane import attachment, settings

PROBES = (attachment.findings, settings.findings)
