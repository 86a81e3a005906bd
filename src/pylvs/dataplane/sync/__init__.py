"""Connections that this director announces to others, and those that others announce to it."""
