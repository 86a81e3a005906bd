"""Requests to pylvs-vrrp, and the socket that takes them."""
