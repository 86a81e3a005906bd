"""VRRP without I/O: packets, the state machine, frames of ARP and NDP."""
