"""This host as a real server of direct routing or tunnelling: a host without tables."""

from __future__ import annotations

from pylvs.doctor.probes.real_server import address, application, devices, filter, reply, tunnel

PROBES = (address.findings, application.findings, devices.findings, filter.findings, reply.findings, tunnel.findings)
