"""VRRP: which of several directors holds the virtual addresses (RFC 9568, RFC 3768)."""

SOCKET_NAME = "vrrp"  # of pylvs-vrrp, in the state directory
PID_FILE = "vrrp.pid"
