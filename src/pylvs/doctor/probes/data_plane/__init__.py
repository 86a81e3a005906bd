"""This host as a director: what is attached, what is before it, and the settings that the packet path depends on."""

from __future__ import annotations

from pylvs.doctor.probes.data_plane import attachment, egress, empty, move, replies, settings, vlans

PROBES = (
    attachment.findings,
    egress.egress_findings,
    empty.findings,
    move.findings,
    replies.findings,
    settings.findings,
    vlans.findings,
)
