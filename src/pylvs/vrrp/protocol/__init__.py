"""VRRP without I/O: packets and the state machine."""
