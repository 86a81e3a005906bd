"""This host as a real server: a host without tables."""

from __future__ import annotations

from pylvs.doctor.probes.real_server import (
    address,
    application,
    devices,
    filter,
    limits,
    reply,
    requests,
    translation,
    tunnel,
)

PROBES = (
    *(address.findings, application.findings, devices.findings, filter.findings, limits.findings),
    *(reply.findings, requests.findings, translation.findings, tunnel.findings),
)
