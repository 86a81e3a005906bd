"""Connections that come from another data plane, and those that go to one."""
