"""VRRP: which of several directors holds the virtual addresses (RFC 9568, RFC 3768)."""
